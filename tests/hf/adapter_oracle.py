"""What each view of an adapter case must give, from plain forwards and arithmetic of their own."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch

from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.hf.adapter_cases import Case

LAMBDA = 0.5
SEED = 7
INIT_SCALE = 0.2
# Of several lengths, and five with one beginning.
PROMPTS = (
    *tiny.PROMPTS[:6],
    *(f"the quick brown fox jumps over the {word}" for word in ("dog", "fox", "a", "hello", "!")),
)


def view_of(backend: HFBackend, kind: str) -> Any:
    """The view of that kind which the oracle is about."""
    if kind == "base":
        return backend.as_base()
    if kind == "ft":
        return backend.as_finetuned()
    if kind == "scaled":
        return backend.as_scaled_adapter(LAMBDA)
    return backend.as_null_adapter(SEED, init_scale=INIT_SCALE)


def expected(case: Case, kind: str, tokenizer: Any) -> list[torch.Tensor]:
    """For each prompt the log-probabilities after each of its tokens."""
    model = case.base() if kind == "base" else case.make()
    change = {"scaled": _scaled, "null": _drawn}.get(kind)
    if change is not None:
        change(model)
    return [tiny.logprobs_after(model, tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]


def _scaled(model: Any) -> None:
    for layer in tiny.lora_layers(model):
        for name in layer.active_adapters:
            if name in layer.scaling:
                layer.scaling[name] *= LAMBDA


def _drawn(model: Any) -> None:
    """Noise by the contract's words; what lies on one memory is drawn once."""
    generator = torch.Generator(device="cpu").manual_seed(SEED)
    done: set[int] = set()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_noise = any(part in name for part in ("lora_A", "lora_B", "lora_embedding_"))
            if is_noise and parameter.data_ptr() not in done:
                done.add(parameter.data_ptr())
                noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
                parameter.copy_(noise * INIT_SCALE)


def distances(view: Any, right: Sequence[torch.Tensor]) -> Iterator[float]:
    """How far a view is from the oracle: in batches, alone, and at every position."""
    everything = view.next_token_dist_batch(list(PROMPTS), top_k=tiny.VOCAB)
    for found, truth in zip(everything, right, strict=True):
        yield _apart(found.logprobs, truth[-1][torch.from_numpy(found.token_ids.copy())])
    for prompt, truth in list(zip(PROMPTS, right, strict=True))[::4]:
        rolled = view.rolling_logprob(prompt)
        ids = torch.from_numpy(rolled.token_ids.copy())
        at = truth[:-1].gather(1, ids[1:, None])[:, 0]
        yield _apart(rolled.logprobs, at)


def _apart(found: Any, truth: torch.Tensor) -> float:
    difference = np.abs(np.asarray(found) - truth.numpy())
    return float(difference.max()) if difference.size else 0.0
