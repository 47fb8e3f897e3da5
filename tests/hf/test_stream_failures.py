"""Claims: a stream that fails ends alone, with its own error, and its neighbours' tokens stay what
they would be without it: logits that aren't finite, the smallest temperatures, rows that a forward
raises at, memory that isn't enough for all.
"""

import asyncio
from typing import Any

import pytest
import torch

from forwardcache.errors import NonFiniteError
from forwardcache.hf import HFBackend
from forwardcache.hf.stream.decode import DecodingRows
from forwardcache.hf.stream.sample import Sampler, SamplingOptions
from tests.hf import tiny
from tests.hf.stream_families import family
from tests.hf.test_engine import collect, request, run, running, tokens, until_idle

FREE = {"ignore_eos": True}
POISON = 7


def asked(prompt: list[int], most: int = 10, **sampling: Any) -> dict[str, Any]:
    return request(prompt, most, stop=FREE, sampling_options=sampling)


async def all_of(engine: Any, *requests: dict[str, Any]) -> list[Any]:
    streams = (collect(engine, each) for each in requests)
    found = await asyncio.gather(*streams, return_exceptions=True)
    return [each if isinstance(each, BaseException) else tokens(each) for each in found]


def poisoned() -> Any:
    """A model that reads an infinity at one token, with a head of its own."""
    model = family("llama")
    with torch.no_grad():
        model.model.embed_tokens.weight[POISON] = torch.inf
    return model


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1.0}, {"temperature": 1.0, "min_p": 0.1}])
def test_logits_that_are_not_finite_end_their_stream_with_a_named_error(
    sampling: dict[str, Any], tokenizer: Any
) -> None:
    async def test() -> None:
        backend = HFBackend(poisoned(), tokenizer)
        async with running(backend, view="base") as engine:
            alone = await all_of(engine, asked([1, 2, 3, 4], **sampling))
            found = await all_of(
                engine, asked([1, POISON, 3], **sampling), asked([1, 2, 3, 4], **sampling)
            )
            assert isinstance(found[0], NonFiniteError)
            assert found[1:] == alone
            await until_idle(engine)

    run(test)


def test_generate_gives_the_same_error() -> None:
    model, tokenizer = family("llama"), tiny.tokenizer()
    with torch.no_grad():
        model.model.embed_tokens.weight[tokenizer("~").input_ids[-1]] = torch.inf
    with HFBackend(model, tokenizer) as backend:
        for temperature in (0.0, 1.0):
            with pytest.raises(NonFiniteError, match="largest logit"):
                backend.generate("a~b", max_new_tokens=3, temperature=temperature)
        assert isinstance(backend.generate("a b", max_new_tokens=3), str)


@pytest.mark.parametrize("temperature", [1e-5, 1e-40, 5e-324])
def test_the_smallest_temperatures_are_greedy(temperature: float, tokenizer: Any) -> None:
    async def test() -> None:
        async with running(HFBackend(family("llama"), tokenizer), view="base") as engine:
            greedy = await all_of(engine, asked([1, 2, 3, 4]), asked([9, 8]))
            cold = asked([9, 8], temperature=temperature)
            assert await all_of(engine, asked([1, 2, 3, 4]), cold) == greedy

    run(test)


@pytest.mark.parametrize("logits", [[1e38, -1e38, 0.0], [-torch.inf, 3.0, 2.0], [0.0, -3e38, 5.0]])
@pytest.mark.parametrize("temperature", [0.0, 1e-40, 1.0, 1e30])
def test_extreme_logits_are_drawn_from(logits: list[float], temperature: float) -> None:
    sampler = Sampler(SamplingOptions(temperature=temperature))
    drawn = {sampler.draw(torch.tensor(logits)) for _ in range(50)}
    assert all(logits[token] != -torch.inf for token in drawn)
    if temperature < 1e-3:
        assert drawn == {logits.index(max(logits))}


@pytest.mark.parametrize("logits", [[torch.nan, 1.0], [1.0, torch.inf], [-torch.inf] * 3])
def test_nothing_is_drawn_from_logits_without_a_largest_number(logits: list[float]) -> None:
    for temperature in (0.0, 1.0):
        with pytest.raises(NonFiniteError):
            Sampler(SamplingOptions(temperature=temperature)).draw(torch.tensor(logits))


class RaisesAt(torch.nn.Module):
    """A hook that raises where a forward reads a token, or has more rows than it may."""

    def __init__(self, error: BaseException, *, token: int | None = None, rows: int = 99) -> None:
        super().__init__()
        self.error, self.token, self.rows = error, token, rows

    def __call__(self, _model: Any, _arguments: Any, given: dict[str, Any]) -> None:
        ids = given["input_ids"]
        if len(ids) > self.rows or (self.token is not None and (ids == self.token).any()):
            raise self.error


@pytest.mark.parametrize("name", ["llama", "mamba"])
def test_a_row_that_the_forward_raises_at_ends_alone(name: str, tokenizer: Any) -> None:
    model = family(name)
    prompts = [[1, 2, 3, 4], [5, 6, 9], [8, 7]]
    right = [tiny.greedy(model, prompt, 10) for prompt in prompts]
    # A token that only the second stream draws, in the middle of its text.
    lost = next(
        token
        for token in right[1][1:]
        if token not in {*sum(prompts, []), *right[0], *right[2]}  # noqa: RUF017
    )

    async def test() -> None:
        async with running(HFBackend(model, tokenizer), view="base") as engine:
            error = RuntimeError("no kernel for this token")
            hook = model.register_forward_pre_hook(RaisesAt(error, token=lost), with_kwargs=True)
            found = await all_of(engine, *map(asked, prompts))
            hook.remove()
            assert found == [right[0], error, right[2]]
            await until_idle(engine)
            assert engine.kv_bytes == 0
            # And where it stands in a prompt, of streams that begin together.
            hook = model.register_forward_pre_hook(RaisesAt(error, token=lost), with_kwargs=True)
            found = await all_of(engine, asked(prompts[0]), asked([3, lost]), asked(prompts[2]))
            hook.remove()
            assert found == [right[0], error, right[2]]

    run(test)


def test_memory_that_is_not_enough_for_all_ends_the_youngest(
    tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = family("llama")
    prompts = [[1, 2, 3, 4], [5, 6, 9], [8, 7]]
    right = [tiny.greedy(model, prompt, 10) for prompt in prompts]
    merge = DecodingRows._merge

    def short(self: DecodingRows, *joining: Any) -> None:
        if len(self) == 2:
            # As it is left where memory ends in the middle of the layers.
            self._mask = torch.cat([self._mask, self._mask[:1]])
            raise torch.OutOfMemoryError("no room for a third row")
        merge(self, *joining)

    async def test() -> None:
        async with running(HFBackend(model, tokenizer), view="base") as engine:
            hook = model.register_forward_pre_hook(
                RaisesAt(torch.OutOfMemoryError("no room"), rows=2), with_kwargs=True
            )
            found = await all_of(engine, *map(asked, prompts))
            hook.remove()
            assert found[:2] == right[:2]
            assert isinstance(found[2], torch.OutOfMemoryError)
            await until_idle(engine)
            assert engine.kv_bytes == 0

    monkeypatch.setattr(DecodingRows, "_merge", short)
    run(test)
