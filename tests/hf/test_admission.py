"""Claims: a family is let in by what it shows in a few short forwards, not by its name.

Each of ``twists`` is a causal model with something odd in it. It is scored as the plainest way
does, in the fastest way that agrees with it, or refused with the reason.
"""

import copy
import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import Admission, HFBackend
from forwardcache.hf.batch import probe
from forwardcache.hf.batch.probe import probe_rows
from forwardcache.hf.batch.reach import MOST
from forwardcache.hf.scoring import admissions
from tests.hf import tiny, twists
from tests.tolerance import TOLERANCE

PROMPT = "the quick brown fox jumps over the lazy dog and over the hello world"
PROMPTS = [*tiny.PROMPTS, PROMPT, f"{PROMPT} and {PROMPT}", f"{PROMPT} and a fox, {PROMPT}"]
PAIRS = [(PROMPT, end) for end in (" dog", " fox jumps again", "x", " and", "s", " hello", "!")]
MOST_FORWARDS = 10


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    """No other test's models have shown anything yet, nor these to others."""
    admissions.forget_all()
    yield
    admissions.forget_all()


@contextmanager
def forwards_of(model: Any) -> Iterator[list[int]]:
    """The number of tokens of each forward of the model's body."""
    seen: list[int] = []
    embedding = model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, args: seen.append(args[0].numel()))
    try:
        yield seen
    finally:
        handle.remove()


