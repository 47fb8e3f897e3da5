"""``merge``: the parts of a job of many machines as one file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardcache.cli.commands.options import EXIT_STATUS, ReplaceOption

commands = typer.Typer()


@commands.command(
    "merge", short_help="Make one file of the parts of score --parts.", epilog=EXIT_STATUS
)
def _merge(
    folder: Annotated[
        str,
        typer.Argument(
            help="Folder that score --parts wrote: a path, or a URL such as s3://BUCKET/NAME.",
            metavar="OUT",
        ),
    ],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", help="The file, .jsonl or .parquet.", metavar="FILE"),
    ],
    force: ReplaceOption = False,
) -> int:
    """Make one file of a job's parts: the rows that one process would have written."""
    from forwardcache.cli.merge import merge

    return merge(folder, out, force=force)
