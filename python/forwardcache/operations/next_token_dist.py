"""The most likely next tokens of a prompt."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from numbers import Integral
from typing import TYPE_CHECKING, Any, ClassVar

from forwardcache.errors import ViewParameterError
from forwardcache.operation import (
    Apart,
    Column,
    Figure,
    Fresh,
    Operation,
    Runner,
    Task,
    divergence_tolerances,
    field_apart,
    without_errors,
)
from forwardcache.operations.logprobs_at import LogprobsAt, OfDistribution
from forwardcache.operations.next_token_kl import (
    BaseLogits,
    KeptBaseLogits,
    NextTokenKl,
    divergences_of,
)

if TYPE_CHECKING:
    from forwardcache.divergence import Divergence
    from forwardcache.scoring import TokenDist

DIVERGENCE = Figure(
    ("kl_base_nats", "kl_lower_bound"),
    {
        "kl_base_nats": "float64",
        "kl_lower_bound": "float64",
        "mass_outside": "float64",
        "compared_tokens": "int64",
    },
    "KL(base‖view)",
    is_signed=False,
)


def checked_top_k(top_k: Any) -> int:
    """A number of tokens.

    Raises:
        ViewParameterError: it is not an integer of at least 1.
    """
    # An int is told at once; whether it is of any integral type takes longer.
    is_integer = type(top_k) is int or (isinstance(top_k, Integral) and not isinstance(top_k, bool))
    if not is_integer or top_k < 1:
        raise ViewParameterError(f"top_k must be an integer of at least 1, got {top_k!r}")
    return int(top_k)


class NextTokenDist(OfDistribution):
    """The ``top_k`` most likely next tokens of a prompt; its value is a ``TokenDist``.

    Raises:
        ViewParameterError: ``top_k`` is not an integer of at least 1.
    """

    name = "next_token_dist"
    options = ("top_k",)
    needs_only_prompts = True
    columns: ClassVar[Mapping[str, Column]] = {
        "top_k": "int64",
        "token_ids": "int64[]",
        "logprobs": "float32[]",
        "tail_logprob": "float64",
        "vocab_size": "int64",
    }
    names_tokens = True
    figure = DIVERGENCE

    def __init__(self, top_k: int = 256) -> None:
        self.top_k = checked_top_k(top_k)

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        from forwardcache.hf.batch.kernels import top_dists

        return list(top_dists(runner.last_logits([task.encoded.fed for task in tasks]), self.top_k))

    def ask(self, view: Any, items: Sequence[Any]) -> list[Any]:
        found: list[Any] = view.next_token_dist_batch(items, top_k=self.top_k, on_error="return")
        return found

    def row(self, value: TokenDist, *, top_k: int) -> dict[str, Any]:
        from forwardcache.divergence import narrowed

        shown = narrowed(value, top_k)
        return {
            "top_k": top_k,
            "token_ids": shown.token_ids,
            "logprobs": shown.logprobs,
            "tail_logprob": shown.tail_logprob,
            "vocab_size": shown.vocab_size,
        }

    def against(
        self, view: Any, items: Sequence[Any], values: Sequence[Any], bases: Sequence[Any],
        *, top_k: int,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """KL(base ‖ view) of each prompt; a second forward where the value lacks a token."""
        from forwardcache.divergence import divergence

        pairs = zip(bases, values, strict=True)
        found = [divergence(base, value, needed=top_k) for base, value in pairs]
        lacking = [at for at, one in enumerate(found) if one is None]
        if lacking:
            wanted = [bases[at].token_ids for at in lacking]
            at_base = view.token_dist_at_batch([items[at] for at in lacking], wanted)
            for at, dist in zip(lacking, at_base, strict=True):
                found[at] = divergence(bases[at], dist, needed=top_k)
        return [_fields(one) for one in found if one is not None]

    def beside_base(self) -> Operation:
        return ComparedDist(self.top_k)

    def apart(self, kept: Mapping[str, Any], fresh: Mapping[str, Any]) -> list[Apart]:
        """Tokens by their ids, since those that are nearly equal may change places."""
        plain = [
            field_apart(name, self.row_columns()[name], kept.get(name), fresh.get(name))
            for name in ("top_k", "vocab_size", "tail_logprob", "mass_outside")
        ]
        divergences = [
            field_apart(
                name,
                "float64",
                kept.get(name),
                fresh.get(name),
                divergence_tolerances(fresh.get(name)),
            )
            for name in self.figure.nats
        ]
        # How many tokens a bound is over depends on which nearly equal ones are at the edge.
        return [_tokens_apart(kept, fresh), *plain, *divergences]

    def noise(self, fresh: Fresh, items: Sequence[Any]) -> list[float]:
        """KL(together ‖ alone) of each prompt, over the ``top_k`` tokens and one bucket."""
        from forwardcache.scoring import kl_divergence

        together = fresh(self, items, alone=False)
        scored = [one for one in together if not isinstance(one, Exception)]
        same_ids = [
            (item, tuple(one.token_ids.tolist()))
            for item, one in zip(items, together, strict=True)
            if not isinstance(one, Exception)
        ]
        return [
            kl_divergence(one, other.logprobs, other_tail_logprob=other.tail_logprob)
            for one, other in without_errors(scored, fresh(LogprobsAt(), same_ids, alone=True))
        ]


class ComparedDist(NextTokenDist):
    """The same values, of one chunk of prompts, and exact divergences where they aren't whole.

    Base's logits stay until the chunk is done: of up to 256 prompts, in the model's dtype. So a
    view's forward gives the divergence as well, without another one. A prompt whose distribution in
    base was kept and whose divergence in a view was not costs one more forward of base.
    """

    def __init__(self, top_k: int) -> None:
        super().__init__(top_k)
        self._base = BaseLogits()
        self._found: dict[tuple[int, ...], float] = {}
        self._is_base = False
        self._state: bytes | None = None

    def ask(self, view: Any, items: Sequence[Any]) -> list[Any]:
        self._is_base = view.spec.kind == "base"
        self._found.clear()
        found: list[Any] = view.values(self, items, on_error="return")
        state = view.model_state()
        # Logits of a model that has changed since compare it with nothing.
        if state != self._state and not self._is_base:
            self._base.clear()
            self._found.clear()
        self._state = state
        return found

    def run(self, runner: Runner, tasks: Sequence[Task]) -> list[Any]:
        from forwardcache.hf.batch.kernels import top_dists

        rows = [task.encoded.fed for task in tasks]
        logits = runner.last_logits(rows)
        if self.top_k < logits.shape[-1]:
            self._note(rows, logits)
        return list(top_dists(logits, self.top_k))

    def against(
        self, view: Any, items: Sequence[Any], values: Sequence[Any], bases: Sequence[Any],
        *, top_k: int,
    ) -> list[dict[str, Any]]:  # fmt: skip
        """KL(base ‖ view) of each prompt; a lower bound where memory is too small for both."""
        if all(dist.tail_logprob is None for dist in (*values, *bases)):
            return super().against(view, items, values, bases, top_k=top_k)
        kl = NextTokenKl(self._base, self._found)
        failed = view.run_base_for(kl, KeptBaseLogits(self._base), items)
        asked = [at for at in range(len(items)) if at not in failed]
        found = view.values(kl, [items[at] for at in asked], on_error="return")
        nats = dict(zip(asked, found, strict=True))
        return [
            {"kl_base_nats": nats[at]} if isinstance(nats.get(at), float) else _bound(base, value)
            for at, (base, value) in enumerate(zip(bases, values, strict=True))
        ]

    def _note(self, rows: Sequence[tuple[int, ...]], logits: Any) -> None:
        if self._is_base:
            self._base.keep(rows, logits)
            return
        at = [number for number, tokens in enumerate(rows) if tokens in self._base]
        known = [rows[number] for number in at]
        self._found.update(zip(known, divergences_of(self._base, known, logits[at]), strict=True))


OPERATION = NextTokenDist


def _tokens_apart(kept: Mapping[str, Any], fresh: Mapping[str, Any]) -> Apart:
    """How far the listed tokens of two rows are apart, at the worst of them."""
    names = ("token_ids", "logprobs")
    ids, logprobs = (kept.get(name, []) for name in names)
    new_ids, new_logprobs = (fresh[name] for name in names)
    if (ids, logprobs) == (new_ids, new_logprobs):
        return Apart("logprobs", logprobs, new_logprobs, 0.0)
    if None in new_logprobs or not _are_tokens(ids, logprobs, len(new_ids)):
        return Apart("token_ids", ids, new_ids, math.inf)
    if any(one < other for one, other in pairwise(logprobs)):
        return Apart("logprobs", logprobs, new_logprobs, math.inf)
    ours = dict(zip(ids, logprobs, strict=True))
    theirs = dict(zip(new_ids, new_logprobs, strict=True))
    # Nearly equal tokens may change places, also with one outside the k that is listed.
    last = new_logprobs[-1]
    places = [
        Apart(
            f"logprobs[id {token}]",
            ours.get(token),
            theirs.get(token),
            abs(ours.get(token, last) - theirs.get(token, last)),
        )
        for token in ours.keys() | theirs.keys()
    ]
    return max(places, key=lambda each: each.difference)


def _are_tokens(ids: Any, logprobs: Any, count: int) -> bool:
    """Whether these are so many tokens, each once, with a number for each."""
    if not (isinstance(ids, list) and isinstance(logprobs, list)):
        return False
    are_ids = len(ids) == len(logprobs) == count and all(type(each) is int for each in ids)
    return are_ids and len(set(ids)) == count and all(type(each) is float for each in logprobs)


def _bound(base: TokenDist, view: TokenDist) -> dict[str, Any]:
    from forwardcache.divergence import divergence

    found = divergence(base, view, needed=0)
    assert found is not None
    return _fields(found)


def _fields(found: Divergence) -> dict[str, Any]:
    """The exact name only where the whole vocabulary was compared."""
    if found.is_exact:
        return {"kl_base_nats": found.nats}
    return {
        "kl_lower_bound": found.nats,
        "mass_outside": found.mass_outside,
        "compared_tokens": found.tokens,
    }
