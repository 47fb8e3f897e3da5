"""How a command ends: exit codes, and one clear line for whatever went wrong.

0 done, 1 the answer is no, 2 wrong use or bad input, 3 the machine failed (disk, memory),
130 interrupted, 141 the reader of standard output has gone (``| head``), which is no error and is
not reported.
"""

from __future__ import annotations

import logging
import os
import sys
import traceback
import warnings
from collections.abc import Callable
from contextlib import suppress
from enum import IntEnum

from forwardcache.errors import (
    ForwardCacheError,
    InterruptedRunError,
    MachineError,
    WorkerError,
)
from forwardcache.jobs.reasons import first_line, is_out_of_memory, machine_failed, os_reason


class ExitCode(IntEnum):
    """What the exit status says."""

    DONE = 0
    NO = 1
    BAD_INPUT = 2
    MACHINE_FAILED = 3
    INTERRUPTED = 130
    READER_GONE = 141
    """The reader of standard output closed it (``| head``): what a shell shows for SIGPIPE."""


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
    if isinstance(error, ForwardCacheError):
        return ExitCode.BAD_INPUT, str(error)
    if isinstance(error, OSError):
        code = ExitCode.MACHINE_FAILED if machine_failed(error) else ExitCode.BAD_INPUT
        return code, os_reason(error)
    if is_out_of_memory(error):
        return ExitCode.MACHINE_FAILED, f"out of memory: {first_line(error)}"
    return None
