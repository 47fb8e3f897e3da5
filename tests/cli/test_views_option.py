"""``--views``: what is understood, what is refused, and that names tell views apart."""

from __future__ import annotations

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.views import View, parse_views


def test_every_kind_of_view_is_understood() -> None:
    text = "base,ft, scaled:0.5,scaled:-1e-3,null:7,null:8:0.1,null:9:0.02:2,null:7:matched"
    views = parse_views(text, has_adapter=True)
    assert views == (
        View("base"),
        View("ft"),
        View("scaled", lam=0.5),
        View("scaled", lam=-0.001),
        View("null", seed=7),
        View("null", seed=8, init_scale=0.1),
        View("null", seed=9, rank_scale=2.0),
        View("null", seed=7, matched=True),
    )


def test_names_are_the_trace_s_where_those_are_exact() -> None:
    views = parse_views(
        "base,ft,scaled:1.25,null:42,null:42:0.02:2,null:42:matched", has_adapter=True
    )
    names = [view.name for view in views]
    assert names == ["base", "ft", "scaled_1.25", "null_42", "null_42_rank2.00", "null_42_matched"]


def test_names_never_coincide() -> None:
    text = (
        "scaled:1.001,scaled:0.996,scaled:1,null:7,null:7:0.1,null:7:0.02:1.004,null:7:0.02:1.001,"
        "null:7:matched"
    )
    names = [view.name for view in parse_views(text, has_adapter=True)]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("base,tuned", "'tuned'"),
        ("", "''"),
        ("base,", "''"),
        ("base:1", "'base:1'"),
        ("scaled", "'scaled'"),
        ("scaled:", "lambda ''"),
        ("scaled:half", "lambda 'half'"),
        ("scaled:nan", "lambda 'nan'"),
        ("scaled:inf", "lambda 'inf'"),
        ("scaled:1e999", "lambda '1e999'"),
        ("null", "'null'"),
        ("null:x", "seed 'x'"),
        ("null:-1", "seed '-1'"),
        ("null:7.0", "seed '7.0'"),
        ("null:9223372036854775808", "below 2^63"),
        ("null:" + "9" * 5000, "below 2^63"),
        ("null:" + "٣", "seed '٣'"),
        ("null:", "seed ''"),
        ("null:7:x", "init_scale 'x'"),
        ("null:7:0.02:nan", "rank_scale 'nan'"),
        ("null:7:0.02:0", "positive"),
        ("null:7:0.02:1:1", "unknown view"),
        ("null:7:0.02:1:1", "null:SEED:matched"),
        ("null:matched", "seed 'matched'"),
        ("null:x:matched", "seed 'x'"),
        ("null:7:matched:0.5", "'matched'"),
        ("null:7:Matched", "'Matched'"),
        ("ft:matched", "unknown view"),
        ("null:7:matched,null:07:matched", "null_7_matched twice"),
        ("base,base", "base twice"),
        ("scaled:0.5,scaled:0.50", "scaled_0.50 twice"),
        ("scaled:0,scaled:-0", "scaled_0.00 twice"),
        ("null:7,null:7:0.02", "null_7 twice"),
    ],
)
def test_what_is_no_view_is_refused(text: str, word: str) -> None:
    with pytest.raises(InvalidInputError, match=r".") as refused:
        parse_views(text, has_adapter=True)
    assert word in str(refused.value)
    assert len(str(refused.value)) < 300


def test_zeros_before_a_seed_don_t_count() -> None:
    views = parse_views(f"null:{'0' * 5000},null:{'0' * 5000}7", has_adapter=True)
    assert views == (View("null", seed=0), View("null", seed=7))


@pytest.mark.parametrize("text", ["ft", "base,scaled:0.5", "null:7"])
def test_a_view_of_the_adapter_needs_one(text: str) -> None:
    with pytest.raises(InvalidInputError, match="--adapter"):
        parse_views(text, has_adapter=False)
