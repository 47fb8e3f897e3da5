"""From logits to log-probabilities, on the device, in float32, with one transfer a batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from forwardcache.scoring import Float32Array, Int64Array, TokenDist

Float64Array = NDArray[np.float64]

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
    token_ids, chosen, tails = _chosen(logprobs, _largest(logprobs, k))
    rows = zip(*_by_falling_logprob(token_ids, chosen), tails.tolist(), strict=True)
    covers = k == logprobs.shape[-1]
    return [
        TokenDist(ids, values, logprobs.shape[-1], None if covers else tail)
        for ids, values, tail in rows
    ]


def top_k_kernel(k: int) -> TokenKernel:
    """What gives the ``k`` most likely tokens of each row; ``top_k_of`` reads it.

    Args:
        k: At least 1; more than the vocabulary means all of it.

    Returns:
        A kernel of logits [n, vocab] and targets, which it doesn't read: float64[n, 2k + 1], the
        ids, their log-probabilities in any order, and the log of the mass of all others.
    """

    def of(logits: Tensor, targets: Tensor) -> Tensor:
        # A few tensors as large as the logits of these rows are there at once.
        most_bytes = 2**22 if logits.device.type == "cpu" else 2**28
        rows = max(1, most_bytes // (4 * logits.shape[-1]))
        return torch.cat([_top_k(part, k) for part in torch.split(logits, rows)])

    return of


def top_k_of(packed: Tensor) -> tuple[Int64Array, Float32Array, Float32Array]:
    """What ``top_k_kernel`` gave for rows: ids [n, k] and log-probabilities [n, k], tails [n].

    The ids stand by falling log-probability, ties by rising id.
    """
    ids, values, tails = _unpacked(packed)
    return (*_by_falling_logprob(ids, values), tails.astype(np.float32))


def _top_k(logits: Tensor, k: int) -> Tensor:
    logprobs = logits.float().log_softmax(-1)
    return _packed(logprobs, _largest(logprobs, min(k, logprobs.shape[-1])))


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
    chosen = _chosen(logprobs, torch.tensor(padded, device=logits.device))
    vocab_size = logprobs.shape[-1]
    return [
        _dist_at(ids[:count], values[:count], vocab_size, tail)
        for ids, values, tail, count in zip(*chosen[:2], chosen[2].tolist(), counts, strict=True)
    ]


def _largest(logprobs: Tensor, k: int) -> Tensor:
    """Ids of the k largest a row, in any order; of those equal to the kth, the lowest ids."""
    if k == logprobs.shape[-1]:
        return torch.arange(k, device=logprobs.device).expand(len(logprobs), -1)
    values, token_ids = logprobs.topk(k + 1)
    token_ids = token_ids[:, :k]
    # topk breaks ties as it likes: where one crosses the edge, or a NaN hides it, choose again.
    torn = ~(values[:, k - 1] > values[:, k])
    if bool(torn.any()):
        token_ids[torn] = _lowest_ids(logprobs[torn], values[torn, k - 1 : k], k)
    return token_ids


def _lowest_ids(logprobs: Tensor, kth: Tensor, k: int) -> Tensor:
    """Ids of all that are above the ``kth`` largest [n, 1], then the lowest of those equal to it.

    In one look at each row: to sort a whole vocabulary takes twenty times as long, and values of
    half precision are so few that nearly every row has such ties.
    """
    # In topk a NaN is above all numbers.
    logprobs, kth = (each.nan_to_num(torch.inf, torch.inf, -torch.inf) for each in (logprobs, kth))
    above, equal = logprobs > kth, logprobs == kth
    wanted = k - above.sum(-1, keepdim=True)
    taken = above | (equal & (equal.cumsum(-1) <= wanted))
    return taken.nonzero()[:, 1].view(-1, k)


def _chosen(logprobs: Tensor, token_ids: Tensor) -> tuple[Int64Array, Float32Array, Float64Array]:
    """The ids [n, k], their log-probabilities, and the mass of all others [n], off the device."""
    return _unpacked(_packed(logprobs, token_ids).cpu())


def _packed(logprobs: Tensor, token_ids: Tensor) -> Tensor:
    """The same in one tensor on the device, float64[n, 2k + 1]."""
    chosen = logprobs.gather(-1, token_ids)
    # The sum over the others: 1 minus the sum of the chosen would cancel where they are nearly all.
    tails = logprobs.scatter(-1, token_ids, -torch.inf).logsumexp(-1, keepdim=True)
    # float64 holds ids and float32 exactly, so that one transfer brings all three.
    return torch.cat([token_ids.double(), chosen.double(), tails.double()], -1)


def _unpacked(packed: Tensor) -> tuple[Int64Array, Float32Array, Float64Array]:
    values = packed.numpy()
    k = values.shape[-1] // 2
    return values[:, :k].astype(np.int64), values[:, k:-1].astype(np.float32), values[:, -1]


def _by_falling_logprob(
    token_ids: Int64Array, logprobs: Float32Array
) -> tuple[Int64Array, Float32Array]:
    """Both arrays [n, k] with each row by falling log-probability, ties by rising id.

    A pair becomes one integer that sorts as the pair does: the number whose order is that of the
    falling floats, and the id below it. Plain integers sort ten times as fast as floats whose ties
    have to keep their order.
    """
    # Adding zero makes -0.0 the 0.0 it equals; every NaN is the one that is above all numbers.
    values = np.where(np.isnan(logprobs), np.float32(np.nan), logprobs + np.float32(0.0))
    falling = ~_as_order(values.view(np.int32))
    pairs = np.sort(falling.astype(np.int64) << 32 | token_ids, axis=-1)
    bits = _as_order(~(pairs >> 32).astype(np.int32))
    return pairs & 0xFFFFFFFF, bits.view(np.float32)


def _as_order(bits: NDArray[np.int32]) -> NDArray[np.int32]:
    """The bits of floats as integers of the same order; of those again the bits."""
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def _dist_at(
    token_ids: Int64Array, logprobs: Float32Array, vocab_size: int, tail: float
) -> TokenDist:
    covers = len(token_ids) >= vocab_size and len(np.unique(token_ids)) == vocab_size
    return TokenDist(token_ids, logprobs, vocab_size, None if covers else tail)
