"""Eight threads that call for long get right values, and memory does not grow.

The kit is ``soak``; ``FORWARDCACHE_CALLS`` makes it longer.
"""

import os
import subprocess
import sys

from tests import proof
from tests.trace.fork_server import ROOT

CALLS = proof.knob("CALLS", 1_000_000)


def test_a_million_calls_leave_memory_as_it_was() -> None:
    command = [sys.executable, "-m", "tests.instrumentation.soak", str(CALLS), str(proof.SEED)]
    ran = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "MALLOC_ARENA_MAX": "1"},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    print(ran.stdout)
    proof.done["calls"] += int(ran.stdout.split()[0])
