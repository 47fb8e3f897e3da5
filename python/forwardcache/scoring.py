"""What scoring gives back, who can give it, and how two answers are compared.

Frozen values, such as ``TokenDist``, ``RollingLogprob`` and ``PositionDifferences``; the protocols
of a scoring backend; and ``kl_divergence``. All log-probabilities are natural logarithms (nats).
Arrays can't be written to, not even by force: a cached value is handed to every later caller, so
none may change it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from forwardcache.errors import InvalidInputError
from forwardcache.extras import extra_named

with extra_named("forwardcache.scoring"):
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    from forwardcache._arrays import read_only, same, same_tail, set_array, weighs_nbytes
    from forwardcache._hidden_states import HiddenStates
    from forwardcache._top_k import TopKByPosition

__all__ = [
    "CompletionLogprob",
    "ContinuationLogprob",
    "DifferentialBackend",
    "HiddenStates",
    "NullCalibratedBackend",
    "PositionDifferences",
    "RollingLogprob",
    "ScalableDifferentialBackend",
    "ScoringBackend",
    "TokenDist",
    "TopKByPosition",
    "kl_divergence",
    "read_only",
]

Int64Array = NDArray[np.int64]
Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Of a value's objects around the arrays' memory. Measured: tests/hf/test_capacity.py.
_OBJECT_BYTES = 416
_DIFFERENCES_OBJECT_BYTES = 1520
# An int64 and a float32.
_TOKEN_BYTES = 12


@weighs_nbytes
@dataclass(frozen=True, eq=False)
class TokenDist:
    """Next-token distribution: the ``k`` most likely tokens, and the mass of all others.

    Attributes:
        token_ids: int64[k], by falling log-probability, ties by rising id. Where the caller named
            the ids (``token_dist_at``), in the caller's order.
        logprobs: float32[k], nats, of those ids.
        vocab_size: Number of tokens in the full distribution.
        tail_logprob: Log of the mass outside the k ids, nats; None only if they are the whole
            vocabulary.

    Raises:
        InvalidInputError: an array hasn't one dimension, or the two are of different lengths.
    """

    token_ids: Int64Array
    logprobs: Float32Array
    vocab_size: int
    tail_logprob: float | None

    def __post_init__(self) -> None:
        set_array(self, "token_ids", np.int64)
        set_array(self, "logprobs", np.float32)
        if len(self.token_ids) != len(self.logprobs):
            raise InvalidInputError(
                f"{len(self.token_ids)} token ids but {len(self.logprobs)} log-probabilities"
            )

    @property
    def nbytes(self) -> int:
        """Bytes in memory, for a cache that is bounded in bytes."""
        return _OBJECT_BYTES + _TOKEN_BYTES * len(self.token_ids)

    @property
    def is_finite(self) -> bool:
        """Whether every log-probability is a number below +inf; a tail of no mass is -inf."""
        tail = -math.inf if self.tail_logprob is None else self.tail_logprob
        return bool(np.isfinite(self.logprobs).all()) and tail < math.inf

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TokenDist):
            return NotImplemented
        return (
            same(self.token_ids, other.token_ids, np.int64)
            and same(self.logprobs, other.logprobs, np.float32)
            and self.vocab_size == other.vocab_size
            and same_tail(self.tail_logprob, other.tail_logprob)
        )

    def __hash__(self) -> int:
        arrays = self.token_ids.tobytes(), self.logprobs.tobytes()
        # Without the tail: equal values have equal arrays, and a NaN has no hash of its own.
        return hash((*arrays, self.vocab_size))


@weighs_nbytes
@dataclass(frozen=True, eq=False)
class RollingLogprob:
    """Log-probability of every token of a text given those before it.

    Attributes:
        token_ids: int64[n], all tokens, with a BOS token that the tokenizer adds.
        logprobs: float32[n-1], nats, of the second token onwards; empty for n < 2.
        num_tokens: n.
        total_logprob: Sum of ``logprobs`` in float64, nats; 0.0 for n < 2.

    Raises:
        InvalidInputError: an array hasn't one dimension, or there is not one log-probability for
            each token but the first.
    """

    token_ids: Int64Array
    logprobs: Float32Array
    num_tokens: int
    total_logprob: float

    def __post_init__(self) -> None:
        set_array(self, "token_ids", np.int64)
        set_array(self, "logprobs", np.float32)
        if len(self.logprobs) != max(len(self.token_ids) - 1, 0):
            raise InvalidInputError(
                f"{len(self.token_ids)} tokens need {max(len(self.token_ids) - 1, 0)} "
                f"log-probabilities, got {len(self.logprobs)}"
            )

    @property
    def mean_logprob(self) -> float:
        """Mean over the n-1 scored tokens, nats; 0.0 if none is scored."""
        return self.total_logprob / len(self.logprobs) if len(self.logprobs) else 0.0

    @property
    def perplexity(self) -> float:
        """``exp(-mean_logprob)``; 1.0 if no token is scored."""
        return float(np.exp(-self.mean_logprob))

    @property
    def nbytes(self) -> int:
        """Bytes in memory, for a cache that is bounded in bytes."""
        return _OBJECT_BYTES + self.token_ids.nbytes + self.logprobs.nbytes

    @property
    def is_finite(self) -> bool:
        """Whether every log-probability is finite."""
        return bool(np.isfinite(self.logprobs).all())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, RollingLogprob):
            return NotImplemented
        return (
            same(self.token_ids, other.token_ids, np.int64)
            and same(self.logprobs, other.logprobs, np.float32)
            and self.num_tokens == other.num_tokens
            and same(self.total_logprob, other.total_logprob, np.float64)
        )

    def __hash__(self) -> int:
        return hash((self.token_ids.tobytes(), self.logprobs.tobytes(), self.num_tokens))


@weighs_nbytes
@dataclass(frozen=True, eq=False)
class PositionDifferences:
    """How far a view is from a reference at each position of one text, over the whole vocabulary.

    P is the reference's distribution of the next token, Q the view's. Entry i is about the position
    that predicts ``token_ids[i + 1]``; a text of n tokens has n-1 of them, and none for n < 2.
    Divergences aren't cut off at 0: a small negative one is rounding.

    Attributes:
        token_ids: int64[n], all tokens of the text.
        kl: float64[n-1], nats, KL(P ‖ Q) = Σ P·(log P - log Q).
        kl_reverse: float64[n-1], nats, KL(Q ‖ P).
        js: float64[n-1], nats, ½·KL(P ‖ M) + ½·KL(Q ‖ M) with M = (P + Q)/2.
        logprob_reference: float32[n-1], nats, log P of the token that follows.
        logprob: float32[n-1], nats, log Q of it.
        entropy_reference: float32[n-1], nats, -Σ P·log P.
        same_top: bool[n-1], whether both have the same most likely token.
        top_k_agreement: float32[n-1], share of P's k most likely tokens that are among Q's.
        counts: bool[n-1], whether the position is in the figures: all of a text, or those that
            predict a completion.

    Raises:
        InvalidInputError: an array hasn't one dimension, or has not one entry for each token but
            the first.

    Source:
        Kullback and Leibler, On Information and Sufficiency (1951); Lin, Divergence Measures Based
        on the Shannon Entropy (1991).
    """

    token_ids: Int64Array
    kl: Float64Array
    kl_reverse: Float64Array
    js: Float64Array
    logprob_reference: Float32Array
    logprob: Float32Array
    entropy_reference: Float32Array
    same_top: BoolArray
    top_k_agreement: Float32Array
    counts: BoolArray

    def __post_init__(self) -> None:
        set_array(self, "token_ids", np.int64)
        expected = max(len(self.token_ids) - 1, 0)
        for field, dtype in _DIFFERENCES.items():
            set_array(self, field, dtype)
            found = len(getattr(self, field))
            if found != expected:
                raise InvalidInputError(
                    f"{len(self.token_ids)} tokens need {expected} entries of {field}, got {found}"
                )

    @property
    def nbytes(self) -> int:
        """Bytes in memory, for a cache that is bounded in bytes."""
        return _DIFFERENCES_OBJECT_BYTES + sum(array.nbytes for array in self._arrays())

    @property
    def is_finite(self) -> bool:
        """Whether every number is finite."""
        return all(bool(np.isfinite(array).all()) for array in self._arrays())

    def _arrays(self) -> list[NDArray[Any]]:
        return [self.token_ids, *(getattr(self, field) for field in _DIFFERENCES)]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, PositionDifferences):
            return NotImplemented
        pairs = zip(self._arrays(), other._arrays(), strict=True)
        return all(same(ours, theirs, ours.dtype) for ours, theirs in pairs)

    def __hash__(self) -> int:
        return hash(tuple(array.tobytes() for array in self._arrays()))


_DIFFERENCES: dict[str, type[np.generic]] = {
    **dict.fromkeys(("kl", "kl_reverse", "js"), np.float64),
    **dict.fromkeys(("logprob_reference", "logprob", "entropy_reference"), np.float32),
    **{"same_top": np.bool_, "top_k_agreement": np.float32, "counts": np.bool_},
}
"""By field of ``PositionDifferences`` with an entry a position: the type of its elements."""


@dataclass(frozen=True, slots=True)
class CompletionLogprob:
    """Log-probability of a completion, and what it was computed over.

    Attributes:
        logprob: Sum over the completion's tokens, nats.
        num_tokens: Number of those tokens.
        spans_boundary: Whether the first of them begins inside the prompt, because the tokenizer
            merges across the boundary. Such a token counts as completion, so the sum then also
            holds the end of the prompt, and another completion of the same prompt may not.
    """

    logprob: float
    num_tokens: int
    spans_boundary: bool

    @property
    def mean_logprob(self) -> float:
        """Mean over the completion's tokens, nats."""
        return self.logprob / self.num_tokens


