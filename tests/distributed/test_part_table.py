"""Claims: a part holds the rows of a chunk with the types that the operation says, as they were
computed, also what is no finite number; which fields a row has, and what prompts without rows
carry. Other tables, and values that aren't of their column's type, are refused.
"""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forwardcache.distributed.parts.table import PartFacts, PartRows, encode_part
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.rows import RawRow

FACTS = PartFacts("ab" * 32, "cd" * 32, "next_token_dist", ("base", "ft:\udc80", "ft:\\udc80"), 4)


def fields(*logprobs: float, **others: Any) -> dict[str, Any]:
    ids = np.arange(len(logprobs)) * 2**33
    return {
        "top_k": 4,
        "token_ids": ids,
        "logprobs": np.array(logprobs, np.float32),
        "tail_logprob": None,
        "vocab_size": 9,
        **others,
    }


ROWS = [
    RawRow(0, FACTS.views[0], False, fields(-0.1, math.nan, -math.inf, math.inf)),
    RawRow(0, FACTS.views[1], True, fields(-0.25, kl_base_nats=math.nan)),
    RawRow(0, FACTS.views[2], True, fields(kl_base_nats=None)),
    RawRow(2, FACTS.views[0], False, fields(-0.5)),
    RawRow(2, FACTS.views[1], False, fields(-0.1, kl_base_nats=1e-300, tail_logprob=-2.5)),
    RawRow(2, FACTS.views[2], False, fields(-0.1, kl_base_nats=0.1)),
]
INPUTS: list[dict[str, Any]] = [{"id": "\ud83d"}, {"n": [1]}, {}]


def test_a_part_holds_what_was_computed() -> None:
    content = encode_part(FACTS, ROWS, INPUTS)
    part = PartRows(content)
    assert part.facts == FACTS
    assert part.positions.tolist() == [0, 0, 0, 2, 2, 2]
    assert part.views.tolist() == [0, 1, 2, 0, 1, 2]
    assert part.hits.tolist() == [False, True, True, False, False, False]
    assert [part.layouts[code][5:] for code in part.layout] == [
        tuple(row.fields)[5:] for row in ROWS
    ]
    assert [part.inputs[code] for code in part.input] == 3 * ['{"id": "\\ud83d"}'] + 3 * ["{}"]
    assert part.unscored == {1: '{"n": [1]}'}
    for name in ("token_ids", "logprobs"):
        column = part.column(name)
        kept = [column[at].values.to_numpy() for at in range(len(ROWS))]
        for one, row in zip(kept, ROWS, strict=True):
            assert one.tobytes() == row.fields[name].tobytes()
            assert one.dtype == row.fields[name].dtype
    divergences = part.column("kl_base_nats").to_pylist()
    assert math.isnan(divergences[1])
    assert divergences[2:] == [None, None, 1e-300, 0.1]
    table = pl.read_parquet(io.BytesIO(content))
    assert table["logprobs"][1].to_list() == [-0.25]
    assert table["view"].to_list()[:3] == ["base", "ft:\\udc80", "ft:\\udc80 (2)"]


def test_a_chunk_without_rows_is_a_part_too() -> None:
    part = PartRows(encode_part(FACTS, [], INPUTS))
    assert len(part) == 0
    assert list(part.unscored) == [0, 1, 2]


@pytest.mark.parametrize(
    "spoilt",
    [
        {"vocab_size": 9.0},
        {"vocab_size": True},
        {"tail_logprob": 1},
        {"logprobs": np.zeros(1)},
        {"logprobs": [0.1]},
        {"logprobs": np.zeros((1, 1), np.float32)},
        {"token_ids": np.array([True])},
        {"token_ids": np.zeros(1, np.uint64)},
        {"perplexity": 1.0},
    ],
)
def test_what_a_column_does_not_hold_is_refused(spoilt: dict[str, Any]) -> None:
    [name] = spoilt
    with pytest.raises(TypeError, match=name):
        encode_part(FACTS, [RawRow(0, "base", False, fields(-0.1, **spoilt))], [{}])


def with_metadata(content: bytes, old: bytes, new: bytes) -> bytes:
    """The same table, its metadata with ``new`` for ``old``."""
    table = pq.read_table(pa.BufferReader(content))
    told = table.schema.metadata[b"forwardcache"]
    assert old in told
    metadata = {b"forwardcache": told.replace(old, new)}
    return parquet(table.replace_schema_metadata(metadata))


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def test_other_tables_are_refused() -> None:
    content = encode_part(FACTS, ROWS, INPUTS)
    table = pq.read_table(pa.BufferReader(content))
    for other in (
        b"",
        content[:-9],
        content[100:],
        parquet(pa.table({"x": [1]})),
        parquet(table.drop_columns("hit")),
        parquet(table.set_column(10, "kl_base_nats", pa.array([1] * len(ROWS)))),
        with_metadata(content, b"part 1", b"part 0"),
        with_metadata(content, b"next_token_dist", b"no_such_op"),
        with_metadata(content, b'"op"', b'"of"'),
        with_metadata(content, b'"kl_base_nats"', b'"perplexity"'),
        with_metadata(content, b'"ft:', b'"xx:'),
        parquet(table.set_column(3, "layout", pa.array([9] * len(ROWS), pa.int32()))),
    ):
        with pytest.raises(InvalidInputError, match="no part of this version"):
            PartRows(other)
