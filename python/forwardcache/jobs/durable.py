"""What was written is on the disk, also where `fsync` doesn't say so."""

from __future__ import annotations

import fcntl
import os
from contextlib import suppress
from pathlib import Path


def to_disk(descriptor: int) -> None:
    """Bring the bytes of an open file, or the names in an open folder, to disk.

    On macOS ``fsync`` ends at the drive, which may still lose what it holds when the power goes;
    ``F_FULLFSYNC`` goes through it. Not every file system there knows that command.

    Raises:
        OSError: the disk fails.
    """
    through_the_drive: int | None = getattr(fcntl, "F_FULLFSYNC", None)
    if through_the_drive is not None:
        with suppress(OSError):
            fcntl.fcntl(descriptor, through_the_drive)
            return
    os.fsync(descriptor)


def sync_folder(folder: Path) -> None:
    """Bring the names in a folder to disk, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            to_disk(handle)
        finally:
            os.close(handle)