@dataclass(frozen=True, slots=True)
class ContinuationLogprob:
    """Log-probability of a continuation that was given in tokens.

    Attributes:
        logprob: Sum over the continuation's tokens, nats.
        num_tokens: Number of those tokens.
        is_greedy: Whether greedy decoding would have written exactly these tokens: each has the
            largest logit at its position, the lowest id among equals.
    """

    logprob: float
    num_tokens: int
    is_greedy: bool

    @property
    def is_finite(self) -> bool:
        """Whether the log-probability is finite."""
        return math.isfinite(self.logprob)


@runtime_checkable
class ScoringBackend(Protocol):
    """Whoever gives next-token distributions and log-probabilities, single and batched.

    Every batched form equals the single form of each item, in the items' order. What can't be
    scored is an ``InvalidInputError`` of one class in both forms: ``EmptyPromptError``,
    ``EmptyCompletionError``, ``ContextLengthError``, ``ViewParameterError``.
    """

    def next_token_dist(self, prompt: str, *, top_k: int = 256) -> TokenDist:
        """Distribution of the token after ``prompt``.

        Args:
            prompt: Text; may be empty if the tokenizer has a BOS token.
            top_k: Number of most likely tokens wanted, 1 or more.

        Returns:
            int64[k] ids, float32[k] nats, and the mass of all other tokens.
        """

    def next_token_dist_batch(self, prompts: Sequence[str], *, top_k: int = 256) -> list[Any]:
        """``next_token_dist`` of each prompt.

        Args:
            prompts: Texts.
            top_k: As in the single form.

        Returns:
            One ``TokenDist`` a prompt, in order.
        """

    def rolling_logprob(self, text: str) -> RollingLogprob:
        """Log-probability of each token of ``text`` given those before it.

        Args:
            text: Plain text.

        Returns:
            int64[n] ids, and float32[n-1] nats for the second onwards.
        """

    def rolling_logprob_batch(self, texts: Sequence[str]) -> list[Any]:
        """``rolling_logprob`` of each text.

        Args:
            texts: Plain texts.

        Returns:
            One ``RollingLogprob`` a text, in order.
        """

    def logprob_of(self, prompt: str, completion: str) -> float:
        """Log-probability of ``completion`` after ``prompt``.

        Args:
            prompt: Text before the completion; may be empty if the tokenizer has a BOS token.
            completion: Text to score; it has to add a token.

        Returns:
            Sum over the completion's tokens, nats; not normalised by length.
        """

    def logprob_of_batch(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        """``logprob_of`` of each pair.

        Args:
            pairs: Prompt and completion.

        Returns:
            One float a pair, nats, in order.
        """


@runtime_checkable
class DifferentialBackend(Protocol):
    """Whoever has a base model and a fine-tuned one.

    The context managers give a view and restore the model, also after an exception.
    """

    def as_base(self) -> AbstractContextManager[ScoringBackend]:
        """The base model, without the adapter."""

    def as_finetuned(self) -> AbstractContextManager[ScoringBackend]:
        """The model with the adapter."""


@runtime_checkable
class ScalableDifferentialBackend(Protocol):
    """Whoever can scale what the fine-tuning added."""

    def as_scaled_adapter(self, lam: float) -> AbstractContextManager[ScoringBackend]:
        """The model with ``lam`` times the adapter.

        Args:
            lam: Any finite number; 0 is base, 1 is fine-tuned.

        Returns:
            A context manager that gives the view.
        """


@runtime_checkable
class NullCalibratedBackend(Protocol):
    """Whoever can replace the adapter by noise."""

    def as_null_adapter(
        self, seed: int, *, init_scale: float = 0.02, rank_scale: float = 1.0
    ) -> AbstractContextManager[ScoringBackend]:
        """The model with a random adapter of the same shape.

        Args:
            seed: Decides the noise; the same seed gives the same adapter.
            init_scale: Standard deviation of the noise, 0 or more.
            rank_scale: The deviation is multiplied by its square root; positive.

        Returns:
            A context manager that gives the view.
        """


def kl_divergence(
    base: TokenDist, other_logprobs: ArrayLike, *, other_tail_logprob: float | None = None
) -> float:
    """KL(base || other) over the ids of ``base`` and one bucket for all other tokens.

    Merging the tail into one bucket can only lower the divergence, so this is a lower bound of the
    full KL; it is exact where ``base`` covers the vocabulary.

    Args:
        base: The reference distribution, k ids.
        other_logprobs: float[k], nats, the other distribution at ``base.token_ids``
            (``view.logprobs_at``).
        other_tail_logprob: Log of the other distribution's mass outside those ids, nats
            (``view.token_dist_at``). Without it the mass is 1 minus the sum, with the rounding of
            float32 given to it, which keeps the result a lower bound.

    Returns:
        Nats, computed in float64; inf if ``other`` gives no mass where base has some. It isn't cut
        off at 0: a small negative sum is rounding. Both distributions are brought to a sum of 1 in
        float64 first, since float32's normaliser is wrong by more than what a small change makes.

    Raises:
        InvalidInputError: ``other_logprobs`` has another shape than ``base.logprobs``.

    Source:
        Data-processing inequality for the partition {id} for each id, {all others}.
    """
    other = np.asarray(other_logprobs, dtype=np.float64)
    if other.shape != base.logprobs.shape:
        raise InvalidInputError(
            f"need one log-probability for each of the {len(base.token_ids)} ids of base, "
            f"got shape {other.shape}"
        )
    ours = base.logprobs.astype(np.float64)
    if base.tail_logprob is None:
        return float(np.sum(_terms(_normalised(ours), _normalised(other))))
    ours = _normalised(np.append(ours, base.tail_logprob))
    if other_tail_logprob is None:
        other = np.append(other, _remaining_logprob(other))
    else:
        other = _normalised(np.append(other, other_tail_logprob))
    return float(np.sum(_terms(ours, other)))


def _normalised(logprobs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The same distribution with a sum of 1; as it is where it has none."""
    with np.errstate(invalid="ignore"):
        total = np.logaddexp.reduce(logprobs) if len(logprobs) else 0.0
    return logprobs - total if np.isfinite(total) else logprobs


def _terms(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> NDArray[np.float64]:
    """``p log(p/q)`` per bucket; 0 where p is 0, by continuity."""
    mass = np.exp(ours)
    with np.errstate(invalid="ignore"):
        return np.where(mass == 0.0, 0.0, mass * (ours - theirs))


def _remaining_logprob(logprobs: NDArray[np.float64]) -> float:
    """Log of 1 minus the mass of ``logprobs``, never below what float32 rounding can hide."""
    rounding = float(np.finfo(np.float32).eps)
    return math.log(max(1.0 - float(np.sum(np.exp(logprobs))), rounding))
