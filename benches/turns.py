"""One measurement with the packages of several builds, in processes of their own that take turns.

A build is a folder of sources with its core in it::

    git worktree add --detach FOLDER 0df6753 && cd FOLDER
    cargo build --release --features python --lib
    cp target/release/libforwardcache.so python/forwardcache/_core.abi3.so

What measures is always this tree's, whichever package it measures.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).parent.parent
# One thread computes, and none waits by burning a core.
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}

Figures = list[float]
"""What one process prints: numbers with spaces between them."""


def in_turn(
    module: str, sources: Sequence[Path], rounds: int, arguments: Sequence[str] = ()
) -> list[list[Figures]]:
    """What ``python -m MODULE ARGUMENTS`` prints with the package of each source, round by round.

    Args:
        module: Prints numbers and nothing else: "benches.busy_writer".
        sources: Folders of sources with their cores; which of them begins turns by one a round.
        rounds: Processes of each.
        arguments: The module's.

    Returns:
        For each source its rounds.
    """
    taken: list[list[Figures]] = [[] for _ in sources]
    for each in range(rounds):
        for at in range(len(sources)):
            which = (each + at) % len(sources)
            taken[which].append(_figures(module, sources[which], arguments))
    return taken


def _figures(module: str, source: Path, arguments: Sequence[str]) -> Figures:
    # The first of the two has the package, the second what measures it.
    path = os.pathsep.join([str(source.resolve() / "python"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments],
        cwd=ROOT,
        env={**os.environ, **_ONE_THREAD, "PYTHONPATH": path},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [float(word) for word in done.stdout.split()]
