"""The arithmetic behind the rows and the table, without a model."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from forwardcache._core import _float32_texts, _int64_texts
from forwardcache.cli.tables import show_comparison
from forwardcache.divergence import divergence, narrowed, with_tail
from forwardcache.hf.scoring.noise import NoiseFloor
from forwardcache.instrumentation import BackendInstrumentation
from forwardcache.jobs.differences import Comparison, differences
from forwardcache.jobs.digits import float32_lists
from forwardcache.jobs.hits import HitRecorder
from forwardcache.jobs.job import Totals
from forwardcache.jobs.rows import encoded
from forwardcache.jobs.summary import as_json, figures_between, notes
from forwardcache.jobs.views import parse_views
from forwardcache.operations import operation
from forwardcache.scoring import TokenDist

VOCABULARY = 64


def full_dist(seed: int) -> TokenDist:
    """A distribution over the whole vocabulary."""
    logits = np.random.default_rng(seed).normal(0, 3, VOCABULARY)
    logprobs = logits - np.logaddexp.reduce(logits)
    order = np.argsort(-logprobs)
    return TokenDist(order, logprobs[order], VOCABULARY, None)


def dense(dist: TokenDist) -> np.ndarray:
    """float64[vocabulary] by id."""
    logprobs = np.empty(VOCABULARY)
    logprobs[dist.token_ids] = dist.logprobs.astype(np.float64)
    return logprobs


@pytest.mark.parametrize("top_k", [1, 5, 63, 64])
def test_kl_is_that_of_base_s_tokens_and_one_tail(top_k: int) -> None:
    base, view = full_dist(1), full_dist(2)
    p, q = np.exp(dense(base)), np.exp(dense(view))
    ids = base.token_ids[:top_k]
    rest = np.setdiff1d(np.arange(VOCABULARY), ids)
    expected = float(np.sum(p[ids] * np.log(p[ids] / q[ids])))
    if len(rest):
        expected += p[rest].sum() * math.log(p[rest].sum() / q[rest].sum())
    found = divergence(narrowed(base, top_k), view, needed=top_k)
    assert found is not None
    assert found.nats == pytest.approx(expected, abs=1e-6)
    assert (found.tokens, found.is_exact) == (top_k, top_k == VOCABULARY)
    assert found.mass_outside == pytest.approx(p[rest].sum(), abs=1e-6)


def test_kl_needs_the_first_tokens_of_base() -> None:
    base, view = narrowed(full_dist(1), 40), narrowed(full_dist(2), 40)
    shared = np.isin(base.token_ids, view.token_ids)
    first = int(np.argmin(shared))
    assert divergence(base, view, needed=first) is not None
    assert divergence(base, view, needed=first + 1) is None


@pytest.mark.parametrize("seed", range(5))
def test_every_token_in_hand_is_compared_and_raises_the_bound(seed: int) -> None:
    whole, other = full_dist(seed), full_dist(seed + 100)
    truth = divergence(whole, other, needed=64)
    base, view = narrowed(whole, 40), narrowed(other, 40)
    found, few = (divergence(base, each, needed=0) for each in (view, narrowed(other, 8)))
    assert truth is not None
    assert found is not None
    assert few is not None
    assert found.tokens == len(np.intersect1d(base.token_ids, view.token_ids))
    assert few.tokens < found.tokens
    assert few.nats <= found.nats <= truth.nats
    assert truth.is_exact
    assert not found.is_exact


def test_the_divergence_of_a_small_change_is_seen_through_float32() -> None:
    """Log-probabilities of float32 are off by 3e-7 in common; the change makes 5e-9 nats."""
    chance = np.random.default_rng(0)
    found, truths = [], []
    for _ in range(40):
        logits = chance.normal(0, 3, VOCABULARY)
        ours, theirs = (
            each - np.logaddexp.reduce(each)
            for each in (logits, logits + chance.normal(0, 1e-4, VOCABULARY))
        )
        order = np.argsort(-ours)
        shift = np.float32(3e-7)
        base = TokenDist(order, ours[order].astype(np.float32) - shift, VOCABULARY, None)
        view = TokenDist(order, theirs[order].astype(np.float32), VOCABULARY, None)
        one = divergence(base, view, needed=8)
        assert one is not None
        found.append(one.nats)
        truths.append(float(np.sum(np.exp(ours) * (ours - theirs))))
    assert np.mean(found) == pytest.approx(np.mean(truths), rel=0.02)


def test_a_narrowed_distribution_joins_what_it_drops_to_its_tail() -> None:
    whole = full_dist(3)
    once, twice = narrowed(whole, 8), narrowed(narrowed(whole, 30), 8)
    assert once.token_ids.tolist() == whole.token_ids[:8].tolist()
    assert once.tail_logprob == pytest.approx(
        np.log(np.exp(dense(whole)[whole.token_ids[8:]]).sum())
    )
    assert twice.tail_logprob == pytest.approx(once.tail_logprob, abs=1e-9)
    assert narrowed(whole, 64) is whole


def test_floats_in_rows_read_back_as_the_same_float32() -> None:
    values = np.random.default_rng(0).normal(-5, 4, 1000).astype(np.float32)
    found, others = float32_lists([values, np.array([-np.inf, 0.5], dtype=np.float32)])
    assert np.array_equal(np.array(found, dtype=np.float32), values)
    assert others == [None, 0.5]
    assert max(len(str(value)) for value in found) <= 14


@pytest.mark.parametrize("kind", ["any bits", "log-probabilities", "magnitudes", "corners"])
def test_a_row_s_numbers_are_the_shortest_and_look_as_python_s_json_has_them(kind: str) -> None:
    chance = np.random.default_rng(0)
    values = {
        "any bits": chance.integers(0, 2**32, 20_000).astype(np.uint32).view(np.float32),
        "log-probabilities": -chance.exponential(4.0, 20_000).astype(np.float32),
        "magnitudes": (10.0 ** chance.uniform(-7, 18, 20_000)).astype(np.float32),
        "corners": np.array([0.0, -0.0, 1.0, 1e-3, 1e6, 1e-4, 1e16, np.nan, np.inf], np.float32),
    }[kind]
    expected = [float(str(value)) if np.isfinite(value) else None for value in values]
    *pieces, whole = float32_lists([*np.array_split(values, 7), values[:0], values])
    assert whole == expected
    assert whole.text == json.dumps(expected)
    assert [value for piece in pieces for value in piece] == expected
    assert pieces[-1].text == "[]"
    row = {"id": 0, "token_ids": [1], "logprobs": whole, "tail_logprob": None, "input": {"a": 0.5}}
    assert encoded([row, row]) == 2 * (json.dumps({**row, "logprobs": expected}) + "\n").encode()


def test_the_core_writes_lists_of_numbers_as_python_s_json_does() -> None:
    whole = np.array([0, -1, 50_256, 2**63 - 1, -(2**63)])
    pieces = [whole, whole[:0], whole[1:2]]
    lengths = list(map(len, pieces))
    data = np.concatenate(pieces).tobytes()
    assert _int64_texts(data, lengths) == [json.dumps(each.tolist()) for each in pieces]
    values = np.array([1e-5, -0.0, np.nan, 0.1, -np.inf], np.float32)
    assert _float32_texts(values.tobytes(), [2, 0, 3]) == [
        "[1e-05, -0.0]",
        "[]",
        "[null, 0.1, null]",
    ]
    for data, lengths in ((bytes(8), [2]), (bytes(16), [1]), (bytes(9), [1]), (b"", [2**62])):
        with pytest.raises(ValueError, match="numbers than the lists"):
            _int64_texts(data, lengths)


def test_a_view_lacks_a_token_of_base_that_is_above_all_its_own() -> None:
    base = TokenDist(np.array([63]), np.array([-0.1], np.float32), VOCABULARY, -2.4)
    view = TokenDist(np.array([3, 1]), np.array([-0.2, -2.0], np.float32), VOCABULARY, -3.0)
    assert divergence(base, view, needed=1) is None


def test_of_a_tail_without_mass_there_is_nothing_and_of_a_broken_one_no_number() -> None:
    nothing = np.full(3, -np.inf, np.float32)
    assert with_tail(nothing, None) == with_tail(nothing[:0], None) == -math.inf
    assert with_tail(nothing, -1.5) == -1.5
    assert math.isnan(with_tail(np.array([np.nan, -1.0], np.float32), -2.0))
    assert with_tail(np.array([-1000.0, -1000.0], np.float32), None) == pytest.approx(
        -1000.0 + math.log(2.0), abs=1e-12
    )


def test_rows_are_strict_json() -> None:
    with pytest.raises(ValueError, match="JSON compliant"):
        encoded([{"kl_base_nats": math.inf}])
    assert json.loads(encoded([{"input": {"x": "\u20ac"}}])) == {"input": {"x": "\u20ac"}}


@pytest.mark.parametrize(
    ("texts", "kind"),
    [(1, "none"), (2, "none"), (19, "none"), (20, "rough"), (99, "rough"), (100, "known")],
)
def test_few_texts_have_no_interval_or_a_rough_one(texts: int, kind: str) -> None:
    values = [float(n % texts) for n in range(3 * texts)]
    comparison = compared("base,ft", {"ft": values}, texts=[str(n % texts) for n in range(300)])
    (tuned,) = as_json(comparison)
    assert (tuned["prompts"], tuned["texts"]) == (3 * texts, texts)
    assert (tuned["kl_base_nats"]["interval"] is None) == (kind == "none")
    (said, *_) = notes(comparison)
    assert ("No intervals" in said, "rough" in said) == (kind == "none", kind == "rough")


# Against null views


def compared(
    views: str,
    values: Mapping[str, Sequence[float | None]],
    *,
    op: str = "next_token_dist",
    texts: list[str] | None = None,
    floor: NoiseFloor | None = None,
    norms: Mapping[str, float | None] | None = None,
) -> Comparison:
    """The comparison of rows with these values, prompt by prompt."""
    totals = Totals(operation(op).figure)
    name = "kl_base_nats" if op == "next_token_dist" else "delta_nats"
    for view, of_view in values.items():
        for line, value in enumerate(of_view):
            totals.note({"line": line, "view": view, name: value})
    known = None if texts is None else dict(enumerate(texts))
    asked = parse_views(views, has_adapter=True)
    found = differences(asked, totals, texts=known)
    return Comparison(op, found, floor, dict(norms or {}))


def shown(comparison: Comparison) -> str:
    stream = io.StringIO()
    show_comparison(stream, comparison)
    return stream.getvalue()


MATCHED = ",".join(f"null:{seed}:matched" for seed in range(19))


def with_nulls(values: Mapping[str, Sequence[float]], size: float) -> dict[str, list[float]]:
    """These values, with 19 matched nulls that are about as far as ``size``."""
    nulls = {f"null_{seed}_matched": [size * (1 + seed / 100)] * 3 for seed in range(19)}
    return {**{view: list(of_view) for view, of_view in values.items()}, **nulls}


def test_an_adapter_is_held_to_random_changes_of_its_norm() -> None:
    comparison = compared(f"base,ft,{MATCHED}", with_nulls({"ft": [2.0, 4.0, 3.0]}, 0.5))
    tuned, *nulls = as_json(comparison)
    assert (tuned["nulls"]["rank"], tuned["nulls"]["n"], tuned["nulls"]["p"]) == (1, 19, 0.05)
    assert tuned["nulls"]["ratio_to_mean"] == pytest.approx(3.0 / (0.5 * 1.09))
    assert {one["nulls"] for one in nulls} == {None}
    said = notes(comparison)[-1]
    for words in ("random change of the same weight norm?", "first of 20", "5.5 times"):
        assert words in said


def test_a_random_change_that_moves_as_far_is_counted() -> None:
    (tuned, *_) = as_json(compared(f"base,ft,{MATCHED}", with_nulls({"ft": [0.55] * 3}, 0.5)))
    assert (tuned["nulls"]["rank"], tuned["nulls"]["p"]) == (10, 0.5)


def test_few_matched_nulls_tell_the_place_alone() -> None:
    values = {"ft": [1.0], "null_1_matched": [0.1], "null_2_matched": [0.2]}
    comparison = compared("base,ft,null:1:matched,null:2:matched", values)
    assert "first of 3" in notes(comparison)[-1]
    assert "significant" not in notes(comparison)[-1]


def test_nulls_of_another_norm_and_other_strengths_are_held_to_nothing() -> None:
    values = with_nulls({"ft": [2.0] * 3, "scaled_0.50": [1.0] * 3, "null_1": [0.1] * 3}, 0.5)
    with_both = compared(f"base,ft,scaled:0.5,null:1,{MATCHED}", values)
    places = {one["view"]: one["nulls"] for one in as_json(with_both)}
    assert [view for view, place in places.items() if place] == ["ft"]
    assert places["ft"]["n"] == 19
    alone = compared("base,ft,null:1", values)
    assert as_json(alone)[0]["nulls"] is None
    assert "a weight norm of their own" in notes(alone)[-1]
    assert "a weight norm of their own" in notes(with_both)[-1]


def test_without_nulls_it_is_said_how_to_have_them() -> None:
    comparison = compared("base,ft", {"ft": [1.0]}, op="rolling_logprob")
    (tuned,) = as_json(comparison)
    assert tuned["nulls"] is None
    assert (tuned["delta_nats"]["mean"], tuned["delta_nats"]["interval"]) == (1.0, None)
    assert "null:1:matched" in notes(comparison)[-1]


def test_a_table_with_nulls_says_their_deviation_and_both_norms() -> None:
    norms = {"ft": 35.5, "null_1": 1.25, "null_2_init0.2": 125.0, "null_3_matched": 35.49}
    values = {"ft": [3.0], "null_1": [0.1], "null_2_init0.2": [9.0], "null_3_matched": [1.0]}
    comparison = compared("base,ft,null:1,null:2:0.2,null:3:matched", values, norms=norms)
    text = shown(comparison)
    for word in ("35.50", "1.250", "125.0", "0.02", "0.2", "35.49", "matched norm"):
        assert word in text
    assert [one["deviation"] for one in as_json(comparison)] == [None, 0.02, 0.2, None]
    assert [one["update_norm"] for one in as_json(comparison)] == [35.5, 1.25, 125.0, 35.49]


def test_nothing_is_divided_by_nulls_that_can_t_be_told_from_0() -> None:
    chance = np.random.default_rng(2)
    values = {
        "ft": chance.exponential(1.0, 50).tolist(),
        "null_1_matched": chance.normal(0, 1e-9, 50).tolist(),
    }
    everyone = [str(n) for n in range(50)]
    (tuned, _) = as_json(compared("base,ft,null:1:matched", values, texts=everyone))
    assert (tuned["nulls"]["rank"], tuned["nulls"]["ratio_to_mean"]) == (1, None)


def test_nothing_is_divided_by_nulls_within_other_batches() -> None:
    floor = NoiseFloor("next_token_dist", "bfloat16", 32, mean_nats=1e-3, max_nats=2e-3)
    values: dict[str, list[float]] = {"ft": [0.5], "null_1_matched": [1e-4]}
    (tuned, _) = as_json(compared("base,ft,null:1:matched", values, floor=floor))
    assert tuned["nulls"]["ratio_to_mean"] is None


# Differences with a sign


@pytest.mark.parametrize("op", ["logprob_of", "rolling_logprob"])
def test_a_view_that_helps_half_and_hurts_half_is_seen(op: str) -> None:
    chance = np.random.default_rng(3)
    moved = np.where(np.arange(200) % 2 == 0, 2.0, -2.0) + chance.normal(0, 0.1, 200)
    null = chance.normal(0, 0.01, 200)
    values = {"ft": moved.tolist(), "null_1_matched": null.tolist()}
    comparison = compared(
        "base,ft,null:1:matched", values, op=op, texts=[str(n) for n in range(200)]
    )
    tuned, _ = as_json(comparison)
    figures = tuned["delta_nats"]
    assert figures["interval"][0] < 0 < figures["interval"][1]
    assert figures["mean_abs"] == pytest.approx(2.0, rel=0.05)
    assert (figures["better"], figures["worse"]) == (0.5, 0.5)
    expected = np.abs(moved).mean() / np.abs(null).mean()
    assert tuned["nulls"]["ratio_to_mean"] == pytest.approx(expected)
    text = shown(comparison)
    assert f"{expected:,.0f} times" in text
    assert "better" in text
    assert "50%" in text


def test_a_mean_near_0_of_a_null_is_divided_by_nowhere() -> None:
    """The mean of this null is 1e-5 and its mean size 0.1: a ratio of means would be 10,000."""
    null = [0.1, -0.1, 0.1, -0.09996] * 25
    values: dict[str, list[float]] = {"ft": [0.1] * 100, "null_1_matched": null}
    tuned, _ = as_json(compared("base,ft,null:1:matched", values, op="logprob_of"))
    assert tuned["nulls"]["ratio_to_mean"] == pytest.approx(1.0, rel=1e-3)


def test_the_tables_fit_a_terminal_of_80_columns() -> None:
    values = {"scaled_0.50": [-12.3456, 1.0] * 60, "null_12345": [0.123456, -0.1] * 60}
    for op in ("next_token_dist", "logprob_of"):
        comparison = compared(
            "base,scaled:0.5,null:12345", values, op=op, norms={"scaled_0.50": 123.456}
        )
        tables = [line for line in shown(comparison).splitlines() if line[:1] in "┏┃┡│└"]
        assert max(map(len, tables)) <= 80
        assert "null_12345 (random)" in "".join(tables)


# Bounds


def test_a_bound_is_called_one_and_says_over_how_much() -> None:
    totals = Totals(operation("next_token_dist").figure)
    for line, (tokens, outside) in enumerate([(300, 0.25), (256, 0.5)]):
        totals.note({"line": line, "view": "ft", "kl_lower_bound": 1.0, "mass_outside": outside,
                    "compared_tokens": tokens})  # fmt: skip
    views = parse_views("base,ft", has_adapter=True)
    found = differences(views, totals)
    comparison = Comparison(
        "next_token_dist",
        found,
        is_bound=True,
        fewest_tokens=totals.fewest_tokens,
        most_outside=totals.most_outside,
    )
    assert as_json(comparison)[0]["kl_lower_bound"]["mean"] == 1.0
    assert "kl_base_nats" not in as_json(comparison)[0]
    text = shown(comparison)
    assert "lower bound" in text
    assert "256 tokens or more" in text
    assert "0.5 of base's probability" in text


def test_a_divergence_below_0_is_said_to_be_rounding() -> None:
    values: dict[str, list[float]] = {"ft": [1e-3, -2e-8]}
    comparison = compared("base,ft", values)
    assert as_json(comparison)[0]["kl_base_nats"]["mean"] == pytest.approx((1e-3 - 2e-8) / 2)
    assert any("below 0" in note and "rounding" in note for note in notes(comparison))


def test_figures_are_those_of_one_run() -> None:
    inst = BackendInstrumentation()
    inst.cached_batch("op", "base", ["a", "b"], 1, lambda indices: [1 for _ in indices])
    before = inst.stats.to_dict()
    inst.cached_batch("op", "base", ["a", "b", "c"], 1, lambda indices: [1 for _ in indices])
    gained = figures_between(before, inst.stats.to_dict())
    assert (gained["cache_hits"], gained["forward_passes"]) == (2, 1)
    assert gained["hit_rate"] == pytest.approx(2 / 3)


def test_the_recorder_knows_which_values_were_computed() -> None:
    recorder = HitRecorder(BackendInstrumentation())

    def ask(*prompts: str) -> list[bool]:
        recorder.forget()
        recorder.cached_batch("op", "base", prompts, 1, lambda indices: [0 for _ in indices])
        return recorder.hits(prompts)

    assert ask("a", "b") == [False, False]
    assert ask("b", "c", "a", "c", "c") == [True, False, True, True, True]
    assert ask() == []
