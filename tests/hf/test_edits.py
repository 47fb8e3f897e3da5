"""Claims: after a change of one number of the weights nothing older is served, whichever it is.

``FORWARDCACHE_EDITS`` and ``FORWARDCACHE_SEED`` make the proof longer, or another. Changes of
whole tensors, modules and tokenizers: ``test_identity``, ``test_stale``.
"""

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
import torch

from forwardcache.hf import HFBackend
from tests import proof
from tests.hf import tiny

EDITS = proof.knob("EDITS", 50)
PROMPTS = ["the quick brown fox", "a"]
Write = Callable[[Any, int, float], None]


def in_place(tensor: Any, at: int, number: float) -> None:
    with torch.no_grad():
        tensor.view(-1)[at] = number


def by_index_put(tensor: Any, at: int, number: float) -> None:
    where = tuple(
        torch.tensor(int(each)) for each in torch.unravel_index(torch.tensor(at), tensor.shape)
    )
    with torch.no_grad():
        tensor.index_put_(where, torch.tensor(number, dtype=tensor.dtype))


def through_a_new_tensor(tensor: Any, at: int, number: float) -> None:
    changed = tensor.detach().clone()
    changed.view(-1)[at] = number
    tensor.data = changed


def behind_torch(tensor: Any, at: int, number: float) -> None:
    tensor.detach().numpy().reshape(-1)[at] = number


SEEN: list[Write] = [in_place, by_index_put, through_a_new_tensor]
WRITES: dict[str, list[Write]] = {"versions": SEEN, "strict": [*SEEN, behind_torch]}


def scored(backend: HFBackend) -> list[Any]:
    """With the adapter and without it."""
    found = backend.next_token_dist_batch(PROMPTS)
    with backend.as_base() as base:
        return [*found, *base.next_token_dist_batch(PROMPTS)]


@pytest.mark.parametrize("policy", WRITES)
def test_after_a_change_of_one_number_nothing_older_is_served(policy: Any) -> None:
    random = Random(f"{policy} {proof.SEED}")
    model, tokenizer = tiny.with_lora(tiny.llama()).requires_grad_(False), tiny.tokenizer()
    backend = HFBackend(model, tokenizer, identity=policy)
    tensors = dict(model.named_parameters())
    old, moved = scored(backend), 0
    for _ in range(EDITS // 2):
        name, write = random.choice([*tensors]), random.choice(WRITES[policy])
        tensor = tensors[name]
        at = random.randrange(tensor.numel())
        write(tensor, at, 1.5 * float(tensor.view(-1)[at]) + random.choice([-0.25, 0.25]))
        new = scored(backend)
        fresh = HFBackend(model, tokenizer)
        assert new == scored(fresh), f"{name}[{at}] by {write.__name__}"
        moved += new != old
        old = new
    assert moved > EDITS // 8, "of most numbers the scores depend"
    proof.done["edits"] += EDITS // 2
    proof.done["edits that changed a score"] += moved
