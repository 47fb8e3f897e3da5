"""Why something failed, in words."""

from __future__ import annotations

import errno
import reprlib
from collections.abc import Iterator
from contextlib import contextmanager

from forwardcache.errors import ForwardCacheError, InvalidInputError

_MACHINE_FAILED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)

_short = reprlib.Repr()
_short.maxstring = 80


def shown(text: str) -> str:
    """``text`` in quotes, the middle of a long one left out."""
    return _short.repr(text)


def os_words(error: OSError) -> str:
    """An operating system's error without its file, for a line that names that."""
    # The core's errors carry their number in words too.
    return (error.strerror or str(error)).removesuffix(f" (os error {error.errno})")


def os_reason(error: OSError) -> str:
    """An operating system's error: its file and what is wrong with it."""
    return f"{error.filename}: {os_words(error)}" if error.filename else os_words(error)


def machine_failed(error: OSError) -> bool:
    """Whether it is the machine's doing: a full disk isn't the user's mistake."""
    return error.errno in _MACHINE_FAILED


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or a device; torch need not be imported to ask."""
    names = {kind.__name__ for kind in type(error).__mro__}
    # On the host torch raises a plain RuntimeError.
    host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or "OutOfMemoryError" in names or host


@contextmanager
def loading(what: str) -> Iterator[None]:
    """What a library raises inside, while a model is loaded, becomes one line.

    Args:
        what: What to call the model.

    Raises:
        InvalidInputError: it can't be loaded; memory that ran out is raised as it is.
    """
    try:
        yield
    except ForwardCacheError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise
        kind = type(error).__name__
        raise InvalidInputError(f"can't load {what}: {kind}: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
