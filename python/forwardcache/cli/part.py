"""What a file that a command writes is called until it is whole."""

from __future__ import annotations

from pathlib import Path


def part_of(out: Path) -> Path:
    """Where ``out`` is written until it is whole: ``OUT.part``, in its folder."""
    return out.with_name(out.name + ".part")
