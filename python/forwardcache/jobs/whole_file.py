"""A file that gets its name only when it is whole and on disk.

It is written as ``OUT.part``, under a lock, and renamed at the end; what fails leaves neither.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.durable import to_disk
from forwardcache.jobs.kinds import STDIN
from forwardcache.jobs.outfile import check_target, is_name_of, part_of, write_failed

_BUFFER_BYTES = 1 << 20
_STDIN_NAME = "/dev/stdin"


class Part:
    """The file on its way.

    Attributes:
        path: Where it is; who writes it by its name writes the locked file.
    """

    def __init__(self, out: Path, file: BinaryIO) -> None:
        self.path = part_of(out)
        self._file = file

    def write(self, data: bytes) -> None:
        """Append ``data``.

        Raises:
            MachineError: the disk is full or fails.
        """
        try:
            self._file.write(data)
        except OSError as error:
            raise write_failed(self.path, error) from error

    @contextmanager
    def explained(self) -> Iterator[None]:
        """What the disk says inside is told with the file's name.

        Raises:
            MachineError: the disk is full or fails.
            InvalidInputError: something else kept the file from being written.
        """
        try:
            yield
        except OSError as error:
            raise write_failed(self.path, error) from error


def check_out(out: Path, inputs: Sequence[str], *, force: bool) -> None:
    """Refuse a file that can't be written, or that is also read.

    Args:
        out: The final name.
        inputs: What is read; ``-`` is standard input.
        force: Whether a file under that name is replaced.

    Raises:
        InvalidInputError: saying what stands in the way.
    """
    check_target(out, str(out))
    paths = [Path(_STDIN_NAME if path == STDIN else path) for path in inputs]
    for written in (out, part_of(out)):
        for path in paths:
            if written.exists() and written.samefile(path):
                raise InvalidInputError(f"{written} would be written and is also read: {path}")
        if os.path.lexists(written) and not force:
            raise InvalidInputError(f"{written} is there already: --force replaces it")


@contextmanager
def whole_file(out: Path, *, force: bool) -> Iterator[Part]:
    """The part of ``out``, which gets its name when the block ends and goes if it raises.

    Args:
        out: The final name.
        force: Whether a file under that name is replaced.

    Raises:
        InvalidInputError: another process writes it, or a file has come meanwhile.
        MachineError: the disk is full or fails.
    """
    file = _open_part(out, force=force)
    part = Part(out, file)
    try:
        yield part
        with part.explained():
            _publish(file, out, force=force)
    except BaseException:
        with suppress(OSError):
            part.path.unlink()
        raise
    finally:
        # What a full disk refused is refused again here, and was reported then.
        with suppress(OSError):
            file.close()


def _open_part(out: Path, *, force: bool) -> BinaryIO:
    """The part, empty, and nobody else's."""
    path = part_of(out)
    part = path.open("ab" if force else "xb", buffering=_BUFFER_BYTES)
    try:
        fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Its owner may have given it its final name before the lock was ours.
        if not is_name_of(path, part):
            raise BlockingIOError
        part.truncate(0)
    except BlockingIOError as error:
        part.close()
        raise InvalidInputError(f"another command is writing {path}") from error
    except BaseException:
        part.close()
        raise
    return part


def _publish(part: BinaryIO, out: Path, *, force: bool) -> None:
    part.flush()
    to_disk(part.fileno())
    if os.path.lexists(out) and not force:
        raise InvalidInputError(f"{out} has come meanwhile: --force replaces it")
    part_of(out).replace(out)
