"""Claims: a shared prompt runs once and changes no value; models that can't do it never try.

The oracle is the single form, one prompt in a backend of its own.
"""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForCausalLM

from forwardcache.hf import HFBackend
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.prefix import can_share_prefixes
from forwardcache.hf.batch.prefix_group import PrefixGroup, plan_packs, plan_prefix_groups
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.hf.test_models import tiny_model
from tests.tolerance import TOLERANCE

PROMPT = "the quick brown fox jumps over the lazy dog and over the hello world"
COMPLETIONS = (" dog", " fox jumps again", "x", " and", "s", " hello world the", " lazy", "!")
PAIRS = [(PROMPT, completion) for completion in COMPLETIONS]


@pytest.fixture
def prefixes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Lengths of the prefixes after which rows were scored."""
    seen: list[int] = []
    begin = ForwardRunner.behind

    def counting(self: ForwardRunner, prefix: Any) -> Any:
        seen.append(len(prefix))
        return begin(self, prefix)

    monkeypatch.setattr(ForwardRunner, "behind", counting)
    return seen


def cheap(make_backend: MakeBackend, name: str, **options: Any) -> HFBackend:
    """A backend whose forwards cost only their tokens, so that short prompts are shared."""
    return make_backend(name, token_budget=options.pop("token_budget", 15), **options)


def hold_views_to_single_form(
    backend: HFBackend, alone: HFBackend, pairs: list[tuple[str, str]]
) -> None:
    for view, other in (
        (backend.as_base(), alone.as_base()),
        (backend.as_scaled_adapter(0.5), alone.as_scaled_adapter(0.5)),
        (backend.as_null_adapter(3), alone.as_null_adapter(3)),
    ):
        with view as many:
            found = many.logprob_of_batch(pairs)
        with other as single:
            assert found == pytest.approx(
                [single.logprob_of(*pair) for pair in pairs], abs=TOLERANCE
            )


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama+lora", "gpt2+lora"])
@pytest.mark.parametrize("token_budget", [4, 15])
def test_completions_of_one_prompt_equal_the_single_form(
    name: str, token_budget: int, make_backend: MakeBackend, prefixes: list[int]
) -> None:
    found = cheap(make_backend, name, token_budget=token_budget).logprob_of_batch(PAIRS)
    assert len(prefixes) == 1
    alone = make_backend(name)
    for pair, value in zip(PAIRS, found, strict=True):
        assert value == pytest.approx(alone.logprob_of(*pair), abs=TOLERANCE)
    assert len(prefixes) == 1


@pytest.mark.parametrize("name", ["llama+lora", "gpt2"])
def test_prompts_that_begin_alike_equal_the_single_form(
    name: str, make_backend: MakeBackend, prefixes: list[int]
) -> None:
    prompts = [PROMPT, *(PROMPT + completion for completion in COMPLETIONS), "hello", "a fox"]
    backend = cheap(make_backend, name)
    found = backend.next_token_dist_batch(prompts, top_k=7)
    given_ids = backend.logprobs_at_batch(prompts, [dist.token_ids for dist in found])
    assert len(prefixes) == 2
    alone = make_backend(name)
    for prompt, dist, values in zip(prompts, found, given_ids, strict=True):
        single = alone.next_token_dist(prompt, top_k=7)
        assert dist.token_ids.tolist() == single.token_ids.tolist()
        np.testing.assert_allclose(dist.logprobs, single.logprobs, atol=TOLERANCE)
        assert dist.tail_logprob == pytest.approx(single.tail_logprob, abs=TOLERANCE)
        np.testing.assert_allclose(values, single.logprobs, atol=TOLERANCE)


def test_every_view_has_its_own_prefix(make_backend: MakeBackend) -> None:
    backend, alone = cheap(make_backend, "llama+lora"), make_backend("llama+lora")
    hold_views_to_single_form(backend, alone, PAIRS)


def test_one_token_completions_take_one_forward(make_backend: MakeBackend) -> None:
    backend = cheap(make_backend, "llama")
    calls: list[Any] = []
    handle = backend.model.register_forward_pre_hook(lambda *_: calls.append(None))
    try:
        tokens = len(backend.tokenizer(PROMPT)["input_ids"])
        ends = (" dog", " fox", " the", " hello", " over", "!", "?", "#", "$")
        added = [len(backend.tokenizer(PROMPT + end)["input_ids"]) - tokens for end in ends]
        pairs = [(PROMPT, end) for end, count in zip(ends, added, strict=True) if count == 1]
        assert len(pairs) > 3
        backend.logprob_of_batch(pairs)
    finally:
        handle.remove()
    assert len(calls) == 1


def test_the_prompt_runs_once_and_nothing_is_padded(make_backend: MakeBackend) -> None:
    backend = cheap(make_backend, "llama")
    tokens: list[int] = []
    embedding = backend.model.get_input_embeddings()
    handle = embedding.register_forward_pre_hook(lambda _, args: tokens.append(args[0].numel()))
    try:
        backend.logprob_of_batch(PAIRS)
    finally:
        handle.remove()
    rows = [backend.tokenizer(prompt + end)["input_ids"][:-1] for prompt, end in PAIRS]
    prefix = tokens[0]
    assert sum(tokens) == prefix + sum(len(row) - prefix for row in rows)


def test_the_bound_on_logits_holds_after_a_prefix(
    make_backend: MakeBackend, head_positions: list[int]
) -> None:
    backend = cheap(make_backend, "llama", max_logit_bytes=4 * tiny.VOCAB * 3)
    found = backend.logprob_of_batch(PAIRS)
    assert max(head_positions) <= 3
    alone = make_backend("llama")
    assert found == pytest.approx([alone.logprob_of(*pair) for pair in PAIRS], abs=TOLERANCE)


def test_texts_scored_as_a_whole_share_nothing(
    make_backend: MakeBackend, prefixes: list[int]
) -> None:
    cheap(make_backend, "llama").rolling_logprob_batch([PROMPT + end for end in COMPLETIONS])
    assert not prefixes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_within_its_own_noise(dtype: Any, tokenizer: Any) -> None:
    model = tiny.llama(dtype=dtype)
    found = HFBackend(model, tokenizer, token_budget=15).logprob_of_batch(PAIRS)
    alone = HFBackend(model, tokenizer)
    for pair, value in zip(PAIRS, found, strict=True):
        assert value == pytest.approx(alone.logprob_of(*pair), abs=0.3)


# Models

_WITHOUT_WINDOW = {"mistral": {"sliding_window": None}, "starcoder2": {"sliding_window": None}}
# Not a list of what may be packed, which is measured: these have to stay as fast as they are.
PACKABLE = [
    "cohere",
    "gemma",
    "gpt2",
    "gpt_bigcode",
    "gpt_neox",
    "granite",
    "llama",
    "mistral",
    "mixtral",
    "olmo",
    "olmo2",
    "opt",
    "phi",
    "phi3",
    "qwen2",
    "qwen2_moe",
    "qwen3",
    "qwen3_moe",
    "smollm3",
    "stablelm",
    "starcoder2",
]
_CAN_NOT = ["mistral", "gemma2", "bloom", "mamba"]
_OWN = {
    "n_head": 4,
    "n_embd": 32,
    "n_layer": 2,
    "n_positions": tiny.CONTEXT,
    "num_experts": 4,
    "num_local_experts": 4,
    "num_experts_per_tok": 2,
    "moe_intermediate_size": 32,
    "shared_expert_intermediate_size": 32,
    "ffn_dim": 64,
    "word_embed_proj_dim": 32,
    "bos_token_id": 0,
    "eos_token_id": 1,
}


def packable_model(model_type: str, attention: str) -> Any:
    from tests.hf.test_models import _COMMON

    torch.manual_seed(5)
    known = AutoConfig.for_model(model_type)
    names = known.to_dict().keys() | known.attribute_map.keys()
    options = {key: value for key, value in (_COMMON | _OWN).items() if key in names}
    options |= _WITHOUT_WINDOW.get(model_type, {})
    config = AutoConfig.for_model(model_type, **options)
    make: Any = AutoModelForCausalLM.from_config
    return tiny.sharpened(make(config, attn_implementation=attention)).eval()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("model_type", PACKABLE)
def test_every_packable_model_equals_its_single_form(
    model_type: str, attention: str, tokenizer: Any, prefixes: list[int]
) -> None:
    model = packable_model(model_type, attention)
    found = HFBackend(model, tokenizer, token_budget=15).logprob_of_batch(PAIRS)
    assert len(prefixes) == 1
    alone = HFBackend(model, tokenizer)
    for pair, value in zip(PAIRS, found, strict=True):
        assert value == pytest.approx(alone.logprob_of(*pair), abs=TOLERANCE)


@pytest.mark.parametrize("model_type", _CAN_NOT)
def test_other_models_take_the_ordinary_way(
    model_type: str, tokenizer: Any, prefixes: list[int]
) -> None:
    model = tiny_model(model_type)
    backend = HFBackend(model, tokenizer, token_budget=15)
    assert not backend.admission.prefixes
    backend.logprob_of_batch(PAIRS)
    assert not prefixes


def test_attention_that_takes_no_mask_is_refused(tokenizer: Any) -> None:
    model = tiny.llama()
    assert can_share_prefixes(model)
    model.config._attn_implementation = "flash_attention_2"
    assert not can_share_prefixes(model)


# The plan

token_rows = st.lists(
    st.lists(st.integers(0, 2), min_size=1, max_size=30).map(tuple), max_size=20, unique=True
)


@given(token_rows, st.integers(0, 8), st.data())
def test_groups_share_what_they_say_and_are_cheaper(
    rows: list[tuple[int, ...]], forward_cost: int, data: st.DataObject
) -> None:
    limits = [data.draw(st.integers(1, len(row))) for row in rows]
    groups = plan_prefix_groups(rows, limits, forward_cost=forward_cost)
    items = [item for group in groups for item in group.items]
    assert len(set(items)) == len(items)
    for group in groups:
        assert len({rows[item][: group.shared] for item in group.items}) == 1
        assert all(0 < group.shared <= limits[item] for item in group.items)
        apart = sum(len(rows[item]) for item in group.items)
        rests = sum(len(rows[item]) - group.shared for item in group.items)
        assert group.shared + rests + 2 * forward_cost <= 0.75 * apart


@given(token_rows, st.integers(0, 8))
def test_no_span_of_neighbours_saves_more_as_one_group(
    rows: list[tuple[int, ...]], forward_cost: int
) -> None:
    limits = [len(row) for row in rows]
    groups = plan_prefix_groups(rows, limits, forward_cost=forward_cost)
    saved = sum(group.shared * (len(group.items) - 1) - 2 * forward_cost for group in groups)
    order = sorted(rows)
    for first in range(len(order)):
        for last in range(first + 1, len(order)):
            span = order[first : last + 1]
            shared = next(
                (at for at, column in enumerate(zip(*span, strict=False)) if len(set(column)) > 1),
                min(map(len, span)),
            )
            around = [*order[max(first - 1, 0) : first], *order[last + 1 : last + 2]]
            if any(row[:shared] == span[0][:shared] for row in around):
                continue
            whole = shared * (len(span) - 1) - 2 * forward_cost
            assert whole < 0.25 * sum(map(len, span)) or whole <= saved


def test_two_prompts_with_their_completions_are_two_groups() -> None:
    first, second = (0, *range(2, 50)), (0, *range(100, 148))
    rows = [(*first, 7), (*second, 8), (*first, 9, 9), (*second, 3), (0, 1)]
    groups = plan_prefix_groups(rows, [49, 49, 49, 49, 1], forward_cost=1)
    assert groups == [PrefixGroup((0, 2), 49), PrefixGroup((3, 1), 49)]


def test_prompts_that_grow_by_a_token_each_are_one_group() -> None:
    rows = [tuple(range(50 + more)) for more in range(1500)]
    (group,) = plan_prefix_groups(rows, [len(row) for row in rows], forward_cost=1)
    assert group.shared > 400


@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(1, 5)), min_size=1, max_size=20),
    st.integers(1, 20),
    st.integers(1, 9),
)
def test_packs_hold_every_row_once_within_both_limits(
    sizes: list[tuple[int, int]], most_tokens: int, most_needed: int
) -> None:
    rests, needed = ([size[column] for size in sizes] for column in (0, 1))
    group = PrefixGroup(tuple(range(len(sizes))), 3)
    packs = plan_packs(group, rests, needed, most_tokens=most_tokens, most_needed=most_needed)
    assert [item for pack in packs for item in pack] == list(group.items)
    for pack in packs:
        if len(pack) > 1:
            assert sum(rests[item] for item in pack) <= most_tokens
            assert sum(needed[item] for item in pack) <= most_needed
