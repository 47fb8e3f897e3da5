"""How a command ends: exit codes, and one clear line for whatever went wrong.

0 done, 1 the answer is no, 2 wrong use or bad input, 3 the machine failed (disk, memory),
130 interrupted, 141 the reader of standard output has gone (``| head``), which is no error and is
not reported.
"""

from __future__ import annotations

import errno
import logging
import os
import reprlib
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum

from forwardcache.errors import ForwardCacheError, WorkerError

_MACHINE_FAILED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.ENOMEM, errno.EMFILE, errno.ENFILE}
)

_short = reprlib.Repr()
_short.maxstring = 80


class ExitCode(IntEnum):
    """What the exit status says."""

    DONE = 0
    NO = 1
    BAD_INPUT = 2
    MACHINE_FAILED = 3
    INTERRUPTED = 130
    READER_GONE = 141
    """The reader of standard output closed it (``| head``): what a shell shows for SIGPIPE."""


class BadInputError(Exception):
    """Wrong use or bad input; the message is the one line to print."""


class MachineError(Exception):
    """Disk or memory gave out; the message is the one line to print."""


class InterruptedRunError(Exception):
    """Ctrl-C; the message says what was kept and how to go on."""


def say(text: str) -> None:
    """One line on standard error."""
    print(f"forwardcache: {' '.join(text.split())}", file=sys.stderr)


class _Said(logging.Handler):
    """Warnings of the package as lines of the command."""

    def emit(self, record: logging.LogRecord) -> None:
        say(record.getMessage())


def _as_line(message: Warning | str, *_: object, **__: object) -> str:
    """A warning as ``say`` has it; Python's own form has a line of source code in it."""
    return f"forwardcache: {' '.join(str(message).split())}\n"


def say_warnings() -> None:
    """What is warned of, by ``logging`` or ``warnings``, is said like everything else."""
    warnings.formatwarning = _as_line
    log = logging.getLogger("forwardcache")
    if not any(isinstance(handler, _Said) for handler in log.handlers):
        log.addHandler(_Said(logging.WARNING))


def shown(text: str) -> str:
    """``text`` in quotes, the middle of a long one left out."""
    return _short.repr(text)


def guarded(command: Callable[[], int]) -> int:
    """Run ``command``; turn what it raises into one line and an exit code.

    Any other exception is a mistake of this package, and its traceback is wanted.
    """
    if sys.stdout is None:
        say("standard output is closed: give the command somewhere to write")
        return ExitCode.MACHINE_FAILED
    try:
        code = command()
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        _give_up_stdout()
        return ExitCode.READER_GONE
    except KeyboardInterrupt:
        say("interrupted")
        return ExitCode.INTERRUPTED
    except Exception as error:
        if (known := explained(error)) is None:
            traceback.print_exc()
            return ExitCode.MACHINE_FAILED
        _give_up_stdout()
        say(known[1])
        return known[0]


def _give_up_stdout() -> None:
    """Drop what standard output can't take: the interpreter would try again when it ends."""
    try:
        sys.stdout.flush()
    except OSError:
        with suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def explained(error: Exception) -> tuple[ExitCode, str] | None:
    """Exit code and line for an exception; None if no user and no machine can have caused it."""
    if isinstance(error, InterruptedRunError):
        return ExitCode.INTERRUPTED, str(error)
    if isinstance(error, MachineError | WorkerError):
        return ExitCode.MACHINE_FAILED, str(error)
    if isinstance(error, BadInputError | ForwardCacheError):
        return ExitCode.BAD_INPUT, str(error)
    if isinstance(error, OSError):
        return os_explained(error)
    if is_out_of_memory(error):
        return ExitCode.MACHINE_FAILED, f"out of memory: {first_line(error)}"
    return None


def os_explained(error: OSError) -> tuple[ExitCode, str]:
    """Exit code and line for an operating system's error: a full disk isn't the user's mistake."""
    # The core's errors carry their number in words too.
    reason = (error.strerror or str(error)).removesuffix(f" (os error {error.errno})")
    line = f"{error.filename}: {reason}" if error.filename else reason
    failed = error.errno in _MACHINE_FAILED
    return (ExitCode.MACHINE_FAILED if failed else ExitCode.BAD_INPUT), line


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out, on the host or a device; torch need not be imported to ask."""
    names = {kind.__name__ for kind in type(error).__mro__}
    # On the host torch raises a plain RuntimeError.
    host = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return isinstance(error, MemoryError) or "OutOfMemoryError" in names or host


def first_line(error: BaseException) -> str:
    """The first line of an exception's text, or its type's name."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
