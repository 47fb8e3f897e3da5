"""``report`` and ``report compare``: what happened in runs, and what changed between two."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from forwardcache.cli.commands.options import EXIT_STATUS, ForceOption
from forwardcache.errors import InvalidInputError

REPORT_COMPARE = "report compare"

commands = typer.Typer()


class ReportFormat(StrEnum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


ReportOutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="FILE.html, FILE.json or FILE.txt; default standard output."),
]
ReportFormatOption = Annotated[
    ReportFormat | None,
    typer.Option("--format", help="Default: what the name of --out says, else table."),
]


@commands.command("report", short_help="What happened in traces and scores.", epilog=EXIT_STATUS)
def _report(  # noqa: PLR0917 - typer calls it, by name
    paths: Annotated[
        list[str] | None,
        typer.Argument(
            help="Traces, folders or patterns of them; - for standard input.", metavar="PATH"
        ),
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Rows of score: how far the views are from base.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="File that was scored: prompts are shown by their text.")
    ] = None,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="Folder with a tokenizer.json: tokens are shown by their text. Default: the run's."
        ),
    ] = None,
    out: ReportOutOption = None,
    format_: ReportFormatOption = None,
    force: ForceOption = False,
) -> int:
    """What happened in traces: hits, times, who warmed whom, what a larger cache would save."""
    from forwardcache.cli.report import report

    return report(
        paths or [],
        out=out,
        output_format=_report_format(out, format_).value,
        scores=scores,
        prompts=prompts,
        tokenizer=tokenizer,
        force=force,
    )


@commands.command(REPORT_COMPARE, short_help="What changed between two runs.", epilog=EXIT_STATUS)
def _report_compare(
    before: Annotated[str, typer.Argument(help="The first run's trace.", metavar="A")],
    after: Annotated[str, typer.Argument(help="The second run's trace.", metavar="B")],
    out: ReportOutOption = None,
    format_: ReportFormatOption = None,
    force: ForceOption = False,
) -> int:
    """What changed between two runs: hits, seconds by op and view, what was asked for."""
    from forwardcache.cli.report import compare

    chosen = _report_format(out, format_)
    return compare(before, after, out=out, output_format=chosen.value, force=force)


def _report_format(out: Path | None, chosen: ReportFormat | None) -> ReportFormat:
    if chosen is not None:
        return chosen
    if out is None or out.suffix == "":
        return ReportFormat.TABLE
    if (found := _FORMAT_OF.get(out.suffix.lower())) is None:
        names = ", ".join(_FORMAT_OF)
        raise InvalidInputError(
            f"--out {out}: give --format, or a name that ends in one of {names}"
        )
    return found


_FORMAT_OF = {
    ".html": ReportFormat.HTML,
    ".json": ReportFormat.JSON,
    ".txt": ReportFormat.TABLE,
}
