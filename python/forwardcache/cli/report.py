"""``forwardcache report``: what happened in traces, as a page, a table or JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import PARQUET, STATISTICS, check_installed
from forwardcache.cli.trace import clock
from forwardcache.cli.trace_paths import (
    events_once,
    say_what_is_pending,
    source_of,
    traces_of,
    workers_of,
)
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.kinds import STDIN, FileKind, check_kind
from forwardcache.jobs.prompts import PromptSet, read_prompts
from forwardcache.jobs.whole_file import check_out, whole_file
from forwardcache.observe import read_trace
from forwardcache.observe.workers import read_workers

if TYPE_CHECKING:
    from forwardcache.jobs.metadata import Facts
    from forwardcache.observe.report.tokens import TokenText

PAGES = ("jinja2", "matplotlib")

# What of a worker fits a terminal.
_OF_WORKERS = ("worker", "events", "hits", "misses", "failed", "from_others", "miss_s", "lost")
_CLOCKS = ("first_ts", "last_ts")

Format: TypeAlias = Literal["table", "json", "html"]


def report(
    given: Sequence[str],
    *,
    out: Path | None,
    output_format: Format,
    scores: Path | None = None,
    prompts: str | None = None,
    tokenizer: Path | None = None,
    force: bool = False,
) -> int:
    """Write the report of the traces ``given`` and the rows ``scores`` to ``out``, else print it.

    Raises:
        InvalidInputError: neither is given, or a file can't be used.
    """
    if not given and scores is None:
        raise InvalidInputError("report needs a trace, --scores FILE, or both")
    paths = traces_of(given)
    named = [str(path) for path in (scores, prompts) if path is not None]
    if [*paths, *named].count(STDIN) > 1:
        raise InvalidInputError("standard input is read once: give - for one file only")
    _check(output_format, out, [*paths, *named], force=force)
    if scores is not None:
        check_installed(*STATISTICS, extra="report")
        check_kind(scores, FileKind.ROWS, FileKind.TABLE, named=f"--scores {scores}")
    if tokenizer is not None and scores is None:
        raise InvalidInputError("--tokenizer shows tokens of --scores FILE, which is not given")
    known = read_prompts(prompts) if prompts is not None else None
    figures = _trace_figures(paths, known) if paths else None
    moved = _score_figures(scores, known, tokenizer) if scores is not None else None
    if output_format == "html":
        from forwardcache.observe.report.page import report_page

        text = report_page(figures, moved)
    elif output_format == "json":
        text = _as_json({**(figures or {}), **({"scores": moved} if moved else {})})
    else:
        parts = [_trace_table(figures)] if figures else []
        text = "\n".join([*parts, *([_score_table(moved)] if moved else [])])
    _write(text, out, force=force)
    return ExitCode.DONE


def compare(
    before: str, after: str, *, out: Path | None, output_format: Format, force: bool
) -> int:
    """Write what changed from the trace ``before`` to ``after``.

    Raises:
        InvalidInputError: a file can't be used.
    """
    if before == after == STDIN:
        raise InvalidInputError("standard input is read once: give - for one file only")
    _check(output_format, out, [before, after], force=force)
    from forwardcache.observe.report.compare import compare_figures

    both = [traces_of([given]) for given in (before, after)]
    readers = [read_trace([source_of(path) for path in paths]) for paths in both]
    figures = compare_figures(*readers)
    say_what_is_pending([path for paths in both for path in paths])
    if output_format == "html":
        from forwardcache.observe.report.page import compare_page

        text = compare_page(figures)
    else:
        text = _as_json(figures) if output_format == "json" else _compare_table(figures)
    _write(text, out, force=force)
    return ExitCode.DONE


def _check(output_format: Format, out: Path | None, inputs: Sequence[str], *, force: bool) -> None:
    check_installed(*PARQUET, extra="cli")
    if output_format == "html":
        check_installed(*PAGES, extra="report")
    if out is not None:
        check_out(out, inputs, force=force)


def _trace_figures(paths: Sequence[str], known: PromptSet | None) -> dict[str, Any]:
    from forwardcache import prompt_hash
    from forwardcache.observe.report.figures import report_figures, workers_figures

    texts = {prompt_hash(one.text): one.text for one in known.prompts} if known else None
    if len(paths) == 1:
        figures = report_figures(read_trace(source_of(paths[0])), texts)
    else:
        with events_once():
            figures = workers_figures(read_workers(workers_of(paths)), texts)
    say_what_is_pending(paths)
    return figures


def _score_figures(scores: Path, known: PromptSet | None, tokenizer: Path | None) -> dict[str, Any]:
    from forwardcache.observe.report.facts import fact_rows
    from forwardcache.observe.report.scores import score_figures, with_token_texts
    from forwardcache.observe.report.tokens import token_text

    texts = [(one.line, one.counts_as) for one in known.prompts] if known else None
    given = None if tokenizer is None else token_text(tokenizer)
    figures = score_figures(scores, texts)
    facts = _facts(scores)
    if (tells := given or _token_text_of_the_run(facts)) is not None:
        figures = with_token_texts(figures, tells)
    return {**figures, "facts": fact_rows(facts)}


def _token_text_of_the_run(facts: Facts) -> TokenText | None:
    """What tells the text of the tokens that a run read, where its tokenizer is here."""
    from forwardcache.jobs.facts import tokenizer_folder
    from forwardcache.observe.report.tokens import token_text

    folder = tokenizer_folder(facts)
    try:
        return None if folder is None else token_text(folder)
    except InvalidInputError as error:
        say(f"tokens are shown by their ids: {error}")
        return None


def _facts(scores: Path) -> Facts:
    """Which run made the rows; nothing where that isn't known."""
    from forwardcache.jobs.facts import read_facts

    try:
        return read_facts(scores) or {}
    except InvalidInputError as error:
        say(f"the page doesn't say which run made the rows: {error}")
        return {}