def hold_to_the_plainest_way(model: Any, backend: HFBackend, tokenizer: Any, causal: bool) -> None:
    dists = backend.next_token_dist_batch(PROMPTS, top_k=5)
    plain = [tiny.logprobs_after(model, tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    for truth, dist in zip(plain, dists, strict=True):
        np.testing.assert_allclose(dist.logprobs, truth[-1][dist.token_ids], atol=TOLERANCE)
    if not causal:
        with pytest.raises(UnsupportedModelError, match="rolling_logprob needs a causal model"):
            backend.rolling_logprob_batch(PROMPTS)
        with pytest.raises(UnsupportedModelError, match="logprob_of needs a causal model"):
            backend.logprob_of("a", " b")
        return
    for prompt, rolled in zip(PROMPTS, backend.rolling_logprob_batch(PROMPTS), strict=True):
        # The model reads all tokens but the last, which is only scored.
        ids = tokenizer(prompt)["input_ids"]
        truth = tiny.logprobs_after(model, ids[:-1])
        scored = [truth[position, ids[position + 1]] for position in range(len(ids) - 1)]
        np.testing.assert_allclose(rolled.logprobs, scored, atol=TOLERANCE)
    for (prompt, end), value in zip(PAIRS, backend.completion_logprob_batch(PAIRS), strict=True):
        ids = tokenizer(prompt + end)["input_ids"]
        truth = tiny.logprobs_after(model, ids[:-1])
        own = range(len(ids) - value.num_tokens, len(ids))
        expected = sum(float(truth[position - 1, ids[position]]) for position in own)
        assert value.logprob == pytest.approx(expected, abs=TOLERANCE * value.num_tokens)


@pytest.mark.parametrize("max_logit_bytes", [None, 4 * tiny.VOCAB * 5])
@pytest.mark.parametrize("twist", twists.LET_IN, ids=lambda twist: twist.kind.__name__)
def test_a_family_nobody_knows_is_scored_exactly_or_not_at_all(
    twist: twists.Twist, max_logit_bytes: int | None, tokenizer: Any
) -> None:
    model = twists.made(twist.kind, twist.settings)
    backend = HFBackend(model, tokenizer, token_budget=256, max_logit_bytes=max_logit_bytes)
    hold_to_the_plainest_way(model, backend, tokenizer, twist.causal)
    found = backend.admission
    assert isinstance(found, Admission)
    assert (found.causal, found.batches, found.prefixes) == (
        twist.causal,
        twist.batches,
        twist.prefixes,
    )
    assert twist.note in "; ".join(found.notes)
    assert bool(found.notes) == bool(twist.note)


@pytest.mark.parametrize(("kind", "reason"), twists.REFUSED.items(), ids=str)
def test_what_can_not_be_scored_is_refused_when_the_backend_is_made(
    kind: type[Any], reason: str, tokenizer: Any
) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        HFBackend(twists.made(kind), tokenizer)


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama+lora"])
def test_it_takes_few_forwards_and_none_for_a_structure_that_was_seen(
    name: str, shared_models: dict[str, Any], tokenizer: Any
) -> None:
    model = copy.deepcopy(shared_models[name])
    backend = HFBackend(model, tokenizer)
    with forwards_of(model) as seen:
        HFBackend(model, tokenizer)
    assert 0 < len(seen) <= MOST_FORWARDS
    backend.logprob_of_batch(PAIRS)
    again = copy.deepcopy(shared_models[name])
    other = HFBackend(again, tokenizer)
    with forwards_of(again) as seen:
        other.next_token_dist(PROMPT)
    assert len(seen) == 1
    assert (other.stats.total_lookups, other.stats.forward_passes) == (1, 1)


def test_the_forwards_are_past_cache_and_counters(tokenizer: Any, tmp_path: Any) -> None:
    backend = HFBackend(tiny.llama(), tokenizer, trace_path=tmp_path / "trace.jsonl")
    assert backend.admission.causal
    assert backend.stats.total_lookups == 0
    backend.close()
    assert (tmp_path / "trace.jsonl").read_text() == ""


def structures(tokenizer: Any) -> Iterator[Any]:
    """Models that may not share a verdict with the plain one."""
    yield tiny.llama(dtype=torch.float64)
    yield twists.made(twists.LooksBack)
    window = tiny.llama()
    window.config.rope_parameters = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}
    yield window
    replaced = tiny.llama()
    own = replaced.model.layers[0].forward
    replaced.model.layers[0].forward = functools.partial(own)
    yield replaced
    yield tiny.with_lora(tiny.llama())


def test_another_structure_is_looked_at_anew(tokenizer: Any, monkeypatch: Any) -> None:
    HFBackend(tiny.llama(), tokenizer)
    looked: list[str] = []
    measured = probe.measured_ways

    def counting(runner: Any, rows: Any) -> Any:
        looked.append(runner.name)
        return measured(runner, rows)

    monkeypatch.setattr(admissions, "measured_ways", counting)
    HFBackend(tiny.llama(), tokenizer)
    assert looked == []
    for model in structures(tokenizer):
        before = len(looked)
        HFBackend(model, tokenizer)
        assert len(looked) > before


def test_an_adapter_put_on_later_is_looked_at_before_its_first_value(tokenizer: Any) -> None:
    backend = HFBackend(tiny.llama(), tokenizer)
    config = LoraConfig(target_modules=["q_proj"], r=2, task_type="CAUSAL_LM")
    model = get_peft_model(tiny.llama(), config).eval()
    other = HFBackend(model, tokenizer)
    assert backend.admission == other.admission
    ways = other._scorer.ways_in(other._scorer.own_spec())
    model.add_adapter("second", LoraConfig(target_modules=["v_proj"], r=3, task_type="CAUSAL_LM"))
    model.set_adapter("second")
    other.next_token_dist(PROMPT)
    assert other._scorer.ways_in(other._scorer.own_spec()) is not ways


def test_a_hook_that_reads_costs_no_forward(tokenizer: Any) -> None:
    model = tiny.llama()
    backend = HFBackend(model, tokenizer)
    with forwards_of(model) as seen:
        backend.next_token_dist(PROMPT)
    assert len(seen) == 1


def test_rows_reach_past_what_the_configuration_limits() -> None:
    model = tiny.llama()
    model.config.max_position_embeddings = 1024
    for name, value in {"sliding_window": 100, "far_window": MOST + 1, "my_chunk": 130}.items():
        setattr(model.config, name, value)
    rows = probe_rows(model, model, size=tiny.VOCAB, most=None)
    assert 130 <= rows.at < len(rows.own) < MOST
    short = probe_rows(model, model, size=tiny.VOCAB, most=24)
    assert max(map(len, (short.own, short.altered, short.crowd))) <= 24
    assert probe_rows(model, model, size=3, most=2).own


def test_a_row_that_is_not_finite_leaves_the_others_as_they_are(tokenizer: Any) -> None:
    model = tiny.llama()
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer("~").input_ids[-1]] = float("inf")
    pairs = [(PROMPT, end) for end in (" abc", " b cd", "~xy", " d efg h", " e", " f g")]
    for budget in (15, 2048):
        backend = HFBackend(model, tokenizer, token_budget=budget)
        found = backend.logprob_of_batch(pairs, on_error="return")
        alone = [HFBackend(model, tokenizer).logprob_of(*pair) for pair in pairs]
        assert [np.isfinite(value) for value in found] == [end != "~xy" for _, end in pairs]
        assert found == pytest.approx(alone, abs=TOLERANCE, nan_ok=True)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_what_training_asks_for_beside_logits_is_not_computed(
    attention: str, tokenizer: Any
) -> None:
    from tests.hf.test_prefix import packable_model

    plain = packable_model("mixtral", attention)
    asking = copy.deepcopy(plain)
    asking.config.output_router_logits = True
    asking.config.output_hidden_states = True
    with torch.inference_mode():
        backends = [HFBackend(each, tokenizer, token_budget=15) for each in (plain, asking)]
    found = [backend.logprob_of_batch(PAIRS) for backend in backends]
    assert found[0] == pytest.approx(found[1], abs=TOLERANCE)
    assert asking.config.output_router_logits
    assert asking.config.output_hidden_states


def test_memory_that_is_too_small_says_nothing_of_a_model(tokenizer: Any) -> None:
    # A CPU's allocator has no error of its own, only words.
    model = tiny.llama()
    own = model.model.forward

    def too_small(*_: Any, **__: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate")

    model.model.forward = too_small
    backend = HFBackend(model, tokenizer)
    model.model.forward = own
    ways = backend._scorer.ways_in(backend._scorer.own_spec())
    assert ways.batches == "packed"
    assert HFBackend(tiny.llama(), tokenizer).admission.notes == ()
