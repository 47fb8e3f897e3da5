"""Claim: a model whose configuration asks for tuples (``return_dict=False``) gives the values that
it gives without, in every operation and as an engine, and its configuration stays as it is.
"""

import asyncio
import copy
from typing import Any

import pytest

from forwardcache.hf import HFBackend, HFEngine

_PROMPT = "the quick brown fox"
_PAIRS = [("the quick", end) for end in (" brown", " fox jumps", " dog", " lazy dog")]


class NeverStopped:
    def is_stopped(self) -> bool:
        return False

    is_killed = is_stopped


def values(backend: HFBackend) -> list[Any]:
    return [
        backend.next_token_dist(_PROMPT),
        backend.rolling_logprob_batch([_PROMPT, "hello", "the lazy dog"]),
        backend.logprob_of_batch(_PAIRS),
        backend.token_dist_at(_PROMPT, [1, 2]),
        backend.continuation_logprob([1, 2, 3], [4, 5]),
        backend.generate(_PROMPT, max_new_tokens=4),
        backend.preflight_finite_check(),
        backend.noise_floor([_PROMPT, "hello"]).prompts,
    ]


async def stream(backend: HFBackend) -> list[int]:
    engine = HFEngine(backend, view="base")
    await engine.start(0)
    request = {"token_ids": [1, 2, 3], "stop_conditions": {"max_tokens": 5, "ignore_eos": True}}
    try:
        found = []
        async for chunk in engine.generate(request, NeverStopped()):
            found += chunk["token_ids"]
        return found
    finally:
        await engine.cleanup()


@pytest.mark.parametrize("name", ["llama", "gpt2", "llama+lora"])
def test_a_model_that_returns_tuples_is_scored_as_one_that_does_not(
    name: str, shared_models: dict[str, Any], tokenizer: Any
) -> None:
    plain, model = shared_models[name], copy.deepcopy(shared_models[name])
    model.config.return_dict = False
    # Logits in chunks take the body's output, too.
    options: dict[str, Any] = {"max_logit_bytes": 4 * 320 * 4}
    with (
        HFBackend(model, tokenizer, **options) as backend,
        HFBackend(plain, tokenizer, **options) as other,
    ):
        assert values(backend) == values(other)
        assert asyncio.run(stream(backend)) == asyncio.run(stream(other))
        computed = backend.stats.forward_passes
        backend.next_token_dist(_PROMPT)
        assert backend.stats.forward_passes == computed
    assert model.config.return_dict is False
