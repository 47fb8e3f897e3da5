"""How far two distributions are apart at each position, from both models' logits.

Everything is float64, log-normalisers and terms: no compensation of float32 is as simple, and an
exponential in double precision costs a CPU less than reading the logits. With d = log P - log Q,
KL(P ‖ Q) is the sum of P·d, and d is made of the logits' own difference, so that logits which are
equal bit for bit give exactly 0. JS is

    ½ Σ (P + Q)·(log(1 + |P - Q| / (P + Q)) - ½·|d|) + ¼·(KL(P ‖ Q) + KL(Q ‖ P)),

which needs one logarithm a token, of a number that is exact where P and Q are close. Rows in which
something is no number there (a token without any probability) are computed again, case by case.
"""

from __future__ import annotations

import torch
from torch import Tensor

TOP_K = 5
FIELDS = (
    *("kl", "kl_reverse", "js", "logprob_reference", "logprob", "entropy_reference"),
    *("same_top", "top_k_agreement"),
)
"""The columns of ``position_differences``."""

# Temporaries as large as a block of logits: four of float64.
_BYTES = 4 * 8
# Logits in a block: on a CPU its temporaries stay in the cache.
_BLOCK = {"cpu": 2**16, "cuda": 2**22}
_LOGIT_BYTES = 4
# Tokens among which the largest logit is looked for first.
_STRETCH = 128


