"""How chunks are read: dicts and objects, every spelling of a reason, copies on receipt."""

from types import SimpleNamespace
from typing import Any

import pytest

from forwardcache.conformance.chunk import Chunk, Usage, read_chunk
from tests.conformance.engines import NumberedReason, Reason


def reason(value: Any) -> Chunk:
    return read_chunk({"token_ids": [], "finish_reason": value}, 0.0)


def test_dicts_and_objects_are_read_alike() -> None:
    counts = {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}
    item = {"token_ids": [5], "index": 2, "finish_reason": "stop", "completion_usage": counts}
    alike = SimpleNamespace(**{**item, "completion_usage": SimpleNamespace(**counts)})
    expected = Chunk(0.5, (5,), 2, "stop", Usage(3, 1, 4))
    assert read_chunk(item, 0.5) == read_chunk(alike, 0.5) == expected


def test_missing_fields_are_none_and_no_tokens() -> None:
    assert read_chunk({}, 0.0) == Chunk(0.0)
    assert read_chunk(SimpleNamespace(token_ids=None), 0.0) == Chunk(0.0)


@pytest.mark.parametrize(
    "value", ["stop", "length", "", {"error": "x"}, {"type": "stop"}, 0, False]
)
def test_any_reason_but_none_is_terminal(value: Any) -> None:
    assert reason(value).terminal


def test_no_reason_is_not_terminal() -> None:
    assert not reason(None).terminal


@pytest.mark.parametrize(
    "value", ["cancelled", "abort", "Cancelled", Reason.CANCELLED, NumberedReason.ABORT]
)
def test_every_spelling_of_cancelled_counts(value: Any) -> None:
    assert reason(value).cancelled


@pytest.mark.parametrize(
    "value", ["length", "canceled by user", {"error": "cancelled"}, Reason.LENGTH, None]
)
def test_other_reasons_are_not_cancelled(value: Any) -> None:
    assert not reason(value).cancelled


def test_a_chunk_is_a_copy() -> None:
    tokens, counts = [1], {"completion_tokens": 1}
    read = read_chunk({"token_ids": tokens, "completion_usage": counts}, 0.0)
    tokens.append(2)
    counts["completion_tokens"] = 9
    assert read == Chunk(0.0, (1,), usage=Usage(completion_tokens=1))


@pytest.mark.parametrize("item", [None, 5, "text", b"x", [1, 2], object(), {"token_ids": 5}])
def test_what_is_no_chunk_is_refused(item: Any) -> None:
    with pytest.raises(TypeError):
        read_chunk(item, 0.0)
