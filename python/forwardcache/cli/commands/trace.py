"""``trace``: what is in traces, and what else can be made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardcache.cli.commands.options import (
    EXIT_STATUS,
    ForceOption,
    Format,
    FormatOption,
    ReplaceOption,
)

commands = typer.Typer(help="Read traces, merge them, complete what a crash left.")

TracesArgument = Annotated[
    list[str],
    typer.Argument(
        help="Traces, folders or patterns of them; - for standard input.", metavar="PATH"
    ),
]


@commands.command("summary", short_help="Figures for each probe, view and op.", epilog=EXIT_STATUS)
def _trace_summary(paths: TracesArgument, format_: FormatOption = Format.TABLE) -> int:
    """Figures of traces for each probe, view, op and trace: hits, times, what is missing."""
    from forwardcache.cli.trace import summary

    return summary(paths, as_json=format_ is Format.JSON)


@commands.command("merge", short_help="Merge traces by time into one.", epilog=EXIT_STATUS)
def _trace_merge(
    paths: TracesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the merged trace.")],
    force: ForceOption = False,
) -> int:
    """Merge traces by time into one; lines stay as they are, and in their file's order."""
    from forwardcache.cli.trace_merge import merge

    return merge(paths, out, force=force)


@commands.command("export", short_help="Write formats of other tools.", epilog=EXIT_STATUS)
def _trace_export(
    paths: TracesArgument,
    chrome: Annotated[
        Path | None, typer.Option(help="Trace-event JSON, which Perfetto opens.", metavar="FILE")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="A table, a column a field.", metavar="FILE")
    ] = None,
    force: ReplaceOption = False,
) -> int:
    """Write traces in the formats of other tools; several are read in order of time."""
    from forwardcache.cli.trace_export import export

    return export(paths, chrome=chrome, parquet=parquet, force=force)


@commands.command("watch", epilog=EXIT_STATUS)
def _trace_watch(
    path: Annotated[
        Path,
        typer.Argument(
            help="The trace, or a folder of them; it may not be there yet.", metavar="PATH"
        ),
    ],
    once: Annotated[bool, typer.Option("--once", help="Show it as it is now, and end.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.05, max=60.0, help="Seconds between two looks.")
    ] = 0.5,
    slowest: Annotated[
        int, typer.Option(min=0, max=100, help="How many of the slowest computations are shown.")
    ] = 5,
) -> int:
    """Follow a trace that is being written; Ctrl-C ends it."""
    from forwardcache.cli.trace_watch import watch

    return watch(path, once=once, interval_s=interval_s, slowest=slowest)


@commands.command(
    "recover", short_help="Complete a trace whose process was killed.", epilog=EXIT_STATUS
)
def _trace_recover(
    paths: Annotated[
        list[str],
        typer.Argument(help="Traces, folders or patterns of them.", metavar="PATH"),
    ],
    format_: FormatOption = Format.TABLE,
) -> int:
    """Complete traces whose process was killed; exit status 1 if events are lost."""
    from forwardcache.cli.trace import recover

    return recover(paths, as_json=format_ is Format.JSON)
