"""Claims: a job whose workers write ends in the file of one process when workers or the driver are
killed in the middle. ``make kill-parts`` does that 500 times, with Ray.
"""

from __future__ import annotations

import subprocess
import sys

from tests.docs.page import ROOT


def test_a_job_that_is_killed_ends_as_that_of_one_process() -> None:
    # Processes of its own: it forks, and this one has threads.
    command = [sys.executable, "-m", "tools.kill_parts", "--local", "--kills", "2", "--seed", "5"]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "2 kills" in ended.stdout.splitlines()[-1]
