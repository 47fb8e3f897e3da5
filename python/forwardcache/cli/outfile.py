"""Files that commands write: where they can be, their name until they are whole, what failed."""

from __future__ import annotations

from pathlib import Path

from forwardcache.cli.exits import BadInputError, ExitCode, MachineError, os_explained


def check_place(path: Path, named: str) -> None:
    """Refuse a path at which there can be no file; no folder is made for one.

    Args:
        path: Where a command is to write.
        named: What to call it, such as ``--out PATH``.

    Raises:
        BadInputError: there is no folder to hold it, or it is one itself.
    """
    if not path.parent.is_dir():
        raise BadInputError(f"{named}: there is no folder {path.parent}")
    if path.is_dir():
        raise BadInputError(f"{named} is a folder")


def part_of(out: Path) -> Path:
    """Where ``out`` is written until it is whole: ``OUT.part``, in its folder."""
    return out.with_name(out.name + ".part")


def write_failed(part: Path, error: OSError, *, hint: str = "") -> Exception:
    """What to raise where ``part`` can't be written; ``hint`` ends its line."""
    code, reason = os_explained(error)
    line = f"writing {part}: {reason}{hint}"
    return MachineError(line) if code == ExitCode.MACHINE_FAILED else BadInputError(line)
