"""What is said while a model is loaded, so that a run without it says the same."""

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

        _log.addHandler(self)
        warnings.showwarning = shown
        try:
            yield
        finally:
            warnings.showwarning = show
            _log.removeHandler(self)


def say_again(messages: list[str]) -> None:
    """Says what was said when the model was loaded."""
    for message in messages:
        _log.warning("%s", message)


__all__ = ["Heard", "say_again"]
