"""``forwardcache trace merge``: several traces into one, by time.

Lines are copied byte for byte, each file's in its own order, so the order of each thread is kept
also where the clock stepped back. A line that can't be used as an event (see ``observe``) has no
time and is left out. The new file gets its name only when it is whole and on disk.
"""

from __future__ import annotations

import fcntl
import heapq
import os
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from forwardcache.cli.exits import BadInputError, ExitCode, MachineError, os_explained, say
from forwardcache.cli.trace import STDIN, counted, reasons, say_what_is_pending, source_of
from forwardcache.observe.parse import LostEvents
from forwardcache.observe.reader import Counts, time_of, usable_lines

_BUFFER_BYTES = 1 << 20
_STDIN_NAME = "/dev/stdin"


def merge(paths: Sequence[str], out: Path, *, force: bool) -> int:
    """Merge the traces ``paths`` into ``out``; what was left out is said on standard error."""
    _check_out(out, [Path(_STDIN_NAME if path == STDIN else path) for path in paths], force=force)
    counts = Counts()
    part = _open_part(out, force=force)
    try:
        _write_merged(paths, part, out, counts)
        _publish(part, out, force=force)
    except BaseException:
        with suppress(OSError):
            _part_of(out).unlink()
        raise
    finally:
        # What a full disk refused is refused again here, and was reported then.
        with suppress(OSError):
            part.close()
    say_what_is_pending(paths)
    merged = f"{counted(counts.read, 'event')} of {counted(len(paths), 'trace')}"
    say(f"{out}: {merged}{_left_out(counts)}")
    return ExitCode.DONE


def _check_out(out: Path, inputs: Sequence[Path], *, force: bool) -> None:
    if not out.parent.is_dir():
        raise BadInputError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise BadInputError(f"--out {out} is a folder")
    for written in (out, _part_of(out)):
        for path in inputs:
            if written.exists() and written.samefile(path):
                raise BadInputError(f"{written} would be written and is also read: {path}")
        if os.path.lexists(written) and not force:
            raise BadInputError(f"{written} is there already: --force replaces it")


def _part_of(out: Path) -> Path:
    return out.with_name(out.name + ".part")


def _open_part(out: Path, *, force: bool) -> BinaryIO:
    """The part, empty, and nobody else's."""
    path = _part_of(out)
    part = path.open("ab" if force else "xb", buffering=_BUFFER_BYTES)
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its owner may have given it its final name before the lock was ours.
        if not os.path.samestat(path.stat(), os.fstat(part.fileno())):
            raise BlockingIOError
        part.truncate(0)
    except (BlockingIOError, FileNotFoundError) as error:
        part.close()
        raise BadInputError(f"another merge is writing {path}") from error
    except BaseException:
        part.close()
        raise
    return part


def _write_merged(paths: Sequence[str], part: BinaryIO, out: Path, counts: Counts) -> None:
    streams = [usable_lines(source_of(path), counts) for path in paths]
    for line, said in heapq.merge(*streams, key=lambda pair: time_of(pair[1])):
        if isinstance(said, LostEvents):
            counts.lost += said.events
        else:
            counts.read += 1
        try:
            part.write(line + b"\n")
        except OSError as error:
            raise _write_failed(out, error) from error


def _publish(part: BinaryIO, out: Path, *, force: bool) -> None:
    try:
        part.flush()
        os.fsync(part.fileno())
        if os.path.lexists(out) and not force:
            raise BadInputError(f"{out} has come meanwhile: --force replaces it")
        _part_of(out).replace(out)
    except OSError as error:
        raise _write_failed(out, error) from error


def _write_failed(out: Path, error: OSError) -> Exception:
    code, reason = os_explained(error)
    message = f"writing {_part_of(out)}: {reason}"
    return MachineError(message) if code == ExitCode.MACHINE_FAILED else BadInputError(message)


def _left_out(counts: Counts) -> str:
    lost = f"; {counted(counts.lost, 'event')} lost by the writers" if counts.lost else ""
    return f"; left out {reasons(counts.skipped)}{lost}" if counts.skipped else lost
