"""``OUT.meta.json`` gets its name before ``OUT`` gets its own: rows are never there without it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.durable import sync_folder, to_disk
from forwardcache.jobs.metadata import Facts, is_ours, meta_of, written


def check_meta(out: Path, named: str, *, force: bool) -> None:
    """Refuse to write the facts of ``out`` over a file that no run wrote.

    Args:
        out: The file of rows.
        named: What to call it.
        force: Whether files that are there are replaced.

    Raises:
        InvalidInputError: such a file is there, and ``out`` isn't.
    """
    meta = meta_of(out)
    if os.path.lexists(meta) and not (force or os.path.lexists(out) or is_ours(meta)):
        raise InvalidInputError(
            f"{named} writes {meta}, which is there already: --force replaces it"
        )


def passing_of(out: Path) -> Path:
    """Where what stands next to ``out`` is written until it is whole."""
    return out.with_name(out.name + ".tmp")


@contextmanager
def meta_beside(out: Path, meta: Facts | None, *, force: bool) -> Iterator[None]:
    """Put the facts in place; what was there comes back where the rows get no name inside.

    Args:
        out: The file of rows, which gets its name inside.
        meta: The facts; None to put none.
        force: Whether a file under that name is replaced.

    Raises:
        FileExistsError: ``out`` is there and isn't to be replaced.
        OSError: they can't be written.
    """
    if meta is None:
        yield
        return
    if not force and os.path.lexists(out):
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out))
    target = meta_of(out)
    before = target.read_bytes() if target.is_file() else None
    _put(target, passing_of(out), written(meta).encode("ascii"))
    sync_folder(out.parent)
    try:
        yield
    except BaseException:
        target.unlink() if before is None else _put(target, passing_of(out), before)
        raise


def _put(target: Path, passing: Path, content: bytes) -> None:
    """Write a small file, whole or not at all."""
    try:
        with passing.open("wb") as file:
            file.write(content)
            file.flush()
            to_disk(file.fileno())
        passing.replace(target)
    finally:
        passing.unlink(missing_ok=True)
