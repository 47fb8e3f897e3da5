"""Claims: with ``keep="states"`` every operation, every k, every position and every difference is a
head's work on kept hidden states, in families whose heads are tied, padded, capped, scaled or have
a bias, and agrees with ``keep="values"``; a question answered so is a hit, one event a prompt;
states are those that the model's own head reads, in its own dtype; NaN isn't kept, memory is kept
to, a store gives them back; models whose logits need more than those states are refused.

Which changes of a model reach which values is in ``test_states_identity``.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from forwardcache.errors import ContextLengthError, InvalidInputError, UnsupportedModelError
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.batch.states import tensor_of
from forwardcache.hf.spec import BASE
from forwardcache.operations import of_value, operation
from forwardcache.scoring import HiddenStates
from forwardcache.store import open_store
from forwardcache.store.seal import seal, unseal
from tests.hf import tiny, twists
from tests.hf.conftest import MakeBackend
from tests.hf.states_families import FAMILIES
from tests.hf.test_memory import ERRORS, Memory
from tests.tolerance import TOLERANCE, hold_to_tolerance

PROMPTS = list(tiny.PROMPTS)
PAIRS = [(prompt[:6], prompt[6:]) for prompt in PROMPTS if len(prompt) > 8]
LONG = "the quick brown fox jumps over the lazy dog and again, the dog " * 12


def ids_of(tokenizer: Any, text: str) -> list[int]:
    found: list[int] = tokenizer(text)["input_ids"]
    return found


def questions(backend: HFBackend) -> Iterator[list[Any]]:
    """Every operation, singly and in batches."""
    yield backend.next_token_dist_batch(PROMPTS, top_k=5)
    yield backend.next_token_dist_batch(PROMPTS, top_k=tiny.VOCAB)
    yield [backend.next_token_dist(PROMPTS[0], top_k=1)]
    yield backend.rolling_logprob_batch(PROMPTS)
    yield [backend.rolling_logprob(PROMPTS[1])]
    yield backend.logprob_of_batch(PAIRS)
    yield backend.token_dist_at_batch(PROMPTS, [[3, 7, 300]] * len(PROMPTS))
    given = [tuple(ids_of(backend.tokenizer, prompt)) for prompt in PROMPTS]
    tokens = [(ids[:1], ids[1:]) for ids in given if len(ids) > 1]
    yield backend.continuation_logprob_batch(tokens)
    yield backend.values("top_k_at_each_position", tokens, top_k=4)


@pytest.mark.parametrize("family", FAMILIES)
def test_every_question_after_the_first_is_answered_by_the_head(
    tokenizer: Any, family: str
) -> None:
    model = FAMILIES[family]()
    tolerance = TOLERANCE if model.dtype == torch.float32 else 5e-2
    backend, plain = HFBackend(model, tokenizer, keep="states"), HFBackend(model, tokenizer)
    for found, expected in zip(questions(backend), questions(plain), strict=True):
        for one, other in zip(found, expected, strict=True):
            assert of_value(one).is_same(one, other, tolerance), (one, other)
        assert backend.stats.forward_passes == backend.stats.cache_misses == len(PROMPTS)
    assert backend.stats.cache_hits > 4 * len(PROMPTS)


@pytest.mark.parametrize("family", FAMILIES)
def test_states_are_what_the_models_own_head_reads(tokenizer: Any, family: str) -> None:
    model = FAMILIES[family]()
    read: list[torch.Tensor] = []
    backend = HFBackend(model, tokenizer, keep="states")
    [found] = backend.states_batch(PROMPTS[:1])
    ids = ids_of(tokenizer, PROMPTS[0])
    model.get_output_embeddings().register_forward_pre_hook(lambda _, inputs: read.append(*inputs))
    with torch.no_grad():
        model(input_ids=torch.tensor([ids]), use_cache=False)
    assert found.token_ids.tolist() == ids
    assert found.dtype == str(model.dtype).removeprefix("torch.")
    states = tensor_of(found, 0, len(ids))
    assert states.dtype == model.dtype
    tolerance = 1e-5 if model.dtype == torch.float32 else 3e-2
    torch.testing.assert_close(states, read[0][0], atol=tolerance, rtol=tolerance)
    np.testing.assert_array_equal(found.float32(), states.float().numpy())
    assert not found.states.flags.writeable
    assert found.states.nbytes == len(ids) * model.config.hidden_size * model.dtype.itemsize


def test_a_view_has_states_of_its_own_and_base_is_shared(make_backend: MakeBackend) -> None:
    backend, plain = make_backend(keep="states"), make_backend()
    for _ in range(2):
        found, expected = (
            each.score(PROMPTS, [each.as_base(), each.as_finetuned()], "rolling_logprob")
            for each in (backend, plain)
        )
        for view, values in expected.items():
            hold_to_tolerance(found[view], values)
    assert backend.stats.forward_passes == 2 * len(PROMPTS)
    with backend.as_scaled_adapter(0.0) as nothing:
        nothing.next_token_dist_batch(PROMPTS)
    assert backend.stats.forward_passes == 2 * len(PROMPTS)


def test_the_trace_has_one_event_a_prompt_whatever_was_asked(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    path = tmp_path / "trace.jsonl"
    backend = make_backend(keep="states", trace_path=path)
    backend.next_token_dist_batch([*PROMPTS, PROMPTS[0]])
    backend.rolling_logprob_batch(PROMPTS)
    backend.next_token_dist(PROMPTS[0])
    backend.close()
    events = [json.loads(line) for line in path.read_text().splitlines()]
    assert {(event["op"], event["view_id"], event["top_k"]) for event in events} == {
        ("hidden_states", "ft", 0)
    }
    count = len(PROMPTS)
    # Hits of a batch come before its misses, but for a prompt that stands there twice.
    assert sum(not event["hit"] for event in events[: count + 1]) == count
    assert [event["hit"] for event in events[count + 1 :]] == [True] * (count + 1)
    stats = backend.stats
    assert (stats.cache_hits, stats.cache_misses, stats.forward_passes) == (count + 2, count, count)


def test_a_long_text_is_kept_window_by_window(make_backend: MakeBackend) -> None:
    options: dict[str, Any] = {"windows": True}
    backend, plain = make_backend(keep="states", **options), make_backend(**options)
    texts = [LONG, PROMPTS[0]]
    hold_to_tolerance(backend.rolling_logprob_batch(texts), plain.rolling_logprob_batch(texts))
    forwards = backend.stats.forward_passes
    assert forwards > 2
    first = backend.compare(texts, ["ft"])["ft"]
    assert backend.stats.forward_passes == 2 * forwards
    for found, expected in zip(first, plain.compare(texts, ["ft"])["ft"], strict=True):
        np.testing.assert_allclose(found.kl, expected.kl, atol=1e-5)
    with pytest.raises(ContextLengthError):
        backend.states_batch([LONG])


def test_a_text_that_fills_the_context_is_read_but_for_its_last_token(
    make_backend: MakeBackend,
) -> None:
    backend, plain = make_backend(keep="states"), make_backend()
    ids = [300 - n for n in range(tiny.CONTEXT + 1)]
    item = (ids[:1], ids[1:])
    hold_to_tolerance([backend.continuation_logprob(*item)], [plain.continuation_logprob(*item)])


def test_what_needs_no_forward_has_none(make_backend: MakeBackend) -> None:
    backend = make_backend(keep="states")
    assert backend.rolling_logprob("").num_tokens == 1
    assert backend.stats.total_lookups == 0
    [found] = make_backend(keep="states", add_special_tokens=False).states_batch([""])
    assert found.states.shape == (0, 32)


def test_errors_stand_at_their_places(make_backend: MakeBackend) -> None:
    backend = make_backend(keep="states")
    found = backend.next_token_dist_batch(["a", LONG, "b", 7], on_error="return")  # type: ignore[list-item]
    assert [type(each).__name__ for each in found] == [
        *("TokenDist", "ContextLengthError", "TokenDist", "InvalidInputError")
    ]
    with pytest.raises(ContextLengthError):
        backend.next_token_dist(LONG)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_a_second_comparison_runs_no_body(make_backend: MakeBackend, name: str) -> None:
    backend, plain = make_backend(name, keep="states"), make_backend(name)
    views = ["ft", "scaled:0.5", "null:7"]
    ids = ["ft", "scaled_0.50", "null_7"]
    expected, found = plain.compare(PROMPTS, views), backend.compare(PROMPTS, views)
    forwards = backend.stats.forward_passes
    assert forwards == 4 * len(PROMPTS)
    again = backend.compare(PROMPTS, views, reference="ft") | backend.compare(PROMPTS, ["ft"])
    assert backend.stats.forward_passes == forwards
    for view in ids:
        for one, other in zip(found[view], expected[view], strict=True):
            np.testing.assert_allclose(one.kl, other.kl, atol=1e-5)
            np.testing.assert_allclose(one.logprob, other.logprob, atol=TOLERANCE)
    assert [each.kl.tolist() for each in again["ft"]] == [each.kl.tolist() for each in found["ft"]]
    assert not any(each.kl.any() for each in backend.compare(PROMPTS, ["ft"], reference="ft")["ft"])


def test_an_adapter_that_does_nothing_is_exactly_zero_away(tokenizer: Any) -> None:
    model = tiny.with_lora(tiny.llama())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    backend = HFBackend(model, tokenizer, keep="states")
    for _ in range(2):
        assert not any(each.kl.any() for each in backend.compare(PROMPTS, ["ft"])["ft"])


def test_a_floor_is_measured_on_reruns_that_are_never_kept(make_backend: MakeBackend) -> None:
    backend, plain = make_backend(keep="states"), make_backend()
    floors = [each.rounding_floor(PROMPTS[:3], reruns=2) for each in (backend, plain)]
    assert floors[0].mean == pytest.approx(floors[1].mean, rel=0.5)
    assert len(backend.instrumentation.cache) == 0


def test_progress_counts_the_tokens_that_are_asked_for(make_backend: MakeBackend) -> None:
    counted: list[list[int]] = [[], []]
    for seen, options in zip(counted, ({"keep": "states"}, {}), strict=True):
        backend = make_backend(**options)
        backend.progress = seen.append
        backend.rolling_logprob_batch(PROMPTS)
        backend.next_token_dist_batch(PROMPTS)
        backend.compare(PROMPTS, ["ft"])
    assert sum(counted[0]) == sum(counted[1])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (twists.LooksAhead, "depends on what follows"),
        (twists.CutsItsStates, "can't be run apart"),
        (twists.CountsTheMask, "can't be run apart"),
    ],
)
def test_a_model_whose_states_do_not_give_its_logits_is_refused(
    tokenizer: Any, kind: Any, reason: str
) -> None:
    with pytest.raises(UnsupportedModelError, match=reason):
        HFBackend(twists.made(kind), tokenizer, keep="states")


class HeadOnEmbeddings(LlamaForCausalLM):
    """Adds what the embedding knows of each token to its logits."""

    def forward(self, input_ids: Any = None, **rest: Any) -> Any:
        output = super().forward(input_ids=input_ids, **rest)
        own = self.lm_head(self.model.embed_tokens(input_ids))
        keep = rest.get("logits_to_keep", 0)
        own = own[:, -keep:] if isinstance(keep, int) else own[:, keep]
        output.logits = output.logits + own
        return output


class IgnoresItsBody(LlamaForCausalLM):
    """Its logits are those of the embedding alone."""

    def forward(self, input_ids: Any = None, **rest: Any) -> Any:
        output = super().forward(input_ids=input_ids, **rest)
        shape = output.logits.shape
        output.logits = (input_ids[:, -shape[1] :, None] * torch.ones(shape[-1])).float()
        return output


def test_a_head_that_is_called_twice_or_not_read_is_refused(tokenizer: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="no plain product"):
        HFBackend(twists.made(HeadOnEmbeddings), tokenizer, keep="states")
    with pytest.raises(UnsupportedModelError):
        HFBackend(twists.made(IgnoresItsBody), tokenizer, keep="states")


def test_a_family_with_more_than_a_product_is_refused_and_scored_with_values(
    tokenizer: Any,
) -> None:
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model(
        "roberta", vocab_size=tiny.VOCAB, intermediate_size=64, is_decoder=True, **sizes
    )
    model = AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UnsupportedModelError, match="RobertaForCausalLM: its head is no plain"):
        HFBackend(model, tokenizer, keep="states")
    with pytest.raises(UnsupportedModelError, match="its head is no plain"):
        HFBackend(model, tokenizer).states_batch(["a"])
    assert HFBackend(model, tokenizer).rolling_logprob("hello world").is_finite


def test_keep_is_one_of_two_words(make_backend: MakeBackend) -> None:
    with pytest.raises(InvalidInputError, match="keep must be values or states, got 'logits'"):
        make_backend(keep="logits")


def test_states_can_be_asked_for_where_values_are_kept(make_backend: MakeBackend) -> None:
    backend = make_backend()
    first, again = (backend.states_batch(PROMPTS) for _ in range(2))
    assert all(one is other for one, other in zip(first, again, strict=True))
    assert backend.stats.forward_passes == len(PROMPTS)


def test_states_with_a_nan_are_counted_and_not_kept(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True, keep="states")
    backend.model.requires_grad_(False)
    token = ids_of(backend.tokenizer, "the fox")[-1]
    backend.model.model.embed_tokens.weight[token] = torch.nan
    for times in (1, 2):
        found = backend.next_token_dist_batch(["hello", "the fox", "hello hello"])
        assert [each.is_finite for each in found] == [True, False, True]
        assert backend.nonfinite_results == times
    assert len(backend.instrumentation.cache) == 2
    kept = make_backend("llama", copied=True, keep="states", store_nonfinite=True)
    kept.model.requires_grad_(False)
    kept.model.model.embed_tokens.weight[token] = torch.nan
    assert not kept.rolling_logprob("the fox").is_finite or kept.next_token_dist("the fox")
    assert len(kept.instrumentation.cache) == 1


def test_a_batch_that_does_not_fit_is_split(make_backend: MakeBackend) -> None:
    backend, free = make_backend("llama", copied=True, keep="states"), make_backend("llama")
    memory = Memory(backend.model, 30, ERRORS[0])
    found = backend.rolling_logprob_batch(PROMPTS)
    hold_to_tolerance(found, free.rolling_logprob_batch(PROMPTS))
    assert max(memory.done) <= 30
    memory.capacity = 3
    failed = backend.rolling_logprob_batch(["a", PROMPTS[3], PROMPTS[3] + "a"], on_error="return")
    kinds = ["RollingLogprob", "RollingLogprob", "ModelMemoryError"]
    assert [type(each).__name__ for each in failed] == kinds


def test_logits_that_do_not_fit_are_computed_in_parts(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend, free = make_backend("llama", keep="states"), make_backend("llama")
    backend.states_batch(PROMPTS)
    runner = backend._scorer.runner
    head, sizes = runner.head_logits, []

    def small(kind: Any, states: torch.Tensor) -> torch.Tensor:
        sizes.append(len(states))
        if len(states) > 3:
            raise ERRORS[0]()
        return head(kind, states)

    monkeypatch.setattr(runner, "head_logits", small)
    hold_to_tolerance(backend.rolling_logprob_batch(PROMPTS), free.rolling_logprob_batch(PROMPTS))
    hold_to_tolerance(backend.next_token_dist_batch(PROMPTS), free.next_token_dist_batch(PROMPTS))
    assert max(sizes) > 3
    assert backend.out_of_memory_batches > 0


@pytest.mark.parametrize("family", ["gpt2", "llama, bfloat16"])
def test_a_second_backend_finds_them_in_the_store(
    tokenizer: Any, family: str, tmp_path: Path
) -> None:
    path = tmp_path / "states.db"
    with HFBackend(FAMILIES[family](), tokenizer, keep="states", store=path) as first:
        expected = first.rolling_logprob_batch(PROMPTS)
        states = first.states_batch(PROMPTS)
    with HFBackend(FAMILIES[family](), tokenizer, keep="states", store=path) as second:
        assert second.rolling_logprob_batch(PROMPTS) == expected
        assert second.states_batch(PROMPTS) == states
        assert second.stats.forward_passes == 0
        assert second.store.hits == len(PROMPTS)
        info = open_store(path).info()
    [(_, view, op)] = info.by_kind
    assert (view, op, info.entries) == ("base", "hidden_states", len(PROMPTS))


def test_a_damaged_one_is_computed_again(make_backend: MakeBackend, tmp_path: Path) -> None:
    path = tmp_path / "states.db"
    with make_backend("llama", keep="states", store=path) as backend:
        expected = backend.rolling_logprob_batch(PROMPTS)
    store = open_store(path)
    first, *_ = store.records()  # type: ignore[attr-defined]
    store.put_many([replace(first, blob=first.blob[:-1] + b"x")])
    store.close()
    with make_backend("llama", keep="states", store=path) as backend:
        hold_to_tolerance(backend.rolling_logprob_batch(PROMPTS), expected)
        assert (backend.stats.forward_passes, backend.store.damaged) == (1, 1)


def test_states_of_another_layout_are_no_value(monkeypatch: pytest.MonkeyPatch) -> None:
    key, op = bytes(32), operation("hidden_states")()
    value = HiddenStates(np.arange(2), np.ones((2, 3), np.uint16), "bfloat16")
    blob = seal(key, value)
    assert unseal(key, blob) == value
    pack = type(op).pack
    monkeypatch.setattr(
        type(op), "pack", lambda self, value: pack(self, value) | {"layout": (2, 3)}
    )
    assert unseal(key, seal(key, value)) is None


def test_the_self_check_finds_wrong_states(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", keep="states", verify=1.0)
    expected = backend.rolling_logprob(PROMPTS[0])
    [states] = backend.states_batch(PROMPTS[:1])
    wrong = HiddenStates(states.token_ids, states.states * 1.5, states.dtype)
    scorer = backend._scorer
    row = Encoded(tuple(states.token_ids.tolist()), len(states.token_ids))
    lookup = scorer.kept._lookup(scorer.identity.state(backend.tokenizer), BASE, [row])
    [(_, key)] = lookup.keys()
    backend.instrumentation.cache.put(("hidden_states", "base", key, 0, lookup.scope), wrong)
    hold_to_tolerance([backend.rolling_logprob(PROMPTS[0])], [expected])
    assert backend.store.mismatches == 1


def test_they_weigh_little_more_than_their_numbers(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", keep="states")
    text = LONG[:190]
    tokens = len(ids_of(backend.tokenizer, text))
    backend.rolling_logprob(text)
    overhead = backend.instrumentation.cache.nbytes - tokens * 32 * 4
    # Of a text of 64 tokens in 576 numbers of half precision that is 2.5 %.
    assert overhead < 1200 + 16 * tokens
