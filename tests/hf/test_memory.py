"""Claims: a batch that doesn't fit into memory is split and done, and a prompt that never fits
fails alone. Memory runs out where the test says: beyond a number of positions in one forward.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.errors import ModelMemoryError
from forwardcache.hf.batch.memory import is_out_of_memory
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.tolerance import TOLERANCE

PROMPTS = list(tiny.PROMPTS)
ERRORS: list[Callable[[], BaseException]] = [
    lambda: torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    lambda: RuntimeError("MPS backend out of memory"),
    lambda: RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ..."),
    MemoryError,
]


class Memory:
    """Memory for a number of positions in one forward of a model; counts those that fit."""

    def __init__(self, model: Any, capacity: int, error: Callable[[], BaseException]) -> None:
        self.capacity = capacity
        self.error = error
        self.done: list[int] = []
        self.handle = model.get_input_embeddings().register_forward_pre_hook(self._before)

    def _before(self, _module: Any, inputs: Any) -> None:
        if inputs[0].numel() > self.capacity:
            raise self.error()
        self.done.append(inputs[0].numel())


@pytest.mark.parametrize("error", ERRORS)
def test_a_batch_that_does_not_fit_is_split_and_done(error: Any, make_backend: MakeBackend) -> None:
    backend, free = make_backend("llama", copied=True), make_backend("llama")
    memory = Memory(backend.model, 30, error)
    for left, right in zip(
        backend.next_token_dist_batch(PROMPTS), free.next_token_dist_batch(PROMPTS), strict=True
    ):
        np.testing.assert_allclose(left.logprobs, right.logprobs, atol=TOLERANCE)
    assert max(memory.done) <= 30
    assert backend.out_of_memory_batches > 0
    assert backend.stats.forward_passes == len(PROMPTS)


def test_the_smaller_budget_is_remembered_for_that_operation(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True)
    memory = Memory(backend.model, 30, ERRORS[0])
    backend.next_token_dist_batch(PROMPTS)
    failed = backend.out_of_memory_batches
    backend.next_token_dist_batch([f"{prompt} again" for prompt in PROMPTS])
    assert backend.out_of_memory_batches == failed
    memory.capacity = 10_000
    backend.rolling_logprob_batch(PROMPTS)
    assert max(memory.done) > 30


def test_a_prompt_that_never_fits_fails_alone_and_is_not_stored(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True)
    lengths = backend.token_lengths(PROMPTS, op="next_token_dist")
    longest = lengths.index(max(lengths))  # type: ignore[type-var]
    memory = Memory(backend.model, sorted(lengths)[-2], ERRORS[0])  # type: ignore[type-var, arg-type]
    found = backend.next_token_dist_batch(PROMPTS, on_error="return")
    assert [isinstance(each, ModelMemoryError) for each in found] == [
        index == longest for index in range(len(PROMPTS))
    ]
    with pytest.raises(ModelMemoryError, match=f"^{lengths[longest]} tokens"):
        backend.next_token_dist(PROMPTS[longest])
    with pytest.raises(ModelMemoryError) as raised:
        backend.next_token_dist_batch(PROMPTS)
    assert raised.value.index == longest
    assert raised.value.results is not None
    memory.capacity = 10_000
    done = len(memory.done)
    backend.next_token_dist_batch(PROMPTS)
    assert len(memory.done) == done + 1
    assert backend.nonfinite_results == 0


def test_a_prefix_that_does_not_fit_is_not_shared(make_backend: MakeBackend) -> None:
    prompt = PROMPTS[3]
    pairs = [(prompt, end) for end in (" dog", " fox jumps again", "x", " and", "s and again and")]
    backend, free = make_backend("llama", copied=True, token_budget=15), make_backend("llama")
    width = backend.token_lengths([prompt], op="next_token_dist")[0]
    assert isinstance(width, int)
    Memory(backend.model, width - 2, ERRORS[0])
    found = backend.logprob_of_batch(pairs, on_error="return")
    assert all(isinstance(each, ModelMemoryError) for each in found)
    backend = make_backend("llama", copied=True, token_budget=15)
    rows = [len(backend.tokenizer(prompt + end)["input_ids"]) for _, end in pairs]
    rests = Memory(backend.model, max(rows), ERRORS[0])
    for pair, value in zip(pairs, backend.logprob_of_batch(pairs), strict=True):
        assert value == pytest.approx(free.logprob_of(*pair), abs=TOLERANCE)
    assert rests.done


def test_other_errors_pass_through(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True)
    Memory(backend.model, 0, lambda: RuntimeError("shapes do not match"))
    with pytest.raises(RuntimeError, match="shapes do not match"):
        backend.next_token_dist_batch(PROMPTS)
    assert backend.out_of_memory_batches == 0


@pytest.mark.parametrize("error", ERRORS)
def test_what_counts_as_out_of_memory(error: Any) -> None:
    assert is_out_of_memory(error())
    assert not is_out_of_memory(ValueError("out of memory"))
