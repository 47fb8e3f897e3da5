"""What is warned of where nobody reads it, or has to be said again by a run without the model."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

_log = logging.getLogger("forwardcache")


class Heard(logging.Handler):
    """Collects what the package warns of.

    Attributes:
        messages: Its own words, in order.
        was_warned: Whether anybody warned in Python's way, which isn't collected.
    """

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []
        self.was_warned = False

    def emit(self, record: logging.LogRecord) -> None:
        """Keeps the words of a record."""
        self.messages.append(record.getMessage())

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Collects while the block goes on."""
        show = warnings.showwarning

        def shown(*arguments: Any, **keywords: Any) -> None:
            self.was_warned = True
            show(*arguments, **keywords)

        self.listen()
        warnings.showwarning = shown
        try:
            yield
        finally:
            warnings.showwarning = show
            self.listen_no_more()

    def listen(self) -> None:
        """Begins to collect; again it does nothing."""
        _log.addHandler(self)

    def listen_no_more(self) -> None:
        """Ends collecting; what was collected stays."""
        _log.removeHandler(self)

    def taken(self) -> list[str]:
        """What was collected since the last time, each message once."""
        taken = list(dict.fromkeys(self.messages))
        self.messages.clear()
        return taken


def say_again(messages: list[str]) -> None:
    """Says what was said elsewhere, or when the model was loaded."""
    for message in messages:
        _log.warning("%s", message)


__all__ = ["Heard", "say_again"]
