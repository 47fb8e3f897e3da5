"""``forwardcache merge``: the parts of a job as the file that one process would have written."""

from __future__ import annotations

from pathlib import Path

from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import PARQUET, PARTS, check_installed
from forwardcache.cli.trace import counted


def merge(folder: str, out: Path, *, force: bool) -> int:
    """Run ``merge``; the exit code."""
    check_installed(*PARTS, extra="parts")
    if out.suffix.lower() == ".parquet":
        check_installed(*PARQUET, extra="cli")
    from forwardcache.distributed.parts.merge import merge as merged
    from forwardcache.distributed.parts.opening import open_folder

    found = merged(open_folder(folder), out, force=force)
    say(f"{counted(found.rows, 'row')} of {counted(found.parts, 'part')} in {out}")
    return ExitCode.DONE
