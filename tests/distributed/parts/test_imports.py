"""Claims: the driver of a job whose workers write imports neither torch nor what only workers and
stores need: one core carries hundreds of workers.
"""

from __future__ import annotations

import subprocess
import sys

DRIVER = """
import sys
import forwardcache.cli.score_parts, forwardcache.distributed.local
import forwardcache.distributed.scoring
import forwardcache.distributed.parts.job, forwardcache.distributed.parts.lock
import forwardcache.distributed.parts.opening, forwardcache.jobs.prompt_source.plan
heavy = {"torch", "transformers", "ray", "pyarrow", "fsspec", "s3fs", "polars"}
print(sorted(heavy & set(sys.modules)))
"""


def test_the_driver_imports_nothing_heavy() -> None:
    command = [sys.executable, "-c", DRIVER]
    assert subprocess.check_output(command, text=True) == "[]\n"
