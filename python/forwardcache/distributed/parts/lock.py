"""One driver at a time on a folder of parts.

On a disk it is a lock of the operating system, which goes with its process. An object store has
none; there a file that only one can create stands for it (``If-None-Match: *``), and stays when its
driver is killed. Such a one is passed by creating the next, ``_lock.1``, which again only one can:
the highest is the one in force. Two drivers at once would lose nothing, since parts are named by
their content, but each would compute all of it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from forwardcache.distributed.parts.folder import LOCK, LocalFolder, PartsFolder
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.metadata import command
from forwardcache.jobs.outfile import is_name_of
from forwardcache.jobs.reasons import os_reason

_log = logging.getLogger("forwardcache")
_NUMBERED = re.compile(rf"{LOCK}(?:\.(\d+))?\Z")


@contextmanager
def locked(folder: PartsFolder, *, take_over: bool) -> Iterator[None]:
    """Keep other drivers out.

    Args:
        folder: Where parts are to be written; it is there.
        take_over: Whether the lock of a driver elsewhere, which may be dead, is passed.

    Raises:
        InvalidInputError: another driver writes there, as far as can be told.
    """
    if isinstance(folder, LocalFolder):
        with _held_locally(folder):
            yield
    else:
        with _held_by_file(folder, take_over=take_over):
            yield


def _holder() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": command(),
    }


def _written(holder: dict[str, Any]) -> bytes:
    return (json.dumps(holder) + "\n").encode("ascii")


def _started(pid: int) -> str | None:
    """When a process began, in the kernel's ticks: its number may be another's later."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[19]
    return None


# On a disk.


@contextmanager
def _held_locally(folder: LocalFolder) -> Iterator[None]:
    path = folder.root / LOCK
    lock = _open_alone(path, folder)
    try:
        yield
    finally:
        # Under the lock: whoever waits for this file finds that its name has gone.
        with suppress(OSError):
            path.unlink()
        lock.close()


def _open_alone(path: Path, folder: LocalFolder) -> BinaryIO:
    while True:
        try:
            lock = path.open("a+b")
        except OSError as error:
            raise InvalidInputError(f"can't lock {folder.address}: {os_reason(error)}") from error
        try:
            _flock(lock, folder)
            if is_name_of(path, lock):
                lock.truncate(0)
                lock.write(_written(_holder()))
                lock.flush()
                return lock
        except BaseException:
            lock.close()
            raise
        lock.close()


def _flock(lock: BinaryIO, folder: LocalFolder) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        raise _refusal(folder, _parsed(lock.read()), hint="") from None
    except OSError as error:
        # A file system without locks is no reason to refuse the work.
        _log.warning(
            "%s can't be locked (%s): see to it that one run at a time writes there",
            folder.address,
            os_reason(error),
        )


# On an object store.


@contextmanager
def _held_by_file(folder: PartsFolder, *, take_over: bool) -> Iterator[None]:
    own = _created(folder, take_over=take_over)
    try:
        yield
    finally:
        for each in [] if own is None else _up_to(folder, own):
            with suppress(InvalidInputError):
                folder.remove(each)


def _created(folder: PartsFolder, *, take_over: bool) -> int | None:
    """The number of the lock in force, which is ours; None where nobody can be kept out."""
    if not folder.excludes:
        _log.warning(
            "%s: %s has no write that fails where a file is there (s3fs, gcsfs and adlfs have "
            "one), so there is no lock: see to it that one run at a time writes there",
            folder.address,
            folder.client,
        )
        return None
    while True:
        last = max(_numbers(folder), default=None)
        passed = None if last is None else _read(folder, _name(last))
        if passed is not None:
            _check_passable(folder, passed, take_over=take_over)
        number = 0 if last is None else last + 1
        _create(folder, _name(number))
        if (highest := max(_numbers(folder), default=number)) > number:
            folder.remove(_name(number))
            raise _refusal(folder, _read(folder, _name(highest)))
        if last is None or _read(folder, _name(last)) == passed:
            return number
        # It ended just then, and another may hold its name: from the beginning.
        folder.remove(_name(number))


def _create(folder: PartsFolder, name: str) -> None:
    """Create a lock.

    Raises:
        InvalidInputError: another one was there first.
    """
    content = _written(_holder())
    if not folder.create(name, content):
        raise _refusal(folder, _read(folder, name))
    if folder.create(name, content):
        _log.warning(
            "%s: its server overwrites a file that is to be written only where there is none, so "
            "there is no lock: see to it that one run at a time writes there",
            folder.address,
        )


def _check_passable(folder: PartsFolder, holder: dict[str, Any], *, take_over: bool) -> None:
    """Refuse where the holder of a lock lives, or may.

    Raises:
        InvalidInputError: saying who it is.
    """
    is_here = holder.get("host") == socket.gethostname() and isinstance(holder.get("pid"), int)
    if is_here and _is_alive(holder):
        raise _refusal(folder, holder, hint="")
    if not (is_here or take_over):
        raise _refusal(folder, holder)


def _is_alive(holder: dict[str, Any]) -> bool:
    pid = holder["pid"]
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return holder.get("started") in {None, _started(pid)}


def _numbers(folder: PartsFolder) -> list[int]:
    found = map(_NUMBERED.match, folder.top())
    return [int(each[1] or 0) for each in found if each is not None]


def _name(number: int) -> str:
    return LOCK if number == 0 else f"{LOCK}.{number}"


def _up_to(folder: PartsFolder, own: int) -> list[str]:
    """Our lock and those that it passed, the first ones first: ours is in force till the end."""
    return [_name(number) for number in sorted(_numbers(folder)) if number <= own]


def _read(folder: PartsFolder, name: str) -> dict[str, Any]:
    try:
        return _parsed(folder.read(name))
    except FileNotFoundError:
        return {}


def _parsed(content: bytes) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(found := json.loads(content), dict):
            return found
    return {}


def _refusal(
    folder: PartsFolder,
    holder: dict[str, Any],
    hint: str = "; if that one is dead, --force passes its lock",
) -> InvalidInputError:
    who = (
        f"process {holder.get('pid')} on {holder.get('host')}, since {holder.get('since')}"
        if holder
        else "nobody knows who"
    )
    return InvalidInputError(f"another run writes {folder.address} ({who}){hint}")
