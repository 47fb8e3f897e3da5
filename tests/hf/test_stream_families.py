"""Claims: whatever a model keeps from one token to the next, its streams have the tokens of one
plain forward a token, alone and next to others of other lengths, and so has ``generate``; what
can't be measured is decoded the plainer way, and what can't be streamed is refused with the reason.
"""

import asyncio
from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    BertConfig,
    GPT2Config,
    Llama4TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MixtralConfig,
    MixtralForCausalLM,
    XLNetConfig,
)

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import HFBackend, HFEngine
from forwardcache.hf.batch.reach import MOST, limits, switch
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.stream.way import StreamWay, stream_way
from tests.hf import tiny
from tests.hf.stream_families import FAMILIES, family, stretched
from tests.hf.test_engine import collect, request, running, tokens, until_idle
from tests.patience import HANG_S

PROMPTS = [
    [5, 9, 200, 31, 77],
    [(7 * n) % 250 + 4 for n in range(37)],
    [60],
    [(11 * n) % 250 + 4 for n in range(13)],
]
_NEW = 12
# Signs that every vocabulary here has.
_TEXT = "Q7?! zx: KJ/w#"


def streams(model: Any, prompts: list[list[int]], tokenizer: Any, late: int = 2) -> list[list[int]]:
    """Greedy tokens of each prompt; those from ``late`` on join while the others decode."""

    async def one(engine: HFEngine, place: int) -> list[int]:
        while place >= late and engine.steps < 3:
            await asyncio.sleep(0.001)
        asked = request(prompts[place], _NEW, stop={"ignore_eos": True})
        return tokens(await collect(engine, asked))

    async def decode() -> list[list[int]]:
        async with running(HFBackend(model, tokenizer), view="base") as engine:
            found = await asyncio.gather(*(one(engine, place) for place in range(len(prompts))))
            await until_idle(engine)
            assert engine.kv_bytes == 0
            return list(found)

    return asyncio.run(asyncio.wait_for(decode(), HANG_S))


def way_of(model: Any) -> StreamWay:
    with torch.inference_mode():
        return stream_way(model, model)


@pytest.mark.parametrize("name", FAMILIES)
def test_streams_are_what_plain_forwards_write(name: str, tokenizer: Any) -> None:
    model = family(name)
    way = way_of(model)
    assert (way.kind, way.cache) == FAMILIES[name][1:]
    assert bool(way.note) == (way.kind != "joined")
    right = [tiny.greedy(model, prompt, _NEW) for prompt in PROMPTS]
    assert streams(model, PROMPTS, tokenizer) == right
    for prompt, expected in zip(PROMPTS[:2], right, strict=False):
        assert streams(model, [prompt], tokenizer) == [expected]


