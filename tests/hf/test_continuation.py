"""Claims: given tokens are scored as the model sees them, with what greedy decoding would write;
equal to a full forward in every way of running (alone, batched, behind a prefix, the head in
chunks), in each view; cached by the exact tokens; bad tokens fail alone.
"""

from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.errors import (
    ContextLengthError,
    EmptyCompletionError,
    EmptyPromptError,
    InvalidInputError,
)
from forwardcache.scoring import ContinuationLogprob
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

Pair = tuple[list[int], list[int]]


def pairs(count: int = 24) -> list[Pair]:
    numbers = np.random.default_rng(7)
    lengths = numbers.integers(1, 20, size=(count, 2)).tolist()
    return [
        (numbers.integers(0, tiny.VOCAB, n).tolist(), numbers.integers(0, tiny.VOCAB, m).tolist())
        for n, m in lengths
    ]


def truth(model: Any, pair: Pair) -> ContinuationLogprob:
    context, continuation = pair
    logprobs = tiny.logprobs_after(model, context + continuation)[len(context) - 1 : -1]
    chosen = logprobs[range(len(continuation)), continuation]
    greedy = logprobs.argmax(-1).tolist() == continuation
    return ContinuationLogprob(float(chosen.double().sum()), len(continuation), greedy)


def greedy_continuation(model: Any, context: list[int], length: int) -> list[int]:
    ids = list(context)
    for _ in range(length):
        ids.append(int(tiny.logprobs_after(model, ids)[-1].argmax()))
    return ids[len(context) :]


def assert_close(found: list[Any], expected: list[ContinuationLogprob]) -> None:
    assert [(one.num_tokens, one.is_greedy) for one in found] == [
        (one.num_tokens, one.is_greedy) for one in expected
    ]
    ours = [one.logprob for one in found]
    np.testing.assert_allclose(ours, [one.logprob for one in expected], atol=2e-4)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@pytest.mark.parametrize("options", [{}, {"max_logit_bytes": 4 * 4 * tiny.VOCAB}], ids=str)
def test_batches_equal_a_full_forward(
    make_backend: MakeBackend, name: str, options: dict[str, Any]
) -> None:
    backend = make_backend(name, **options)
    expected = [truth(backend.model, pair) for pair in pairs()]
    assert_close(backend.continuation_logprob_batch(pairs()), expected)


def test_one_alone_equals_the_batch(make_backend: MakeBackend) -> None:
    batched = make_backend("llama").continuation_logprob_batch(pairs())
    backend = make_backend("llama")
    assert_close([backend.continuation_logprob(*pair) for pair in pairs()], batched)


def test_greedy_tokens_are_told_from_others_also_after_a_shared_prefix(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend("llama")
    context = list(range(2, 42))
    greedy = greedy_continuation(backend.model, context, 4)
    nearly = [*greedy[:-1], (greedy[-1] + 1) % tiny.VOCAB]
    asked: list[Pair] = [(context, greedy), (context, nearly), (context, greedy[:1])]
    asked += [(context, [other, other]) for other in range(5)]
    found = backend.continuation_logprob_batch(asked)
    assert_close(found, [truth(backend.model, pair) for pair in asked])
    assert [one.is_greedy for one in found[:3]] == [True, False, True]


def test_each_view_has_its_own(make_backend: MakeBackend) -> None:
    backend = make_backend()
    views = [backend.as_base(), backend.as_finetuned()]
    found = backend.score(pairs(), views, "continuation_logprob")
    with torch.no_grad(), backend.model.disable_adapter():
        base = [truth(backend.model, pair) for pair in pairs()]
    assert_close(found["base"], base)
    assert_close(found["ft"], [truth(backend.model, pair) for pair in pairs()])


def test_the_exact_tokens_are_the_key(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    first = backend.continuation_logprob([1, 2], [3])
    assert backend.continuation_logprob((1, 2), np.array([3])) is first  # type: ignore[arg-type]
    assert backend.stats.forward_passes == 1
    for other in [([1], [2, 3]), ([12], [3]), ([1, 2], [3, 3])]:
        assert backend.continuation_logprob(*other) != first
    assert backend.stats.forward_passes == 4


def test_the_context_may_be_full_and_no_longer(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    full = [5] * tiny.CONTEXT
    assert backend.continuation_logprob(full, [6]).num_tokens == 1
    with pytest.raises(ContextLengthError, match=f"{tiny.CONTEXT + 1} tokens"):
        backend.continuation_logprob(full, [6, 7])


def test_bad_tokens_fail_alone(make_backend: MakeBackend) -> None:
    backend = make_backend("llama")
    good: Any = ([1], [2])
    bad: list[Any] = [
        ([], [1]),
        ([1], []),
        ([1], [tiny.VOCAB]),
        ([-1], [1]),
        ([1], [2.0]),
        ([1], "2"),
        "12",
        None,
    ]
    found = backend.continuation_logprob_batch([good, *bad, good], on_error="return")
    assert found[0] is found[-1]
    assert_close(found[:1], [truth(backend.model, good)])
    assert [type(error) for error in found[1:-1]] == [
        EmptyPromptError,
        EmptyCompletionError,
        *[InvalidInputError] * 6,
    ]
    assert str(tiny.VOCAB - 1) in str(found[3])


def test_the_model_itself_can_be_run_in_a_view(make_backend: MakeBackend) -> None:
    backend = make_backend()
    ids = torch.tensor([[1, 2, 3]])

    def logits(model: Any) -> torch.Tensor:
        found: torch.Tensor = model(input_ids=ids).logits
        return found

    with backend.as_base() as base:
        in_base = base.run(logits)
    with torch.no_grad(), backend.model.disable_adapter():
        torch.testing.assert_close(in_base, logits(backend.model))
    assert not torch.allclose(in_base, backend.run(logits))
    assert backend.stats.forward_passes == 0
