"""What can happen to a disk or a folder under a running trace. Each gives what ends it, or None."""

import errno
import os
import resource
import shutil
from collections.abc import Callable
from pathlib import Path

Undo = Callable[[], None] | None


def nothing(_path: Path) -> Undo:
    return None


def no_file_may_grow(path: Path) -> Undo:
    """As on a full disk: a write past the limit fails (EFBIG) after it wrote what fits."""
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    # An odd size: the limit is met in the middle of a line.
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 1001, allowed[1]))
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, allowed)


def no_file_may_grow_again(path: Path) -> Undo:
    no_file_may_grow(path)
    return None


def the_disk_is_full(path: Path) -> Undo:
    """Fills the file system with another file, which the undoing removes."""
    fill(path.with_name("filler"))
    return path.with_name("filler").unlink


def the_disk_stays_full(path: Path) -> Undo:
    fill(path.with_name("filler"))
    return None


def fill(filler: Path) -> None:
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 10, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError:
                pass


def the_folder_is_gone(path: Path) -> Undo:
    """A file that the trace makes between the listing and the removal needs another listing."""
    while True:
        try:
            shutil.rmtree(path.parent)
        except OSError as error:
            if error.errno != errno.ENOTEMPTY:
                raise
        else:
            return None


def the_file_is_gone(path: Path) -> Undo:
    path.unlink()
    return None


def nothing_may_be_made_in_the_folder(path: Path) -> Undo:
    path.parent.chmod(0o555)
    return None


def nobody(_path: Path) -> Undo:
    """The process becomes one that may do nothing that isn't allowed to all."""
    os.setuid(65534)
    return None
