"""Failures and reports for people."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forwardcache.conformance.chunk import Chunk
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.report import CheckResult, Report

__all__ = ["aligned", "explained", "report_table"]

_LAST = 5
_SHOWN_TOKENS = 8


def explained(failure: ConformanceFailure) -> str:
    """A failure's sentence, its check, and the last chunks as a table."""
    lines = [failure.message_line]
    if failure.check:
        lines.append(f"check: {failure.check}")
    if failure.chunks:
        lines += ["", *_chunk_table(failure.chunks)]
    return "\n".join(lines)


def report_table(report: Report) -> str:
    """One line a check, then each failure in full, then the verdict."""
    rows = [("check", "outcome", "ms", ""), *(_row(result) for result in report.results)]
    lines = aligned(rows)
    for failure in report.failures:
        lines += ["", f"{type(failure).__name__}: {explained(failure)}"]
    return "\n".join([*lines, "", _verdict(report)])


def _row(result: CheckResult) -> tuple[str, ...]:
    names = ", ".join(type(failure).__name__ for failure in result.failures)
    took = f"{result.seconds * 1000:.1f}" if result.seconds else "-"
    return result.check, result.outcome.replace("_", " "), took, names or result.reason or ""


def _verdict(report: Report) -> str:
    word = "conforms" if report.conforms else "does not conform"
    counts = {"passed": 0, "failed": 0, "skipped": 0, "not_run": 0}
    for result in report.results:
        counts[result.outcome] += 1
    parts = [f"{count} {name.replace('_', ' ')}" for name, count in counts.items() if count]
    return f"{word} to profile {report.profile}: {', '.join(parts)}"


def _chunk_table(chunks: Sequence[Chunk]) -> list[str]:
    first = max(0, len(chunks) - _LAST)
    rows = [("chunk", "ms", "token_ids", "finish_reason", "usage")]
    rows += [_chunk_row(first + index, chunk) for index, chunk in enumerate(chunks[first:])]
    more = [f"({first} chunks before these)"] if first else []
    return [*more, *aligned(rows)]


def _chunk_row(index: int, chunk: Chunk) -> tuple[str, str, str, str, str]:
    at = f"{chunk.at * 1000:.1f}"
    if chunk.error is not None:
        return str(index), at, f"raised {chunk.error:.120}", "", ""
    return str(index), at, _tokens(chunk), str(chunk.finish_reason or "-"), _usage(chunk)


def _tokens(chunk: Chunk) -> str:
    more = len(chunk.token_ids) - _SHOWN_TOKENS
    shown = ", ".join(f"{token!r:.20}" for token in chunk.token_ids[:_SHOWN_TOKENS])
    return f"[{shown}, … {more} more]" if more > 0 else f"[{shown}]"


def _usage(chunk: Chunk) -> str:
    usage = chunk.usage
    if usage is None:
        return "-"
    return f"{usage.prompt_tokens} + {usage.completion_tokens} = {usage.total_tokens}"


def aligned(rows: Iterable[Sequence[str]]) -> list[str]:
    """A line a row, its cells in columns."""
    rows = list(rows)
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