def rows_at_once(vocab: int, max_bytes: int, device: str) -> int:
    """Rows of logits [n, vocab] in float32 that may be there with the temporaries of a block.

    Args:
        vocab: Logits a row.
        max_bytes: Memory of all of them.
        device: "cpu" or "cuda".

    Returns:
        At least 2: one of the reference and one of the view.
    """
    temporaries = _block_rows(vocab, max_bytes, device) * vocab * _BYTES
    return max(2, (max_bytes - temporaries) // (vocab * _LOGIT_BYTES))


def _block_rows(vocab: int, max_bytes: int, device: str) -> int:
    return max(1, min(_BLOCK[device], max_bytes // (2 * _BYTES)) // vocab)


def position_differences(
    reference: Tensor, view: Tensor, targets: Tensor, *, max_bytes: int
) -> Tensor:
    """What ``PositionDifferences`` says of each position, but for the token ids.

    Args:
        reference: Logits [n, vocab] of the reference, any floating dtype.
        view: Logits [n, vocab] of the view.
        targets: int64[n], the tokens that follow.
        max_bytes: As in ``rows_at_once``.

    Returns:
        float64[n, 8], the columns of ``FIELDS``.
    """
    if reference.device.type == "mps":
        # It has no float64.
        reference, view, targets = reference.cpu(), view.cpu(), targets.cpu()
    device = "cpu" if reference.device.type == "cpu" else "cuda"
    rows = _block_rows(reference.shape[-1], max_bytes, device)
    tops, others = _best_ids(reference), _best_ids(view)
    agreement = (tops.unsqueeze(-1) == others.unsqueeze(-2)).any(-1).double().mean(-1)
    same_top = (tops[:, 0] == others[:, 0]).double()
    highest = torch.cat([reference.gather(-1, tops[:, :1]), view.gather(-1, others[:, :1])], -1)
    blocks = [torch.split(each, rows) for each in (reference, view, targets, highest)]
    shape = 4, min(rows, len(targets)), reference.shape[-1]
    # Made once: to give memory back and get it again for each block takes a third of the time.
    memory = torch.empty(shape, dtype=torch.float64, device=reference.device)
    figures = torch.cat([_figures(memory, *block) for block in zip(*blocks, strict=True)])
    return torch.cat([figures, same_top.unsqueeze(-1), agreement.unsqueeze(-1)], -1)


def divergences(reference: Tensor, view: Tensor) -> Tensor:
    """KL(reference ‖ view) of each row over the whole vocabulary, nats; not cut off at 0.

    Args:
        reference: Logits [n, vocab], any floating dtype.
        view: Logits [n, vocab].

    Returns:
        float64[n]; NaN where a logit is no number. Temporaries are as those of one block.
    """
    if reference.device.type == "mps":
        # It has no float64.
        reference, view = reference.cpu(), view.cpu()
    device = "cpu" if reference.device.type == "cpu" else "cuda"
    rows = max(1, _BLOCK[device] // reference.shape[-1])
    blocks = zip(torch.split(reference, rows), torch.split(view, rows), strict=True)
    return torch.cat([_divergences(*block) for block in blocks])


def _divergences(reference: Tensor, view: Tensor) -> Tensor:
    shape = 4, *reference.shape
    p_logits, p, q_logits, q = torch.empty(shape, dtype=torch.float64, device=reference.device)
    p_log_sum = _normalise(reference, reference.amax(-1, keepdim=True), p_logits, p)
    q_log_sum = _normalise(view, view.amax(-1, keepdim=True), q_logits, q)
    kl = _dot(p, p_logits.sub_(q_logits).sub_(p_log_sum - q_log_sum)).squeeze(-1)
    for row in (~kl.isfinite()).nonzero().flatten().tolist():
        log_p, log_q = (each[row].double().log_softmax(-1) for each in (reference, view))
        kl[row] = _sum_of(log_p.exp(), log_p, log_q)
    return kl


def _figures(
    memory: Tensor, reference: Tensor, view: Tensor, targets: Tensor, highest: Tensor
) -> Tensor:
    """The first six columns of a block.

    ``memory`` has four times its shape, in float64; ``highest`` [n, 2] the largest logits of both.
    """
    at = targets.unsqueeze(-1)
    p_logits, p, q_logits, q = memory[:, : len(targets)]
    p_log_sum = _normalise(reference, highest[:, :1], p_logits, p)
    q_log_sum = _normalise(view, highest[:, 1:], q_logits, q)
    entropy = p_log_sum - _dot(p, p_logits)
    logprob_p = p_logits.gather(-1, at) - p_log_sum
    logprob_q = q_logits.gather(-1, at) - q_log_sum
    # Here and below a tensor that nobody reads any more gets the next result.
    d = p_logits.sub_(q_logits).sub_(p_log_sum - q_log_sum)
    kl, kl_reverse = _dot(p, d), 0.0 - _dot(q, d)
    both = torch.add(p, q, out=q_logits)
    inner = p.sub_(q).abs_().div_(both).log1p_().sub_(d.abs_(), alpha=0.5)
    js = 0.5 * _dot(both, inner) + 0.25 * (kl + kl_reverse)
    figures = torch.cat([kl, kl_reverse, js, logprob_p, logprob_q, entropy], -1)
    strange = ~figures.isfinite().all(-1)
    if bool(strange.any()):
        figures[strange] = _case_by_case(reference[strange], view[strange], at[strange])
    return figures


def _normalise(logits: Tensor, top: Tensor, shifted: Tensor, probabilities: Tensor) -> Tensor:
    """Writes the logits less their largest, and probabilities; gives the log of their sum."""
    shifted.copy_(logits).sub_(top)
    total = torch.exp(shifted, out=probabilities).sum(-1, keepdim=True)
    probabilities.div_(total)
    return total.log()


def _dot(left: Tensor, right: Tensor) -> Tensor:
    """Sum of the products of each row, [n, 1]."""
    return torch.bmm(left.unsqueeze(1), right.unsqueeze(2)).squeeze(-1)


def _case_by_case(reference: Tensor, view: Tensor, at: Tensor) -> Tensor:
    """As ``_figures``, where a probability of 0 makes a term 0 whatever it is multiplied with."""
    found = []
    for row in range(len(reference)):
        log_p, log_q = (each[row].double().log_softmax(-1) for each in (reference, view))
        p, q = log_p.exp(), log_q.exp()
        middle = torch.log((p + q) / 2)
        halves = _sum_of(p, log_p, middle) + _sum_of(q, log_q, middle)
        divergences = _sum_of(p, log_p, log_q), _sum_of(q, log_q, log_p), halves / 2
        entropy = _sum_of(p, torch.zeros_like(p), log_p)
        found.append(torch.stack([*divergences, log_p[at[row, 0]], log_q[at[row, 0]], entropy]))
    return torch.stack(found)


def _sum_of(mass: Tensor, left: Tensor, right: Tensor) -> Tensor:
    return torch.where(mass == 0.0, 0.0, mass * (left - right)).sum()


def _best_ids(logits: Tensor) -> Tensor:
    """Ids [n, k] of the largest logits, falling, ties by rising id.

    They are in those stretches of tokens that have the largest ones, the lowest stretch among
    equals; to sort a whole vocabulary takes fifty times as long.
    """
    vocab = logits.shape[-1]
    k, count = min(TOP_K, vocab), vocab // _STRETCH
    if count <= k:
        return _sorted_ids(logits)[:, :k]
    stretches = logits[:, : count * _STRETCH].reshape(-1, count, _STRETCH)
    chosen = _sorted_ids(stretches.amax(-1))[:, :k].sort(dim=-1).values
    inside = torch.arange(_STRETCH, device=logits.device)
    ids = (chosen.unsqueeze(-1) * _STRETCH + inside).flatten(1)
    rest = torch.arange(count * _STRETCH, vocab, device=logits.device).expand(len(ids), -1)
    ids = torch.cat([ids, rest], -1)
    return ids.gather(-1, _sorted_ids(logits.gather(-1, ids))[:, :k])


def _sorted_ids(logits: Tensor) -> Tensor:
    return torch.sort(logits, dim=-1, descending=True, stable=True).indices
