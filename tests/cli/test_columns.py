"""Claims: in a table the user's own fields are columns of their own types, nested or not, where all
prompts agree on them, and JSON text where they don't; either way nothing of them is lost.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwardcache.jobs.columns import InputColumns
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.rows import row


def table(folder: Path, carried: list[dict[str, Any]]) -> pl.DataFrame:
    """What a run over prompts with these fields leaves as a table."""
    prompts = [Prompt(line, "p", None, fields) for line, fields in enumerate(carried, start=1)]
    out = folder / "rows.parquet"
    part = PartFile(out, {}, force=True, resume=False, prompts=prompts)
    try:
        for each in prompts:
            fields = {"logprob": -1.0}
            part.write(
                [
                    row(
                        each,
                        view="base",
                        op="logprob_of",
                        hit=False,
                        fields=fields,
                    )
                ]
            )
        part.publish()
    finally:
        part.close()
    return pl.read_parquet(out)


@pytest.mark.parametrize(
    ("carried", "kind"),
    [
        ([{"a": 1}, {"a": 2}], pl.Struct({"a": pl.Int64})),
        ([{"a": 1}, {"a": 2.5}], pl.Struct({"a": pl.Float64})),
        ([{"a": "x"}, {"b": True}], pl.Struct({"a": pl.String, "b": pl.Boolean})),
        ([{"a": [{"b": 1}, {"c": "x"}]}, {"a": []}],
         pl.Struct({"a": pl.List(pl.Struct({"b": pl.Int64, "c": pl.String}))})),
        ([{"a": {}}, {"a": {"b": 2**62}}], pl.Struct({"a": pl.Struct({"b": pl.Int64})})),
        ([{"a": None}, {}], pl.Struct({"a": pl.String})),
        ([{"a": 1}, {"a": "1"}], pl.String),
        ([{"a": 2**53 + 1}, {"a": 0.5}], pl.String),
        ([{"a": 10**30}], pl.String),
        ([{"a": True}, {"a": 1}], pl.String),
        ([{"a": {}}], pl.String),
        ([{}, {}], pl.String),
        ([{"a": "\ud800"}], pl.String),
        ([{f"field {number}": 0} for number in range(1001)], pl.String),
    ],
)  # fmt: skip
def test_the_carried_fields_have_the_type_that_all_agree_on(
    tmp_path: Path, carried: list[dict[str, Any]], kind: Any
) -> None:
    frame = table(tmp_path, carried)
    assert frame.schema["input"] == kind
    if kind == pl.String:
        assert [json.loads(text) for text in frame["input"]] == carried


@pytest.mark.parametrize(
    ("ids", "kind", "kept"),
    [
        ([7, -1], pl.Int64, [7, -1]),
        (["a", "b"], pl.String, ["a", "b"]),
        ([1.5, 2], pl.Float64, [1.5, 2.0]),
        ([True, False], pl.Boolean, [True, False]),
        (["a", None], pl.String, ['"a"', "2"]),
        ([1, "1"], pl.String, ["1", '"1"']),
        ([[1], {"x": 2}], pl.Int64, [1, 2]),
    ],
)
def test_ids_have_the_type_that_all_agree_on(
    tmp_path: Path, ids: list[Any], kind: Any, kept: list[Any]
) -> None:
    frame = table(tmp_path, [{"id": each} for each in ids])
    assert frame.schema["id"] == kind
    assert frame["id"].to_list() == kept
    assert frame["line"].to_list() == [1, 2]


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_characters="\0"), max_size=5),
    lambda inner: st.lists(inner, max_size=3)
    | st.dictionaries(st.text("ab é", max_size=3), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


def filled(value: Any, kind: Any) -> Any:
    """``value`` as a column of ``kind`` gives it back: a field that isn't there is null."""
    if isinstance(kind, dict):
        value = value or {}
        return {name: filled(value.get(name), each) for name, each in kind.items()}
    if isinstance(kind, list) and value is not None:
        return [filled(each, kind[0]) for each in value]
    return value


def bare(value: Any) -> Any:
    """``value`` with null for a struct of nulls, which a table may not tell apart."""
    if isinstance(value, dict):
        found = {name: bare(each) for name, each in value.items()}
        return (
            None
            if set(found.values() if all(map(_hashable, found.values())) else [1]) <= {None}
            else found
        )
    return [bare(each) for each in value] if isinstance(value, list) else value


def _hashable(value: Any) -> bool:
    return not isinstance(value, dict | list)


@given(
    st.lists(st.dictionaries(st.sampled_from("abc"), VALUES, max_size=3), min_size=1, max_size=3)
)
def test_no_value_is_changed(
    tmp_path_factory: pytest.TempPathFactory, carried: list[dict[str, Any]]
) -> None:
    frame = table(tmp_path_factory.mktemp("out"), carried)
    kind = InputColumns.of([Prompt(1, "p", None, fields) for fields in carried]).input
    if kind is None:
        assert [json.loads(text) for text in frame["input"]] == carried
        return
    for read, fields in zip(frame["input"], carried, strict=True):
        assert bare(read) == bare(filled(fields, kind))
