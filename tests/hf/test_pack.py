"""Claims: rows run end to end see only themselves, nothing is padded, and no value changes.

The oracle is the single form, one prompt in a backend of its own, which packs nothing. That several
rows were packed is read off the shape of what the embedding was given.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.hf import HFBackend
from forwardcache.hf.batch import pack
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.pack import can_pack, packed, rows_apart
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.hf.test_models import tiny_model
from tests.hf.test_prefix import PACKABLE, hold_views_to_single_form, packable_model
from tests.tolerance import TOLERANCE

# Of several lengths, and two of one length, which are attended to in one call.
PROMPTS = [*tiny.PROMPTS, "over the lazy fox"]
PAIRS = list(zip(PROMPTS, [" dog", "s and again", "x"] * 3, strict=True))


@contextmanager
def shapes_read(model: Any) -> Iterator[list[tuple[int, ...]]]:
    """Shapes of the tokens that the model's embedding is given."""
    seen: list[tuple[int, ...]] = []
    embedding = model.get_input_embeddings()
    # Learned positions are measured once, which reads a few tokens.
    max_positions(model)
    handle = embedding.register_forward_pre_hook(lambda _, args: seen.append(tuple(args[0].shape)))
    try:
        yield seen
    finally:
        handle.remove()


def hold_to_single_form(backend: HFBackend, alone: HFBackend) -> None:
    dists = backend.next_token_dist_batch(PROMPTS, top_k=7)
    for prompt, dist in zip(PROMPTS, dists, strict=True):
        single = alone.next_token_dist(prompt, top_k=7)
        np.testing.assert_allclose(dist.logprobs, single.logprobs, atol=TOLERANCE)
        assert dist.tail_logprob == pytest.approx(single.tail_logprob, abs=TOLERANCE)
    for text, value in zip(PROMPTS, backend.rolling_logprob_batch(PROMPTS), strict=True):
        np.testing.assert_allclose(
            value.logprobs, alone.rolling_logprob(text).logprobs, atol=TOLERANCE
        )
    for pair, found in zip(PAIRS, backend.logprob_of_batch(PAIRS), strict=True):
        assert found == pytest.approx(alone.logprob_of(*pair), abs=TOLERANCE)


