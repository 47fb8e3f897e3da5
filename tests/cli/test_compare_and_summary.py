"""The arithmetic behind the rows and the table, without a model."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from forwardcache.cli.compare import kl_nats, narrowed, with_tail
from forwardcache.cli.digits import float32_lists
from forwardcache.cli.hits import HitRecorder
from forwardcache.cli.job import Tally
from forwardcache.cli.rows import encoded, float32_list
from forwardcache.cli.summary import (
    as_json,
    bootstrap_interval,
    differences,
    figures_between,
    yardstick_nats,
)
from forwardcache.cli.views import parse_views
from forwardcache.instrumentation import BackendInstrumentation
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
    assert kl_nats(narrowed(base, top_k), view) == pytest.approx(expected, abs=1e-6)


def test_kl_needs_every_token_of_base() -> None:
    base, view = narrowed(full_dist(1), 40), narrowed(full_dist(2), 40)
    assert kl_nats(base, view) is None


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
    assert np.array_equal(np.array(float32_list(values), dtype=np.float32), values)
    assert float32_list(np.array([-np.inf, 0.5], dtype=np.float32)) == [None, 0.5]
    assert max(len(str(value)) for value in float32_list(values)) <= 14


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


def test_a_view_lacks_a_token_of_base_that_is_above_all_its_own() -> None:
    base = TokenDist(np.array([63]), np.array([-0.1], np.float32), VOCABULARY, -2.4)
    view = TokenDist(np.array([3, 1]), np.array([-0.2, -2.0], np.float32), VOCABULARY, -3.0)
    assert kl_nats(base, view) is None


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


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    chance = np.random.default_rng(5)
    samples = chance.exponential(2.0, (200, 60))
    ends = [bootstrap_interval(sample) for sample in samples]
    assert 0.87 <= np.mean([low <= 2.0 <= high for low, high in ends]) <= 0.99
    assert bootstrap_interval(samples[0]) == ends[0]
    assert all(math.isnan(end) for end in bootstrap_interval(samples[0][:1]))


def test_nulls_are_the_yardstick() -> None:
    views = parse_views("base,ft,null:1,null:2", has_adapter=True)
    tally = Tally({"ft": [2.0, 4.0, None], "null_1": [0.1, 0.3, 0.2], "null_2": [0.5, 0.5, 0.5]})
    found = differences(views, tally)
    assert yardstick_nats(found) == pytest.approx(0.5)
    tuned = as_json(found, "next_token_dist")[0]
    assert tuned["mean_kl_base_nats"] == pytest.approx(3.0)
    assert tuned["times_null"] == pytest.approx(6.0)
    assert (tuned["prompts"], tuned["not_finite"], tuned["is_null"]) == (2, 1, False)


def test_without_nulls_there_is_no_yardstick() -> None:
    found = differences(parse_views("base,ft", has_adapter=True), Tally({"ft": [1.0]}))
    (tuned,) = as_json(found, "rolling_logprob")
    assert tuned["times_null"] is None
    assert (tuned["mean_delta_nats"], tuned["low"], tuned["high"]) == (1.0, None, None)


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
