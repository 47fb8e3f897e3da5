"""Ctrl-C, also where Python drops it.

Python raises ``KeyboardInterrupt`` in whatever runs just then. In a ``__del__`` it is printed and
forgotten, and so would the user's wish be.
"""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Interrupts:
    """Whether Ctrl-C came."""

    def __init__(self) -> None:
        self._came = False

    def note(self, number: int, frame: FrameType | None) -> None:
        """The handler: remembers, and raises as Python's own does."""
        self._came = True
        signal.default_int_handler(number, frame)

    def check(self) -> None:
        """Raise again what may have been dropped; called between steps of a run.

        Raises:
            KeyboardInterrupt: Ctrl-C came.
        """
        if self._came:
            raise KeyboardInterrupt


@contextmanager
def heard_interrupts() -> Iterator[Interrupts]:
    """Listen, unless somebody else does, or interrupts are ignored as in a job behind ``&``."""
    interrupts = Interrupts()
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    # No other thread may choose a handler.
    if not is_pythons or threading.current_thread() is not threading.main_thread():
        yield interrupts
        return
    signal.signal(signal.SIGINT, interrupts.note)
    try:
        yield interrupts
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
