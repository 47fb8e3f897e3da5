"""``forwardcache report``: what happened in traces, as a page, a table or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import check_installed
from forwardcache.cli.trace import say_what_is_pending, source_of
from forwardcache.cli.whole_file import check_out, whole_file
from forwardcache.observe import read_trace

NEEDED = ("polars",)
NEEDED_BY_PAGES = (*NEEDED, "matplotlib", "jinja2")


def report(
    paths: Sequence[str],
    *,
    out: Path | None,
    output_format: Literal["table", "json", "html"],
    force: bool = False,
) -> int:
    """Write the report of the traces ``paths`` to ``out``, else to standard output."""
    is_page = output_format == "html"
    check_installed(*(NEEDED_BY_PAGES if is_page else NEEDED), extra="report")
    if out is not None:
        check_out(out, paths, force=force)
    from forwardcache.observe.report.figures import report_figures

    figures = report_figures(read_trace([source_of(path) for path in paths]))
    say_what_is_pending(paths)
    if is_page:
        from forwardcache.observe.report.page import report_page

        text = report_page(figures)
    else:
        text = _as_json(figures) if output_format == "json" else _as_table(figures)
    _write(text, out, force=force)
    return ExitCode.DONE


def _write(text: str, out: Path | None, *, force: bool) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    with whole_file(out, force=force) as part:
        part.write(text.encode())
    say(f"wrote {out}")


def _as_json(figures: dict[str, Any]) -> str:
    return json.dumps(figures, indent=2, allow_nan=False) + "\n"


def _as_table(figures: dict[str, Any]) -> str:
    width = max(map(len, figures["total"]))
    cells = ((name, _cell(value)) for name, value in figures["total"].items())
    lines = [f"{name.replace('_', ' '):{width}}  {cell}" for name, cell in cells]
    return "\n".join([figures["verdict"], "", *lines]) + "\n"


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
