"""Claims: each option of a request to the engine is honoured, or refused by its name; what is no
request is an error of that stream alone. The right answers are those of transformers' processors.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers.generation import logits_process as theirs

from forwardcache.errors import InvalidInputError
from forwardcache.hf.stream.request import Asked
from forwardcache.hf.stream.sample import Sampler, SamplingOptions
from tests.hf.conftest import MakeBackend
from tests.hf.test_engine import collect, request, run, running, tokens

VOCAB = 50


@pytest.fixture
def logits() -> Tensor:
    return torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 3


def drawn(logits: Tensor, **options: Any) -> set[int]:
    """What two thousand draws reach."""
    found = set()
    for seed in range(40):
        sampler = Sampler(SamplingOptions(seed=seed, **options))
        found |= {sampler.draw(logits) for _ in range(50)}
    return found


def left(logits: Tensor, processor: Any) -> set[int]:
    """What one of transformers' processors leaves."""
    return set(torch.isfinite(processor(None, logits[None])[0]).nonzero()[:, 0].tolist())


@pytest.mark.parametrize("top_k", [1, 3, 7])
def test_top_k_draws_from_the_most_likely(logits: Tensor, top_k: int) -> None:
    found = drawn(logits, temperature=3.0, top_k=top_k)
    assert found == left(logits, theirs.TopKLogitsWarper(top_k))


@pytest.mark.parametrize("min_p", [0.05, 0.3, 1.0])
def test_min_p_draws_from_what_is_likely_enough(logits: Tensor, min_p: float) -> None:
    found = drawn(logits, temperature=3.0, min_p=min_p)
    assert found == left(logits / 3.0, theirs.MinPLogitsWarper(min_p))


def test_a_repetition_penalty_is_that_of_transformers(logits: Tensor) -> None:
    prompt = [3, 4, 3, 9]
    ours, taken = list[int](), list[int]()
    sampler = Sampler(SamplingOptions(repetition_penalty=1.7), prompt)
    processor = theirs.RepetitionPenaltyLogitsProcessor(1.7)
    for _ in range(12):
        ours.append(sampler.draw(logits))
        scores = processor(torch.tensor([prompt + taken]), logits[None].clone())
        taken.append(int(scores.argmax()))
    assert ours == taken
    assert len(set(ours)) > 1


@pytest.mark.parametrize(("presence", "frequency"), [(2.0, 0.0), (0.0, 1.5), (0.7, 0.4), (-1, 0)])
def test_presence_and_frequency_count_the_completion(
    logits: Tensor, presence: float, frequency: float
) -> None:
    options = SamplingOptions(presence_penalty=presence, frequency_penalty=frequency)
    sampler, taken = Sampler(options, [int(logits.argmax())] * 5), list[int]()
    for _ in range(12):
        counts = torch.tensor([taken.count(token) for token in range(VOCAB)])
        wanted = int((logits - frequency * counts - presence * (counts > 0)).argmax())
        assert sampler.draw(logits) == wanted
        taken.append(wanted)


def test_no_stop_token_is_drawn_before_min_tokens(logits: Tensor) -> None:
    best = int(logits.argmax())
    sampler = Sampler(SamplingOptions(), late=[best], least=3)
    found = [sampler.draw(logits) for _ in range(5)]
    assert [token == best for token in found] == [False, False, False, True, True]


def test_stop_tokens_end_a_stream_and_hidden_ones_are_not_sent(make_backend: MakeBackend) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            whole = tokens(await collect(engine, request([5, 6], 12)))
            position = next(
                position for position in range(4, 12) if whole[position] not in whole[:position]
            )
            ending = {"stop_token_ids": [whole[position]]}
            assert (
                tokens(await collect(engine, request([5, 6], 12, stop=ending)))
                == (whole[: position + 1])
            )
            hidden = {"stop_token_ids_hidden": np.array([whole[position]])}
            chunks = await collect(engine, request([5, 6], 12, stop=hidden))
            assert (tokens(chunks), chunks[-1]["finish_reason"]) == (whole[:position], "stop")
            assert chunks[-1]["completion_usage"]["completion_tokens"] == position
            late = {**ending, "min_tokens": position + 1}
            longer = tokens(await collect(engine, request([5, 6], 12, stop=late)))
            assert (longer[:position], longer[position] == whole[position]) == (
                whole[:position],
                False,
            )
            hot = {"temperature": 5.0, "top_k": 1}
            asked = request([5, 6], 12, sampling_options=hot)
            assert tokens(await collect(engine, asked)) == whole

    run(test)


def test_a_strange_request_is_an_error_of_that_stream_alone(make_backend: MakeBackend) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            for asked in STRANGE:
                with pytest.raises(InvalidInputError):
                    await collect(engine, asked)
            assert len(tokens(await collect(engine, request([5, 6], 3)))) == 3

    run(test)


STRANGE: list[Any] = [
    None,
    "12",
    {},
    {"token_ids": None},
    {"token_ids": "12"},
    {"token_ids": b"12"},
    {"token_ids": 5},
    {"token_ids": [1.7]},
    {"token_ids": [1, None]},
    {"token_ids": [True]},
    {"token_ids": {1: 2}},
    {"token_ids": [1], "sampling_options": "hot"},
    {"token_ids": [1], "stop_conditions": [1]},
    {"token_ids": [1], "view": 3},
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seed", 2**70),
        ("seed", "1"),
        ("seed", 1.5),
        ("temperature", "0.5"),
        ("temperature", float("nan")),
        ("temperature", True),
        ("top_p", [1]),
        ("top_k", 1.5),
        ("top_k", -2),
        ("min_p", 1.5),
        ("repetition_penalty", 0.0),
        ("presence_penalty", "1"),
        ("frequency_penalty", float("inf")),
        ("n", 2),
        ("best_of", 3),
        ("use_beam_search", True),
        ("length_penalty", 2.0),
        ("logit_bias", {"5": 1.0}),
        ("typical_p", 0.5),
        ("guided_decoding", {"regex": "a"}),
    ],
)
def test_a_sampling_option_that_is_not_honoured_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name):
        Asked.of({"token_ids": [1], "sampling_options": {name: value}})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("max_tokens", "5"),
        ("max_tokens", 0),
        ("max_tokens", 1.5),
        ("min_tokens", -1),
        ("stop_token_ids", 5),
        ("stop_token_ids", "5"),
        ("stop_token_ids_hidden", [0.5]),
        ("stop", ["\n"]),
        ("stop", "\n"),
        ("ignore_eos", "no"),
        ("max_thinking_tokens", 5),
    ],
)
def test_a_stop_condition_that_is_not_honoured_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(InvalidInputError, match=name):
        Asked.of({"token_ids": [1], "stop_conditions": {name: value}})


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling_options": None, "stop_conditions": None},
        {"sampling_options": {"n": 1, "best_of": 1, "top_k": -1, "min_p": None, "logit_bias": {}}},
        {"sampling_options": {"use_beam_search": False, "length_penalty": 1.0, "seed": 2**64 - 1}},
        {"sampling_options": {"temperature": np.float32(0.5), "seed": np.int64(3)}},
        {"stop_conditions": {"stop": [], "stop_token_ids": None, "min_tokens": 0}},
        {"output_options": {"logprobs": None, "skip_special_tokens": True}},
    ],
)
def test_what_changes_nothing_is_served(fields: Mapping[str, Any]) -> None:
    assert Asked.of({"token_ids": [1, np.int64(2)], **fields}).token_ids == (1, 2)
