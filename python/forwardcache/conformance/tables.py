"""Rows and chunks as lines of text, in columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from forwardcache.conformance.chunk import Chunk

__all__ = ["aligned", "chunk_table"]

_LAST = 5
_SHOWN_TOKENS = 8


def chunk_table(chunks: Sequence[Chunk]) -> list[str]:
    """The last chunks of a stream, a line each."""
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