@pytest.mark.parametrize("model_type", PACKABLE)
def test_every_packable_model_equals_its_single_form(model_type: str, tokenizer: Any) -> None:
    model = packable_model(model_type, "sdpa")
    backend, alone = HFBackend(model, tokenizer), HFBackend(model, tokenizer)
    with shapes_read(model) as seen:
        hold_to_single_form(backend, alone)
    lengths = [len(tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    assert seen[0] == (1, sum(lengths))


@pytest.mark.parametrize("model_type", ["gpt2", "llama"])
def test_in_half_precision_the_tokens_read_at_once_are_few_round_numbers(
    model_type: str, tokenizer: Any
) -> None:
    model = packable_model(model_type, "sdpa").half()
    texts = [" ".join(["fox"] * (1 + n % 7)) + f" {n}" for n in range(60)]
    backends = [HFBackend(model, tokenizer) for _ in range(40)]
    with shapes_read(model) as seen:
        together = backends[0].next_token_dist_batch(texts, top_k=7)
        for count in range(2, 40):
            backends[count].rolling_logprob_batch(texts[:count])
    numbers = [tokens for rows, tokens in seen if rows == 1]
    assert all(tokens % 64 == 0 for tokens in numbers)
    assert len(set(numbers)) < len(set(range(2, 40))) / 2
    alone = HFBackend(model, tokenizer)
    for text, dist in zip(texts[:8], together, strict=False):
        at = alone.logprobs_at(text, dist.token_ids)
        np.testing.assert_allclose(dist.logprobs, at, atol=2e-2)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
@pytest.mark.parametrize("token_budget", [7, 23, 1000])
def test_every_view_and_budget_equals_its_single_form(
    name: str, token_budget: int, make_backend: MakeBackend
) -> None:
    backend, alone = make_backend(name, token_budget=token_budget), make_backend(name)
    hold_to_single_form(backend, alone)
    hold_views_to_single_form(backend, alone, PAIRS)


@pytest.mark.parametrize("max_logit_bytes", [1, 4 * tiny.VOCAB * 5])
def test_the_bound_on_logits_holds_in_a_pack(
    max_logit_bytes: int, make_backend: MakeBackend, head_positions: list[int]
) -> None:
    backend = make_backend("llama", max_logit_bytes=max_logit_bytes)
    found = backend.rolling_logprob_batch(PROMPTS)
    assert max(head_positions) == max(1, max_logit_bytes // (4 * tiny.VOCAB))
    for text, value in zip(PROMPTS, found, strict=True):
        single = make_backend("llama").rolling_logprob(text)
        np.testing.assert_allclose(value.logprobs, single.logprobs, atol=TOLERANCE)


def test_nothing_is_padded_and_the_budget_holds(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", token_budget=23)
    with shapes_read(backend.model) as seen:
        backend.rolling_logprob_batch(PROMPTS)
    lengths = [len(backend.tokenizer(text)["input_ids"]) - 1 for text in PROMPTS]
    assert sum(rows * longest for rows, longest in seen) == sum(lengths)
    assert max(rows * longest for rows, longest in seen) <= max(23, *lengths)
    assert len(seen) < len(PROMPTS)


def test_the_head_is_asked_for_what_is_scored_and_no_more(
    make_backend: MakeBackend, head_positions: list[int]
) -> None:
    make_backend("llama").rolling_logprob_batch(PROMPTS)
    lengths = make_backend("llama").token_lengths(PROMPTS, op="rolling_logprob")
    assert head_positions == [sum(lengths)]  # type: ignore[arg-type]


def test_the_configuration_names_the_models_own_attention_again(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True)
    before = backend.identity()
    with rows_apart(backend.model, [1, 2]):
        assert backend.model.config._attn_implementation != "sdpa"
    with pytest.raises(IndexError), rows_apart(backend.model, [1]):
        backend.model(input_ids=torch.tensor([[tiny.VOCAB]]))
    backend.rolling_logprob_batch(PROMPTS)
    assert backend.model.config._attn_implementation == "sdpa"
    assert backend.identity() == before


def test_a_model_that_looks_across_rows_is_found_out(
    make_backend: MakeBackend, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny.llama()
    layer = model.model.layers[1].self_attn
    attend = layer.forward

    def own_way(*arguments: Any, **options: Any) -> Any:
        # As a kernel that somebody put in place of the layer does: it asks nobody.
        monkeypatch.setattr(layer.config, "_attn_implementation", "sdpa")
        try:
            return attend(*arguments, **options)
        finally:
            monkeypatch.undo()

    layer.forward = own_way
    backend = HFBackend(model, tokenizer)
    hold_to_single_form(backend, make_backend("llama"))
    with shapes_read(model) as seen:
        backend.rolling_logprob_batch([f"{prompt} again" for prompt in PROMPTS])
    assert max(rows for rows, _ in seen) > 1


def test_a_pack_that_does_not_fit_into_memory_is_split(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True)
    capacity, done = 40, []

    def before(_module: Any, inputs: Any) -> None:
        if inputs[0].numel() > capacity:
            raise MemoryError
        done.append(inputs[0].numel())

    backend.model.get_input_embeddings().register_forward_pre_hook(before)
    # Padded to the longest, half of these positions would still be more than their tokens.
    prompts = ["the lazy dog " * 4, *"!?#$%&()*+,-./:;<=>@"]
    lengths = backend.token_lengths(prompts, op="next_token_dist")
    assert capacity < sum(lengths) < len(lengths) * max(lengths) / 2  # type: ignore[arg-type, type-var, operator]
    backend.next_token_dist_batch(prompts)
    assert sum(done) == sum(lengths)  # type: ignore[arg-type]
    assert backend.out_of_memory_batches == 1


def test_a_foreign_forward_meanwhile_is_refused(make_backend: MakeBackend) -> None:
    model = make_backend("llama", copied=True).model
    with rows_apart(model, [2, 3]):
        pack._running.set(None)
        with pytest.raises(RuntimeError, match="take turns"):
            model(input_ids=torch.tensor([[1, 2, 3, 4, 5]]))


def test_equal_rows_are_a_plain_batch(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    with shapes_read(backend.model) as seen:
        backend.next_token_dist_batch(["?", "!"])
    assert [rows for rows, _ in seen] == [2]


@pytest.mark.parametrize("model_type", ["mistral", "gemma2", "bloom", "mamba"])
def test_other_models_are_padded(model_type: str, tokenizer: Any) -> None:
    model = tiny_model(model_type)
    backend = HFBackend(model, tokenizer, max_padding=1.0)
    assert backend.admission.batches in ("padded", "equal_lengths")
    hold_to_single_form(backend, HFBackend(model, tokenizer))


def test_eager_attention_is_padded() -> None:
    model = tiny.llama()
    assert can_pack(model)
    model.set_attn_implementation("eager")
    assert not can_pack(model)


def test_positions_begin_anew_in_every_row() -> None:
    inputs = packed([(7, 8, 9), (5,), (6, 4)])
    assert inputs["input_ids"].tolist() == [[7, 8, 9, 5, 6, 4]]
    assert inputs["position_ids"].tolist() == [[0, 1, 2, 0, 0, 1]]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_own_noise(dtype: Any, tokenizer: Any) -> None:
    model = tiny.llama(dtype=dtype)
    found = HFBackend(model, tokenizer).rolling_logprob_batch(PROMPTS)
    alone = HFBackend(model, tokenizer)
    for text, value in zip(PROMPTS, found, strict=True):
        np.testing.assert_allclose(value.logprobs, alone.rolling_logprob(text).logprobs, atol=0.3)
