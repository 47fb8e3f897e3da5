"""What others' code raises at one item is that item's error, so that the rest are scored.

Tokenizers and chat templates are code of others, and raise nearly anything at a text that they
can't read: a bare ``Exception`` out of Rust, a panic, which is no ``Exception`` at all, whatever a
template's author wrote.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from forwardcache.errors import ForwardCacheError, InvalidInputError

# Not about the item: errors that say already what they are, memory, and whoever ends the work.
_NOT_THE_ITEMS = (
    ForwardCacheError,
    MemoryError,
    KeyboardInterrupt,
    SystemExit,
    GeneratorExit,
)
# Likewise, of modules that whoever raises one has imported.
_OF_MODULES = (("torch", "OutOfMemoryError"), ("asyncio", "CancelledError"))


def first_line(error: BaseException) -> str:
    """The first line of an error's words, or its class if it has none."""
    lines = str(error).strip().splitlines()
    return lines[0].strip() if lines else type(error).__name__


@contextmanager
def blamed_on_item(
    failed: str,
    *,
    words: Callable[[BaseException], str] = first_line,
    kind: type[ForwardCacheError] = InvalidInputError,
) -> Iterator[None]:
    """Turns what the body raises into the item's error; memory and interrupts pass through.

    Args:
        failed: What could not be done with which value; the error's words follow.
        words: Those of an error, in one line.
        kind: The class of the item's error.

    Raises:
        ForwardCacheError: of ``kind``; the body raised something else than an error of this
            package.
    """
    try:
        yield
    except _NOT_THE_ITEMS:
        raise
    except BaseException as error:
        if any(isinstance(error, each) for each in _of_modules()):
            raise
        raise kind(f"{failed}: {words(error)}") from error


def _of_modules() -> Iterator[type[BaseException]]:
    for name, error in _OF_MODULES:
        if name in sys.modules:
            yield getattr(sys.modules[name], error)
