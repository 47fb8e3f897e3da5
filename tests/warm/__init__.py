"""Processes that begin with the dear imports done: forks of one that has imported them.

A command of this package imports torch, which takes seconds of processor time. Tests that are about
what a command does, and not about how a process starts, run it as a fork of a server: a process of
its own, with its own folder, environment, standard streams and exit status.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).parent
ROOT = Path(__file__).parents[2]


@contextlib.contextmanager
def warm_python(**variables: str) -> Iterator[list[str]]:
    """A server, and what stands for ``python`` before ``-m MODULE`` or ``-c CODE`` and arguments.

    Args:
        variables: Set in the server's environment, besides those of this process.

    Yields:
        The words.

    Whoever runs them gives folder, environment and streams as to any process. Signals reach the
    client alone: the fork is killed when its client has gone.
    """
    # The path of a socket is short.
    folder = tempfile.mkdtemp(prefix="warm-")
    address = str(Path(folder) / "socket")
    command = [sys.executable, "-m", "tests.warm.server", address]
    server = subprocess.Popen(
        command, cwd=ROOT, env={**os.environ, **variables}, stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )  # fmt: skip
    assert server.stdout is not None
    try:
        assert server.stdout.readline() == b"ready\n"
        # Without the folders of packages, which the client doesn't need, it starts at once.
        yield [sys.executable, "-SEP", str(HERE / "client.py"), address]
    finally:
        server.terminate()
        server.wait()
        server.stdout.close()
        shutil.rmtree(folder)
