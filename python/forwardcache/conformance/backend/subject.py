"""What a backend shows of itself, and how two of its answers are compared."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NoReturn, cast

import numpy as np

from forwardcache.scoring import (
    DifferentialBackend,
    NullCalibratedBackend,
    ScalableDifferentialBackend,
    ScoringBackend,
)

DEFAULT_PROMPTS = (
    "The cache holds",
    "A list is",
    "Every function returns a value, and",
    "The quick brown fox jumps over the lazy dog because",
    "Import the module before",
)
DEFAULT_PAIRS = (
    ("The cache holds", " the values"),
    ("A list is", " a sequence of objects"),
    ("Every function returns a value, and", " the caller uses it"),
)
_METHODS = tuple(name for name in dir(ScoringBackend) if not name.startswith("_"))
"""Single and batched methods of a scoring backend."""

NULL_SEED = 7
SCALE = 0.5


class BackendRuleBroken(AssertionError):
    """A backend broke a rule.

    Attributes:
        rule: The rule's name.
        reason: What was asked, what came, and what should have.
    """

    def __init__(self, rule: str, reason: str) -> None:
        super().__init__(f"{rule}: {reason}")
        self.rule = rule
        self.reason = reason


class RuleSkipped(Exception):
    """The backend doesn't have what a rule is about; the message says what."""


class Broken(Exception):
    """Raised inside a rule; ``run`` puts the rule's name to it."""


def fail(reason: str) -> NoReturn:
    """Ends a rule: it is broken, for ``reason``."""
    raise Broken(reason)


def require(holds: object, reason: str) -> None:
    """Ends a rule unless ``holds``."""
    if not holds:
        fail(reason)


def offers(backend: Any, protocol: type) -> bool:
    """Whether a backend has what a protocol asks for, of its own or by ``__getattr__``.

    ``isinstance`` overlooks the latter on Python 3.12 and newer.
    """
    return not lacking(backend, protocol)


def lacking(backend: Any, protocol: type) -> list[str]:
    """The methods of a protocol that a backend doesn't have."""
    methods = [name for name in dir(protocol) if not name.startswith("_")]
    return [name for name in methods if not hasattr(backend, name)]


def need(view: Any, *names: str) -> None:
    """Skips a rule that is about methods which ``view`` doesn't have."""
    missing = [name for name in names if not hasattr(view, name)]
    if missing:
        raise RuleSkipped(f"what scores has no {', '.join(missing)}")


def clear_shown_cache(backend: Any) -> None:
    """Empties ``backend.instrumentation.cache`` where there is one."""
    cache = getattr(getattr(backend, "instrumentation", None), "cache", None)
    if cache is not None:
        cache.clear()


