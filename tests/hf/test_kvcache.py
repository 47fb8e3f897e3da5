"""Claims: a model gets its cache under the name that its ``forward`` has, whatever the version of
transformers; one that takes none, or doesn't use it, is never given a kept prefix, and its streams
decode without one; and nothing that is deprecated is called.
"""

import asyncio
import functools
import inspect
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from transformers import LlamaForCausalLM

from forwardcache.hf import HFBackend
from forwardcache.hf.batch.kvcache import cache_argument
from forwardcache.hf.stream.decode import DecodingRows
from forwardcache.hf.stream.way import stream_way
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.hf.test_engine import collect, request, running, tokens
from tests.hf.test_prefix import COMPLETIONS, PACKABLE, PAIRS, PROMPT, packable_model, prefixes
from tests.patience import HANG_S
from tests.tolerance import TOLERANCE

__all__ = ["prefixes"]

OF_THE_LIBRARY = (
    "cache"
    if "cache" in inspect.signature(LlamaForCausalLM.forward).parameters
    else ("past_key_values")
)
PROMPTS = [[5, 6, 7], [9], [40, 41, 42, 43], [3, 3]]


def handed_on(model: Any, kept: Any, *, input_ids: Any, **options: Any) -> Any:
    """The library's own forward, whatever name it has for the cache."""
    for name in ("cache", "past_key_values"):
        options.pop(name, None)
    return LlamaForCausalLM.forward(model, input_ids, **{OF_THE_LIBRARY: kept}, **options)


class TakesCache(LlamaForCausalLM):
    """As a later library has it: the old name falls into the rest, unseen."""

    def forward(self, input_ids: Any = None, cache: Any = None, logits_to_keep: Any = 0,
                position_ids: Any = None, **rest: Any) -> Any:  # fmt: skip
        rest |= {"logits_to_keep": logits_to_keep, "position_ids": position_ids}
        return handed_on(self, cache, input_ids=input_ids, **rest)


class TakesPastKeyValues(LlamaForCausalLM):
    """As an earlier library has it: the new name falls into the rest, unseen."""

    def forward(self, input_ids: Any = None, past_key_values: Any = None, logits_to_keep: Any = 0,
                position_ids: Any = None, **rest: Any) -> Any:  # fmt: skip
        rest |= {"logits_to_keep": logits_to_keep, "position_ids": position_ids}
        return handed_on(self, past_key_values, input_ids=input_ids, **rest)


class HandsAllOn(TakesCache):
    """Says nothing of its arguments and gives them to the class before it."""

    def forward(self, *arguments: Any, **rest: Any) -> Any:
        return super().forward(*arguments, **rest)


class LosesIt(LlamaForCausalLM):
    """Takes anything into ``**rest`` and uses no cache, under whatever name."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, position_ids: Any = None,
                **rest: Any) -> Any:  # fmt: skip
        rest |= {"logits_to_keep": logits_to_keep, "position_ids": position_ids}
        return handed_on(self, None, input_ids=input_ids, **rest)


class TakesNone(LlamaForCausalLM):
    """Has no argument for a cache and refuses words that it doesn't know."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, position_ids: Any = None,
                use_cache: Any = None, logits_to_keep: Any = 0) -> Any:  # fmt: skip
        return handed_on(self, None, input_ids=input_ids, attention_mask=attention_mask,
                         position_ids=position_ids, logits_to_keep=logits_to_keep)  # fmt: skip


class LooksElsewhere(TakesCache):
    """Fills its cache as it should, and reads keys that are a little off."""

    def forward(self, *arguments: Any, **rest: Any) -> Any:
        cache = rest.get("cache")
        if cache is not None and cache.get_seq_length():
            for layer in cache.layers:
                layer.keys = layer.keys * 1.1
        return super().forward(*arguments, **rest)


class LosesPlaces(TakesCache):
    """Is told the position of each token and goes by the length of its cache."""

    def forward(self, *arguments: Any, position_ids: Any = None, **rest: Any) -> Any:
        return super().forward(*arguments, **rest)


USING = [TakesCache, TakesPastKeyValues]
NOT_USING = [LosesIt, TakesNone]


