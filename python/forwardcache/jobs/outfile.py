"""Files that commands write: where they can be, their name until they are whole, what failed."""

from __future__ import annotations

import os
from pathlib import Path
from typing import BinaryIO

from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs.reasons import machine_failed, os_reason


def check_target(path: Path, named: str) -> None:
    """Refuse a path at which there can be no file; no folder is made for one.

    Args:
        path: Where a command is to write.
        named: What to call it, such as ``--out PATH``.

    Raises:
        InvalidInputError: there is no folder to hold it, or it is one itself.
    """
    if not path.parent.is_dir():
        raise InvalidInputError(f"{named}: there is no folder {path.parent}")
    if path.is_dir():
        raise InvalidInputError(f"{named} is a folder")


def part_of(out: Path) -> Path:
    """Where ``out`` is written until it is whole: ``OUT.part``, in its folder."""
    return out.with_name(out.name + ".part")


def is_name_of(path: Path, file: BinaryIO) -> bool:
    """Whether a file that is open still has this name."""
    try:
        return os.path.samestat(path.stat(), os.fstat(file.fileno()))
    except FileNotFoundError:
        return False


def write_failed(part: Path, error: OSError, *, hint: str = "") -> Exception:
    """What to raise where ``part`` can't be written; ``hint`` ends its line."""
    line = f"writing {part}: {os_reason(error)}{hint}"
    return MachineError(line) if machine_failed(error) else InvalidInputError(line)