@dataclass
class Subject:
    """A backend under test, and what it is asked.

    Attributes:
        backend: Whatever has the protocols of ``forwardcache.scoring``, all or some.
        prompts: At least three different texts.
        pairs: At least two pairs of prompt and completion.
        top_k: Ids asked for.
        atol: Allowed difference between batched and single results, in nats.
        forget: Empties the backend's caches, so that the next call computes. By default
            ``backend.instrumentation.cache.clear()`` where there is one; a backend that caches in
            another way should give its own.
    """

    backend: Any
    prompts: Sequence[str] = DEFAULT_PROMPTS
    pairs: Sequence[tuple[str, str]] = DEFAULT_PAIRS
    top_k: int = 8
    atol: float = 1e-4
    forget: Callable[[Any], None] = clear_shown_cache

    def forget_values(self) -> None:
        """Makes the next call compute."""
        self.forget(self.backend)

    @contextmanager
    def scoring(self) -> Iterator[ScoringBackend]:
        """The backend itself, or its base view if it scores through views only."""
        with self._scoring() as view:
            yield view

    def _scoring(self) -> AbstractContextManager[ScoringBackend]:
        missing = lacking(self.backend, ScoringBackend)
        if not missing:
            return nullcontext(self.backend)
        if offers(self.backend, DifferentialBackend):
            return self.differential().as_base()
        if len(missing) < len(_METHODS):
            return nullcontext(self.backend)
        names = ", ".join(missing)
        raise RuleSkipped(f"the backend has no {names}, and no views that have them")

    def differential(self) -> DifferentialBackend:
        """The backend as one with base and fine-tuned views, or a skip."""
        if offers(self.backend, DifferentialBackend):
            return cast(DifferentialBackend, self.backend)
        raise RuleSkipped("the backend has no as_base and as_finetuned")

    def scalable(self) -> ScalableDifferentialBackend:
        """The backend as one with scaled views, or a skip."""
        if offers(self.backend, ScalableDifferentialBackend):
            return cast(ScalableDifferentialBackend, self.backend)
        raise RuleSkipped("the backend has no as_scaled_adapter")

    def null_calibrated(self) -> NullCalibratedBackend:
        """The backend as one with null views, or a skip."""
        if offers(self.backend, NullCalibratedBackend):
            return cast(NullCalibratedBackend, self.backend)
        raise RuleSkipped("the backend has no as_null_adapter")

    def scores(self, view: ScoringBackend) -> list[Any]:
        """What a view says of every prompt and pair, computed anew.

        Args:
            view: Whatever scores: the backend itself, or a view of it that is entered.

        Returns:
            A ``TokenDist`` a prompt, then a float (nats) a pair, as far as it has the methods; a
            ``RollingLogprob`` a prompt where it has neither.
        """
        self.forget_values()
        values: list[Any] = []
        if hasattr(view, "next_token_dist"):
            values += [view.next_token_dist(prompt, top_k=self.top_k) for prompt in self.prompts]
        if hasattr(view, "logprob_of"):
            values += [view.logprob_of(*pair) for pair in self.pairs]
        if not values and hasattr(view, "rolling_logprob"):
            values += [view.rolling_logprob(prompt) for prompt in self.prompts]
        return values

    def first_question(self, view: Any) -> Callable[[], Any]:
        """Asks for what comes first in ``scores``.

        Args:
            view: Whatever scores, as for ``scores``.
        """
        if hasattr(view, "next_token_dist"):
            return partial(view.next_token_dist, self.prompts[0], top_k=self.top_k)
        if hasattr(view, "logprob_of"):
            return partial(view.logprob_of, *self.pairs[0])
        need(view, "rolling_logprob")
        return partial(view.rolling_logprob, self.prompts[0])

    def base_and_finetuned(self) -> tuple[list[Any], list[Any]]:
        """The scores of both views, by which a backend's weights are judged."""
        backend = self.differential()
        with backend.as_base() as base:
            of_base = self.scores(base)
        with backend.as_finetuned() as finetuned:
            return of_base, self.scores(finetuned)


def parts(value: Any) -> tuple[Any, ...]:
    """The arrays and numbers that make up a scored value."""
    for names in (("token_ids", "logprobs", "vocab_size", "tail_logprob"), _ROLLING):
        if all(hasattr(value, name) for name in names):
            return tuple(getattr(value, name) for name in names)
    return (value,)


_ROLLING = ("token_ids", "logprobs", "num_tokens", "total_logprob")


def same(left: Any, right: Any) -> bool:
    """Whether two scored values agree in type, dtype and every bit."""
    if type(left) is not type(right):
        return False
    return all(map(_same_part, parts(left), parts(right)))


def _same_part(left: Any, right: Any) -> bool:
    if left is None or right is None:
        return left is right
    ours, theirs = np.asarray(left), np.asarray(right)
    return (
        type(left) is type(right)
        and ours.dtype == theirs.dtype
        and ours.shape == theirs.shape
        and ours.tobytes() == theirs.tobytes()
    )


def all_same(left: Sequence[Any], right: Sequence[Any]) -> bool:
    """``same`` for lists of scored values."""
    return len(left) == len(right) and all(map(same, left, right))


def difference(left: Any, right: Any) -> float:
    """Largest difference in nats between two scored values; inf where their shapes differ.

    Distributions are compared id by id; an id that only one of them has stands for ties at the
    edge of the k most likely, so it is compared with the other's smallest log-probability.
    """
    if hasattr(left, "vocab_size"):
        return _dist_difference(left, right)
    if hasattr(left, "total_logprob"):
        return _rolling_difference(left, right)
    return abs(float(left) - float(right))


def _dist_difference(left: Any, right: Any) -> float:
    if left.vocab_size != right.vocab_size or len(left.token_ids) != len(right.token_ids):
        return float("inf")
    ours, theirs = _by_id(left), _by_id(right)
    edge = {id(ours): min(ours.values()), id(theirs): min(theirs.values())}
    ids = ours.keys() | theirs.keys()
    return max(
        abs(ours.get(token, edge[id(ours)]) - theirs.get(token, edge[id(theirs)])) for token in ids
    )


def _by_id(dist: Any) -> dict[int, float]:
    return dict(zip(dist.token_ids.tolist(), dist.logprobs.tolist(), strict=True))


def _rolling_difference(left: Any, right: Any) -> float:
    if left.token_ids.tolist() != right.token_ids.tolist():
        return float("inf")
    gaps = np.abs(left.logprobs.astype(np.float64) - right.logprobs.astype(np.float64))
    return float(gaps.max(initial=0.0))