def made(kind: type[Any], *, lora: bool = False) -> Any:
    """The tiny Llama's weights in a model of another class."""
    plain = tiny.llama()
    model = kind(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    return tiny.with_lora(model) if lora else model


def scored_alone(tokenizer: Any, *, lora: bool) -> list[float]:
    model = tiny.with_lora(tiny.llama()) if lora else tiny.llama()
    alone = HFBackend(model, tokenizer)
    return [alone.logprob_of(*pair) for pair in PAIRS]


def own_view(model: Any) -> str:
    return "ft" if hasattr(model, "peft_config") else "base"


def streams(model: Any, tokenizer: Any) -> list[list[int]]:
    """Greedy tokens of each prompt, all decoded together."""

    async def decode() -> list[list[int]]:
        async with running(HFBackend(model, tokenizer), view=own_view(model)) as engine:
            asked = [request(prompt, 8, stop={"ignore_eos": True}) for prompt in PROMPTS]
            found = await asyncio.gather(*(collect(engine, each) for each in asked))
        return [tokens(stream) for stream in found]

    return asyncio.run(asyncio.wait_for(decode(), HANG_S))


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("kind", [*USING, HandsAllOn])
def test_prefixes_are_shared_under_the_name_that_the_forward_has(
    kind: type[Any], lora: bool, tokenizer: Any, prefixes: list[int]
) -> None:
    found = HFBackend(made(kind, lora=lora), tokenizer, token_budget=15).logprob_of_batch(PAIRS)
    assert len(prefixes) == 1
    assert found == pytest.approx(scored_alone(tokenizer, lora=lora), abs=TOLERANCE)


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize("kind", [*USING, HandsAllOn])
def test_streams_decode_under_the_name_that_the_forward_has(
    kind: type[Any], lora: bool, tokenizer: Any
) -> None:
    plain = tiny.with_lora(tiny.llama()) if lora else tiny.llama()
    assert streams(made(kind, lora=lora), tokenizer) == streams(plain, tokenizer)


@pytest.mark.parametrize("kind", [*USING, HandsAllOn])
def test_a_row_that_joins_later_does_not_move_the_others(kind: type[Any]) -> None:
    def after(*joining: list[tuple[int, ...]]) -> Any:
        rows = DecodingRows(model, model)
        for prompts in joining:
            rows.join(prompts)
        return rows.step([3] * len(rows))[0]

    model = made(kind)
    with torch.inference_mode():
        alone, batched = after([(5, 6)]), after([(5, 6)], [(7, 8, 9, 10, 11)])
    torch.testing.assert_close(batched, alone, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
@pytest.mark.parametrize(
    ("kind", "cache"),
    [(LosesPlaces, "given"), (LosesIt, "none"), (TakesNone, "none"), (LooksElsewhere, "none")],
)
def test_a_model_that_does_not_use_positions_or_cache_decodes_each_stream_alone(
    kind: type[Any], cache: str, lora: bool, tokenizer: Any
) -> None:
    model = made(kind, lora=lora)
    own = model.base_model.model if lora else model
    with torch.inference_mode():
        way = stream_way(model, own)
    assert (way.kind, way.cache) == ("alone", cache)
    plain = tiny.with_lora(tiny.llama()) if lora else tiny.llama()
    assert streams(model, tokenizer) == [tiny.greedy(plain, prompt, 8) for prompt in PROMPTS]


@pytest.mark.parametrize("kind", [*NOT_USING, LooksElsewhere])
def test_a_model_whose_prefixes_are_not_known_to_be_exact_computes_rows_whole(
    kind: type[Any], tokenizer: Any, prefixes: list[int]
) -> None:
    found = HFBackend(made(kind), tokenizer, token_budget=15).logprob_of_batch(PAIRS)
    assert not prefixes
    assert found == pytest.approx(scored_alone(tokenizer, lora=False), abs=TOLERANCE)


def test_a_forward_put_on_the_object_is_looked_through() -> None:
    model = made(TakesPastKeyValues)
    model.forward = functools.partial(model.forward)
    assert cache_argument(model) == "past_key_values"
    own = model.forward

    def around(*arguments: Any, **rest: Any) -> Any:
        return own(*arguments, **rest)

    model.forward = around
    assert cache_argument(model) == "past_key_values"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("model_type", PACKABLE)
def test_every_packable_model_is_found_to_share_prefixes_exactly(
    model_type: str, dtype: torch.dtype, tokenizer: Any
) -> None:
    model = packable_model(model_type, "sdpa").to(dtype)
    assert HFBackend(model, tokenizer).admission.prefixes


# What is deprecated


class Said(logging.Handler):
    """The lines that a logger was given."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


@pytest.fixture
def said(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """What transformers and peft log; what is deprecated raises meanwhile."""
    # Each line of ``warning_once`` comes once a process otherwise, and an earlier test had it.
    monkeypatch.setattr(logging.Logger, "warning_once", logging.Logger.warning)
    handler = Said()
    loggers = [logging.getLogger(name) for name in ("transformers", "peft")]
    for logger in loggers:
        logger.addHandler(handler)
    with warnings.catch_warnings():
        for category in (FutureWarning, DeprecationWarning, PendingDeprecationWarning):
            warnings.simplefilter("error", category)
        yield handler.lines
    for logger in loggers:
        logger.removeHandler(handler)


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama+lora", "gpt2+lora"])
def test_no_call_that_scores_or_writes_is_deprecated(
    name: str, make_backend: MakeBackend, said: list[str], prefixes: list[int]
) -> None:
    backend = make_backend(name, token_budget=15)
    with backend.as_base() as view:
        view.next_token_dist_batch([PROMPT, *(PROMPT + end for end in COMPLETIONS)], top_k=3)
        view.logprobs_at_batch([PROMPT], [[1, 2]])
        view.rolling_logprob_batch([PROMPT, "a fox"])
        view.completion_logprob_batch(PAIRS)
        view.continuation_logprob_batch([([1, 2], [3]), ([1, 2, 3, 4, 5], [4, 5])])
        view.generate(PROMPT, max_new_tokens=2)
        view.generate(PROMPT, max_new_tokens=2, temperature=0.7, top_p=0.9)
        backend.noise_floor(list(tiny.PROMPTS))
    assert prefixes
    assert said == []


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama+lora", "gpt2+lora"])
def test_no_step_of_the_engine_is_deprecated(
    name: str, shared_models: dict[str, Any], tokenizer: Any, said: list[str]
) -> None:
    streams(shared_models[name], tokenizer)
    assert said == []


@pytest.mark.parametrize("model_type", PACKABLE)
def test_no_prefix_of_any_family_is_deprecated(
    model_type: str, tokenizer: Any, said: list[str], prefixes: list[int]
) -> None:
    model = packable_model(model_type, "sdpa")
    said.clear()
    HFBackend(model, tokenizer, token_budget=15).logprob_of_batch(PAIRS)
    assert prefixes
    assert said == []
