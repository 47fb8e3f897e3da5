"""From logits to log-probabilities, on the device, in float32, with one transfer a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from forwardcache.scoring import Int64Array, TokenDist

TokenKernel = Callable[[Tensor, Tensor], Tensor]
"""What is computed of each scored token: from logits [n, vocab] and int64[n], n rows."""


def token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of one token a row.

    Args:
        logits: [n, vocab], any floating dtype.
        targets: int64[n].

    Returns:
        float32[n], nats.
    """
    # logsumexp writes a temporary as large as what it reads; a CPU keeps a small one in its cache.
    most_bytes = 2**20 if logits.device.type == "cpu" else 2**28
    rows = max(1, most_bytes // (4 * logits.shape[-1]))
    pairs = zip(torch.split(logits, rows), torch.split(targets, rows), strict=True)
    return torch.cat([_token_logprobs(*pair) for pair in pairs])


def _token_logprobs(logits: Tensor, targets: Tensor) -> Tensor:
    logits = logits.float()
    chosen = logits.gather(-1, targets.unsqueeze(-1)).squeeze(-1)
    # Gather minus logsumexp: a full log-softmax would write a second [n, vocab].
    return chosen - logits.logsumexp(-1)


def logprobs_and_greedy(logits: Tensor, targets: Tensor) -> Tensor:
    """Log-probability of one token a row, and whether greedy decoding would have taken it.

    Args:
        logits: [n, vocab], any floating dtype.
        targets: int64[n].

    Returns:
        float32[n, 2]: nats; 1 where the token has the largest logit, the lowest id among equals.
    """
    greedy = logits.argmax(-1) == targets
    return torch.stack([token_logprobs(logits, targets), greedy.float()], -1)


def top_dists(logits: Tensor, top_k: int) -> list[TokenDist]:
    """The ``top_k`` most likely tokens of each row.

    Args:
        logits: [n, vocab], any floating dtype.
        top_k: At least 1; more than the vocabulary means all of it.

    Returns:
        One distribution a row, ids by falling log-probability, ties by rising id.
    """
    logprobs = logits.float().log_softmax(-1)
    k = min(top_k, logprobs.shape[-1])
    return _dists(logprobs, _largest(logprobs, k), [k] * len(logprobs))


def dists_at(logits: Tensor, token_ids: Sequence[Sequence[int]]) -> list[TokenDist]:
    """The log-probabilities of given tokens, and the mass of all others, row by row.

    Args:
        logits: [n, vocab], any floating dtype.
        token_ids: For each row its ids, at least one, below the vocabulary's size.

    Returns:
        One distribution a row, ids in the order given.
    """
    logprobs = logits.float().log_softmax(-1)
    counts = [len(ids) for ids in token_ids]
    # Rows with fewer ids repeat their first, which changes neither the others nor the tail.
    padded = [[*ids, *[ids[0]] * (max(counts) - len(ids))] for ids in token_ids]
    return _dists(logprobs, torch.tensor(padded, device=logits.device), counts)


def _largest(logprobs: Tensor, k: int) -> Tensor:
    """Ids of the k largest a row: the kth value, all above it, then the lowest ids equal to it."""
    values, token_ids = logprobs.topk(k)
    # topk breaks ties as it likes: inside the k, sort them by id; at the edge, choose again.
    token_ids, by_id = token_ids.sort(-1)
    by_value = values.gather(-1, by_id).argsort(dim=-1, descending=True, stable=True)
    token_ids = token_ids.gather(-1, by_value)
    torn = (logprobs >= values[:, -1:]).sum(-1) != k
    if bool(torn.any()):
        order = logprobs[torn].argsort(dim=-1, descending=True, stable=True)
        token_ids[torn] = order[:, :k]
    return token_ids


def _dists(logprobs: Tensor, token_ids: Tensor, counts: Sequence[int]) -> list[TokenDist]:
    """Distributions of the first ``counts[row]`` ids of [n, k] under ``logprobs`` [n, vocab]."""
    vocab_size, k = logprobs.shape[-1], token_ids.shape[-1]
    chosen = logprobs.gather(-1, token_ids)
    # The sum over the others: 1 minus the sum of the chosen would cancel where they are nearly all.
    tails = logprobs.scatter(-1, token_ids, -torch.inf).logsumexp(-1, keepdim=True)
    # float64 holds ids and float32 exactly, so that one transfer brings all three.
    packed = torch.cat([token_ids.double(), chosen.double(), tails.double()], -1).cpu().numpy()
    return [
        _dist(row[:count].astype(np.int64), row[k : k + count], vocab_size, float(row[-1]))
        for row, count in zip(packed, counts, strict=True)
    ]


def _dist(token_ids: Int64Array, logprobs: ArrayLike, vocab_size: int, tail: float) -> TokenDist:
    covers = len(token_ids) >= vocab_size and len(np.unique(token_ids)) == vocab_size
    values = np.asarray(logprobs, dtype=np.float32)
    return TokenDist(token_ids, values, vocab_size, None if covers else tail)
