"""What a process says about itself in a shared mapping, which outlives the process."""

import mmap
import time
from enum import IntEnum
from pathlib import Path
from typing import Self

from tests.patience import HANG_S

SIZE = 4096


class Phase(IntEnum):
    """How far a process has come."""

    STARTING = 0
    WORKING = 1
    CLOSING = 2
    DONE = 3


class Progress:
    """The phase of a process and, for each of its threads, how many steps have returned.

    A step is counted by one aligned store of eight bytes, so a kill never leaves half a number.
    """

    def __init__(self, path: Path) -> None:
        path.touch()
        with path.open("r+b") as file:
            file.truncate(SIZE)
            self._mapping = mmap.mmap(file.fileno(), SIZE)
        self._words = memoryview(self._mapping).cast("Q")

    def close(self) -> None:
        self._words.release()
        self._mapping.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def phase(self) -> Phase:
        return Phase(self._words[0])

    @phase.setter
    def phase(self, phase: Phase) -> None:
        self._words[0] = phase

    def returned(self, thread: int) -> int:
        return self._words[thread + 1]

    def count(self, thread: int, returned: int) -> None:
        self._words[thread + 1] = returned

    def wait_for(self, phase: Phase, timeout_s: float = HANG_S) -> None:
        """Returns as soon as ``phase`` is reached or passed."""
        give_up = time.monotonic() + timeout_s
        while self.phase < phase:
            assert time.monotonic() < give_up, f"{self.phase!r} and not {phase!r} yet"
            time.sleep(0)