def _write(text: str, out: Path | None, *, force: bool) -> None:
    if out is None:
        sys.stdout.write(text)
        return
    with whole_file(out, force=force) as part:
        part.write(text.encode())
    say(f"wrote {out}")


def _as_json(figures: dict[str, Any]) -> str:
    return json.dumps(figures, indent=2, allow_nan=False) + "\n"


def _trace_table(figures: dict[str, Any]) -> str:
    rows = [
        (_words(name), clock(value) if name in _CLOCKS and value else value)
        for name, value in figures["total"].items()
    ]
    parts = [figures["verdict"], "", _table((), rows)]
    if "workers" in figures:
        over = [(_words(name), value) for name, value in figures["over_workers"].items()]
        workers = [{name: row[name] for name in _OF_WORKERS} for row in figures["workers"]]
        parts += [_table((), over), _table_of(workers)]
    return "\n".join(parts)


def _score_table(figures: dict[str, Any]) -> str:
    return f"{figures['verdict']}\n\n{_table_of(figures['views'])}"


def _compare_table(figures: dict[str, Any]) -> str:
    total = [{**row, "figure": _words(row["figure"])} for row in figures["total"]]
    by_op = figures["by_op"]
    tables = [
        _table_of(total),
        _table(_CALLS, map(_call_cells, by_op)),
        _table(_SECONDS, map(_second_cells, by_op)),
        _table_of(figures["asked"]),
    ]
    return "\n".join([figures["verdict"], "", *tables])


# One table of both would be wider than a terminal.
_CALLS = ("view id", "op", "calls before", "after", "hits before", "after")
_SECONDS = ("view id", "op", "s before", "after", "change")


def _call_cells(row: dict[str, Any]) -> list[Any]:
    rates = (row["before_hit_rate"], row["after_hit_rate"])
    before, after = (None if rate is None else f"{rate:.1%}" for rate in rates)
    return [row["view_id"], row["op"], row["calls_before"], row["calls_after"], before, after]


def _second_cells(row: dict[str, Any]) -> list[Any]:
    return [row[name] for name in ("view_id", "op", "before_s", "after_s", "change_s")]


def _table_of(rows: Sequence[dict[str, Any]]) -> str:
    """The rows under their fields' names."""
    return _table([*map(_words, rows[0])], [row.values() for row in rows]) if rows else ""


def _table(head: Sequence[str], rows: Iterable[Iterable[Any]]) -> str:
    """The rows with columns as wide as their cells; the first column to the left."""
    lines = [[_cell(value) for value in row] for row in rows]
    if not lines:
        return ""
    if head:
        lines.insert(0, [*head])
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "".join(
        "  ".join(
            f"{cell:{'<' if at == 0 else '>'}{width}}"
            for at, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        + "\n"
        for line in lines
    )


def _words(name: str) -> str:
    return name.replace("_", " ")


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, str):
        return value if value.isprintable() else repr(value)[1:-1]
    return f"{value:,}" if isinstance(value, int) else f"{value:,.6g}"