@pytest.mark.parametrize("name", FAMILIES)
def test_generate_writes_what_plain_forwards_write(
    name: str, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family(name)
    model.generation_config.eos_token_id = None
    with HFBackend(model, tokenizer) as backend:
        (encoded,) = backend._scorer.encoded("prompt", [_TEXT])
        assert isinstance(encoded, Encoded)
        new: list[list[int]] = []

        def written(_tokenizer: Any, _fed: Any, ids: list[int]) -> str:
            new.append(ids)
            return ""

        monkeypatch.setattr("forwardcache.hf.stream.generate.continuation", written)
        backend.generate(_TEXT, max_new_tokens=_NEW)
    assert new == [tiny.greedy(model, encoded.fed, _NEW)]


def test_measuring_leaves_a_model_and_the_random_state_as_they_were() -> None:
    for name in ("llama", "mamba", "rwkv"):
        model = family(name)
        before, drawn = tiny.frozen_state(model), torch.get_rng_state()
        way_of(model)
        assert tiny.frozen_state(model) == before
        assert torch.equal(torch.get_rng_state(), drawn)


def small(kind: type[Any], **settings: Any) -> Any:
    torch.manual_seed(0)
    sizes: dict[str, Any] = {
        "vocab_size": tiny.VOCAB,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
    }
    config = kind(**(sizes | settings))
    return tiny.sharpened(AutoModelForCausalLM.from_config(config), 6.0).eval()


def test_a_window_that_short_rows_do_not_reach_is_not_granted(tokenizer: Any) -> None:
    settings = {"max_position_embeddings": 4096, "num_key_value_heads": 2}
    way = way_of(small(MistralConfig, sliding_window=MOST + 1, **settings))
    assert (way.kind, way.cache) == ("alone", "given")
    assert str(MOST + 1) in way.note
    # One that no text of the model's context is longer than is none.
    assert way_of(small(MistralConfig, sliding_window=4096, **settings)).kind == "joined"


@pytest.mark.parametrize("context", [3, 8, 19, 20, 24])
def test_a_context_may_be_shorter_than_the_rows_that_are_measured(
    context: int, tokenizer: Any
) -> None:
    settings = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": context}
    model = small(GPT2Config, **settings)
    assert way_of(model).kind == ("joined" if context >= 20 else "alone")

    async def test() -> list[int]:
        async with running(HFBackend(model, tokenizer), view="base") as engine:
            asked = request([5, 9], None, stop={"ignore_eos": True})
            return tokens(await collect(engine, asked))

    assert asyncio.run(test()) == tiny.greedy(model, [5, 9], context - 2)


def test_the_lengths_that_matter_are_read_from_any_name() -> None:
    window = MistralConfig(sliding_window=100, max_position_embeddings=200)
    assert limits(window) == [100]
    assert limits(Llama4TextConfig(attention_chunk_size=64)) == [64]
    assert limits(LlamaConfig(**stretched("longrope", 32))) == [32]
    assert limits(LlamaConfig()) == []
    # These frequencies are the same at any length.
    llama3: dict[str, Any] = stretched("llama3", 32)["rope_parameters"]
    llama3 |= {"low_freq_factor": 1.0, "high_freq_factor": 4.0}
    assert switch(LlamaConfig(rope_parameters=llama3)) is None


class KeepsItsState(LlamaForCausalLM):
    """Has one state in its own modules, whosever row it reads."""

    kept: Any = None

    def forward(self, input_ids: Any = None, use_cache: Any = True, **rest: Any) -> Any:
        rest.pop("cache", None)
        if use_cache and self.kept is not None and input_ids.shape[1] == 1:
            input_ids = torch.cat([self.kept, input_ids], dim=1)
        self.kept = input_ids
        rest = {"logits_to_keep": rest.get("logits_to_keep", 0)}
        return super().forward(input_ids, use_cache=False, **rest)


def test_a_model_that_keeps_its_state_in_itself_mixes_no_streams(tokenizer: Any) -> None:
    plain = family("llama")
    model = KeepsItsState(plain.config).eval()
    model.load_state_dict(plain.state_dict())
    assert way_of(model).cache == "none"
    right = [tiny.greedy(plain, prompt, _NEW) for prompt in PROMPTS]
    assert streams(model, PROMPTS, tokenizer) == right


def test_what_the_configuration_asks_for_beside_logits_is_left_out(tokenizer: Any) -> None:
    torch.manual_seed(0)
    config = MixtralConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        output_router_logits=True,
        output_hidden_states=True,
    )
    model = tiny.sharpened(MixtralForCausalLM(config), 6.0).eval()
    found = streams(model, PROMPTS, tokenizer)
    assert not any(module._forward_hooks for module in model.modules())
    model.config.output_router_logits = model.config.output_hidden_states = False
    assert found == [tiny.greedy(model, prompt, _NEW) for prompt in PROMPTS]


SEEING: dict[str, tuple[type[Any], dict[str, Any]]] = {
    "bert": (BertConfig, {"is_decoder": False}),
    "xlnet": (XLNetConfig, {"d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 32}),
    "llama": (LlamaConfig, {"is_causal": False}),
}


@pytest.mark.parametrize("name", SEEING)
def test_a_model_that_sees_what_follows_is_refused(name: str, tokenizer: Any) -> None:
    kind, settings = SEEING[name]
    model = small(kind, **settings)
    assert way_of(model).kind == "refused"
    with pytest.raises(UnsupportedModelError, match="not causal"):
        HFEngine(HFBackend(model, tokenizer), view="base")


class Draws(LlamaForCausalLM):
    """Gives other values each time."""

    def forward(self, *arguments: Any, **rest: Any) -> Any:
        output = super().forward(*arguments, **rest)
        output.logits = output.logits + torch.randn_like(output.logits)
        return output


class NeedsMore(LlamaForCausalLM):
    """Reads more than token ids."""

    def forward(self, *arguments: Any, states: Any = None, **rest: Any) -> Any:
        if states is None:
            raise ValueError("states must be given")
        return super().forward(*arguments, **rest)


@pytest.mark.parametrize(
    ("kind", "reason"), [(Draws, "other values each time"), (NeedsMore, "states must be given")]
)
def test_a_model_that_can_not_be_streamed_is_refused_with_the_reason(
    kind: type[Any], reason: str
) -> None:
    way = way_of(kind(family("llama").config).eval())
    assert (way.kind, way.cache) == ("refused", "none")
    assert reason in way.note
