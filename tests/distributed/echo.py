"""Workers without a model, for crews of processes: each can be imported by its name."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

from forwardcache.distributed.wire import reply

SAID = ["both say so"]


class Shares:
    """A worker's part of tasks of which a slow worker does fewer, however the two are scheduled."""

    _number: int

    def share(self, task: bytes) -> bytes:
        """Says who it is; the slow one is done when another has done three for each of its own."""
        slow, folder, number = json.loads(task)
        mine = Path(folder, f"done by {self._number}")
        with mine.open("ab") as done:
            done.write(b".")
        if self._number == slow:
            while 3 * mine.stat().st_size > sum(path.stat().st_size for path in others_of(mine)):
                time.sleep(0.001)
        return reply(lambda: [self._number, number])


def others_of(mine: Path) -> list[Path]:
    return [path for path in mine.parent.iterdir() if path != mine]


class Echo(Shares):
    """Says what it was given, and who it is."""

    def __init__(self, options: bytes) -> None:
        self._number = int(options)

    def load(self) -> bytes:
        given = {name: os.environ.get(name) for name in ("OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")}
        print("to standard output")
        return reply(
            lambda: {"pid": os.getpid(), "given": given, "path": sys.path, "warnings": SAID}
        )

    def echo(self, task: bytes) -> bytes:
        return reply(lambda: [self._number, json.loads(task)])

    def hang(self, task: bytes) -> bytes:
        """Who is the first to find a file that says so hangs until it is gone; others don't."""
        path = Path(json.loads(task))
        if path.read_text() == "hang" and is_first(path):
            while path.exists():
                time.sleep(0.01)
        return reply(lambda: self._number)

    def die(self, task: bytes) -> bytes:
        """Dies over a file that isn't there, and makes it if it can."""
        path = Path(json.loads(task))
        if not path.exists():
            if path.parent.exists():
                path.touch()
            print("first\n  the last words  \n", file=sys.stderr)
            os.kill(os.getpid(), signal.SIGKILL)
        return reply(lambda: path.name)

    def size(self, task: bytes) -> bytes:
        return len(task).to_bytes(8, "big") + task

    def close(self) -> bytes:
        return reply(lambda: {"missing_events": 5, "warnings": ["both say so at the end"]})


def is_first(path: Path) -> bool:
    """Whether nobody has asked this of a file before, of whatever processes."""
    try:
        path.with_name(f"{path.name}, found").touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


class Broken(Echo):
    """Can't even be made."""

    def __init__(self, options: bytes) -> None:
        raise ImportError(f"no library for worker {options.decode()}")
