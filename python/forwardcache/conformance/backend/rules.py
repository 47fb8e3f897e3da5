"""The rules, one function each; a docstring is the claim that is checked.

A rule asks the backend, and ends by returning (it holds), by ``fail`` or ``require`` (it is
broken), or by ``RuleSkipped`` (the backend has nothing that the rule is about).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from forwardcache.conformance.backend.subject import (
    NULL_SEED,
    SCALE,
    RuleSkipped,
    Subject,
    all_same,
    difference,
    fail,
    need,
    require,
    same,
)
from forwardcache.scoring import ScoringBackend

Rule = Callable[[Subject], None]

MASS_TOLERANCE = 1e-4
"""How far the mass of a distribution with its tail may be from one (float32 sums)."""


def value_types(subject: Subject) -> None:
    """Every op gives the documented type: ids int64, log-probabilities float32 and not above 0."""
    subject.forget_values()
    with subject.scoring() as view:
        for name, single, _, items in _ops(subject, view):
            value = single(items[0])
            if name == "logprob_of":
                require(type(value) is float, f"logprob_of gives {type(value).__name__}, not float")
                require(value <= 0.0, f"logprob_of gives {value}, above 0")
            else:
                _require_arrays(value)


def _require_arrays(value: Any) -> None:
    require(value.token_ids.dtype == np.int64, f"token_ids are {value.token_ids.dtype}")
    require(value.logprobs.dtype == np.float32, f"logprobs are {value.logprobs.dtype}")
    require((value.logprobs <= 0.0).all(), "a log-probability is above 0")


def distribution_mass(subject: Subject) -> None:
    """The k ids and the tail sum to one; the tail is None exactly if the ids are the vocabulary."""
    subject.forget_values()
    with subject.scoring() as view:
        need(view, "next_token_dist")
        few = view.next_token_dist(subject.prompts[0], top_k=subject.top_k)
        every = view.next_token_dist(subject.prompts[0], top_k=few.vocab_size)
    for dist in (few, every):
        covers = len(dist.token_ids) == dist.vocab_size
        require((dist.tail_logprob is None) == covers, f"tail_logprob is {dist.tail_logprob}")
        tail = 0.0 if dist.tail_logprob is None else math.exp(dist.tail_logprob)
        mass = float(np.exp(dist.logprobs.astype(np.float64)).sum()) + tail
        require(abs(mass - 1.0) <= MASS_TOLERANCE, f"ids and tail sum to {mass}, not 1")


def distribution_order(subject: Subject) -> None:
    """min(top_k, vocabulary) different ids, by falling log-probability, ties by rising id."""
    subject.forget_values()
    with subject.scoring() as view:
        need(view, "next_token_dist")
        dists = [view.next_token_dist(prompt, top_k=subject.top_k) for prompt in subject.prompts]
    for dist in dists:
        ids, logprobs = dist.token_ids.tolist(), dist.logprobs.tolist()
        expected = min(subject.top_k, dist.vocab_size)
        require(len(set(ids)) == len(ids) == expected, f"{len(ids)} ids where {expected} are asked")
        require(all(0 <= token < dist.vocab_size for token in ids), "an id is out of range")
        in_order = sorted(zip(ids, logprobs, strict=True), key=lambda pair: (-pair[1], pair[0]))
        require([token for token, _ in in_order] == ids, f"ids {ids} are not in order")


def batch_equals_single(subject: Subject) -> None:
    """A batched result is the single one within ``atol``, in any order and any batch."""
    with subject.scoring() as view:
        for name, single, batch, items in _batched_ops(subject, view):
            subject.forget_values()
            alone = [single(item) for item in items]
            for order in _orders(len(items)):
                subject.forget_values()
                results = batch([items[index] for index in order])
                require(len(results) == len(order), f"{name}_batch gave {len(results)} results")
                for index, result in zip(order, results, strict=True):
                    gap = difference(alone[index], result)
                    require(
                        gap <= subject.atol,
                        f"{name}_batch differs from {name} by {gap} nats for {items[index]!r}",
                    )


_Op = tuple[str, Callable[[Any], Any], Callable[[Any], list[Any]] | None, Sequence[Any]]


def _ops(subject: Subject, view: Any) -> Iterator[_Op]:
    """Each op that ``view`` has: its name, it and its batched form on one argument, and items."""
    top_k = subject.top_k

    def batched(name: str, **options: Any) -> Callable[[Any], list[Any]] | None:
        method = getattr(view, f"{name}_batch", None)
        return None if method is None else partial(method, **options)

    if hasattr(view, "next_token_dist"):
        single = partial(view.next_token_dist, top_k=top_k)
        yield "next_token_dist", single, batched("next_token_dist", top_k=top_k), subject.prompts
    if hasattr(view, "rolling_logprob"):
        batch = batched("rolling_logprob")
        yield "rolling_logprob", view.rolling_logprob, batch, subject.prompts
    if hasattr(view, "logprob_of"):
        yield (
            "logprob_of",
            lambda pair: view.logprob_of(*pair),
            batched("logprob_of"),
            subject.pairs,
        )


def _batched_ops(
    subject: Subject, view: Any
) -> list[tuple[str, Callable[[Any], Any], Callable[[Any], list[Any]], Sequence[Any]]]:
    """The ops that ``view`` has in both forms, or a skip where there is none."""
    ops = [
        (name, single, batch, items)
        for name, single, batch, items in _ops(subject, view)
        if batch is not None
    ]
    if not ops:
        raise RuleSkipped("what scores has no method both single and batched")
    return ops


def _orders(count: int) -> list[list[int]]:
    """As given, reversed, half of them, and every item with its neighbour."""
    indices = list(range(count))
    neighbours = [[index, (index + 1) % count] for index in indices]
    return [indices, indices[::-1], indices[::2], *neighbours]


def rolling_agrees_with_logprob_of(subject: Subject) -> None:
    """At token boundaries, logprob_of sums rolling_logprob's values over the completion."""
    subject.forget_values()
    judged = 0
    with subject.scoring() as view:
        need(view, "logprob_of", "rolling_logprob")
        for prompt, completion in subject.pairs:
            before, whole = view.rolling_logprob(prompt), view.rolling_logprob(prompt + completion)
            require(
                math.isclose(whole.total_logprob, float(whole.logprobs.sum()), abs_tol=1e-3),
                f"total_logprob {whole.total_logprob} is not the sum of the logprobs",
            )
            if before.num_tokens == 0 or not _is_prefix(before, whole):
                continue
            judged += 1
            summed = float(whole.logprobs[before.num_tokens - 1 :].astype(np.float64).sum())
            direct = view.logprob_of(prompt, completion)
            _require_close(subject, direct, summed, f"logprob_of({prompt!r}, {completion!r})")
    _skip_unless(judged)


def logprob_adds_up(subject: Subject) -> None:
    """At token boundaries, the log-probability of a completion is the sum of those of its parts."""
    subject.forget_values()
    judged = 0
    with subject.scoring() as view:
        need(view, "logprob_of", "rolling_logprob")
        for prompt, completion in subject.pairs:
            for first, second in _halves(completion):
                texts = prompt, prompt + first, prompt + completion
                if not _tokenized_in_steps(view, texts):
                    continue
                judged += 1
                whole = view.logprob_of(prompt, completion)
                summed = view.logprob_of(prompt, first) + view.logprob_of(prompt + first, second)
                _require_close(subject, whole, summed, f"{completion!r} after {prompt!r}")
                break
    _skip_unless(judged)


def _halves(completion: str) -> list[tuple[str, str]]:
    """The completion cut before each of its inner words, where tokens most likely begin."""
    cuts = [index for index, letter in enumerate(completion) if letter == " " and index > 0]
    return [(completion[:cut], completion[cut:]) for cut in cuts]


def _tokenized_in_steps(view: ScoringBackend, texts: Sequence[str]) -> bool:
    rolled = [view.rolling_logprob(text) for text in texts]
    grows = pairwise(rolled)
    return rolled[0].num_tokens > 0 and all(_is_prefix(left, right) for left, right in grows)


def _is_prefix(left: Any, right: Any) -> bool:
    ids: list[int] = left.token_ids.tolist()
    return len(ids) < right.num_tokens and bool(right.token_ids.tolist()[: len(ids)] == ids)


def _skip_unless(judged: int) -> None:
    if not judged:
        raise RuleSkipped("no pair's completion begins at a token boundary")


def _require_close(subject: Subject, left: float, right: float, what: str) -> None:
    gap = abs(left - right)
    tolerance = subject.atol * max(1.0, abs(right))
    require(gap <= tolerance, f"{what}: {left} and {right} differ by {gap} nats")


def determinism(subject: Subject) -> None:
    """The same question, computed twice, has the same answer in every bit, also through views."""
    with subject.scoring() as view:
        first, second = subject.scores(view), subject.scores(view)
        require(all_same(first, second), "two computations of the same scores differ")
    with suppress(RuleSkipped):
        backend = subject.null_calibrated()
        scores = []
        for seed in (NULL_SEED, NULL_SEED, NULL_SEED + 1):
            with backend.as_null_adapter(seed) as null:
                scores.append(subject.scores(null))
        require(all_same(scores[0], scores[1]), f"as_null_adapter({NULL_SEED}) twice differs")
        require(not all_same(scores[0], scores[2]), "two seeds of as_null_adapter give one noise")


def hit_equals_miss(subject: Subject) -> None:
    """A second call gives what the first gave, in type, dtype and value."""
    with subject.scoring() as view:
        for name, single, batch, items in _ops(subject, view):
            subject.forget_values()
            first = [single(item) for item in items]
            second = [single(item) for item in items]
            require(all_same(first, second), f"{name}: the second call differs from the first")
            if batch is not None:
                third = batch(items)
                require(all_same(first, third), f"{name}_batch differs from the {name} before it")


def values_cannot_be_changed(subject: Subject) -> None:
    """Writing into a returned array fails, or changes nothing that a later call returns."""
    with subject.scoring() as view:
        ops = [op for op in _ops(subject, view) if op[0] != "logprob_of"]
        if not ops:
            raise RuleSkipped("what scores has no method that gives arrays")
        for name, single, _, items in ops:
            subject.forget_values()
            kept = np.array(single(items[0]).logprobs)
            with suppress(ValueError, TypeError):
                single(items[0]).logprobs[...] = 1.0
            later = single(items[0]).logprobs
            require(
                kept.tobytes() == later.tobytes(), f"a caller changed what {name} returns later"
            )


def counters_add_up(subject: Subject) -> None:
    """Each new prompt is one miss and one forward, each repeated one a hit, single and batched."""
    stats = getattr(subject.backend, "stats", None)
    if stats is None:
        raise RuleSkipped("the backend has no stats")
    count = len(subject.prompts)
    subject.forget_values()
    with subject.scoring() as view:
        need(view, "next_token_dist", "next_token_dist_batch")
        before = _counts(stats)
        view.next_token_dist_batch(subject.prompts, top_k=subject.top_k)
        missed = _counts(stats)
        for prompt in subject.prompts:
            view.next_token_dist(prompt, top_k=subject.top_k)
        hit = _counts(stats)
    _require_counts(missed, before, (0, count, count), "new prompts in one batch")
    _require_counts(hit, missed, (count, 0, 0), "the same prompts one by one")


def _counts(stats: Any) -> tuple[int, int, int]:
    return stats.cache_hits, stats.cache_misses, stats.forward_passes


def _require_counts(
    after: tuple[int, ...], before: tuple[int, ...], expected: tuple[int, ...], what: str
) -> None:
    grown = tuple(new - old for new, old in zip(after, before, strict=True))
    names = "(hits, misses, forwards)"
    require(grown == expected, f"{what}: {names} grew by {grown}, not by {expected}")


def edge_inputs(subject: Subject) -> None:
    """An empty completion is refused alike, single and batched; a short text rolls to nothing.

    A bad item does not lose the rest of its batch.
    """
    subject.forget_values()
    with subject.scoring() as view:
        if not (hasattr(view, "logprob_of") or hasattr(view, "rolling_logprob")):
            need(view, "logprob_of", "rolling_logprob")
        if hasattr(view, "logprob_of"):
            _require_refusal(subject, view)
        if hasattr(view, "rolling_logprob"):
            for text in ("", subject.prompts[0][0]):
                _require_short_rolling(view, text)


def _require_refusal(subject: Subject, view: Any) -> None:
    """With whatever exception: of which kind is the backend's own business."""
    prompt, completion = subject.pairs[0]
    single = _error_of(lambda: view.logprob_of(prompt, ""))
    require(single is not None, "an empty completion was scored, not refused")
    if not hasattr(view, "logprob_of_batch"):
        return
    batched = _error_of(lambda: view.logprob_of_batch([(prompt, completion), (prompt, "")]))
    require(
        type(batched) is type(single),
        f"an empty completion gives {batched!r} in a batch and {single!r} alone",
    )
    direct = view.logprob_of(prompt, completion)
    require(math.isfinite(direct), "after a batch with a bad item, a good one can't be scored")


def _error_of(call: Callable[[], object]) -> Exception | None:
    try:
        call()
    except Exception as error:
        return error
    return None


def _require_short_rolling(view: ScoringBackend, text: str) -> None:
    try:
        rolled = view.rolling_logprob(text)
    except Exception:
        return
    scored = max(rolled.num_tokens - 1, 0)
    require(
        len(rolled.logprobs) == scored, f"{text!r}: {len(rolled.logprobs)} values, not {scored}"
    )
    if scored == 0:
        require(rolled.total_logprob == 0.0, f"{text!r}: total_logprob is {rolled.total_logprob}")


def view_isolation(subject: Subject) -> None:
    """Base and fine-tuned differ, and base after fine-tuned is bit-equal to base before."""
    base, finetuned = subject.base_and_finetuned()
    require(not all_same(base, finetuned), "as_base and as_finetuned give the same scores")
    with subject.differential().as_base() as view:
        require(all_same(base, subject.scores(view)), "base after ft differs from base before")


def cache_keeps_views_apart(subject: Subject) -> None:
    """With a warm cache, no view is served another view's value."""
    base, finetuned = subject.base_and_finetuned()
    backend = subject.differential()
    subject.forget_values()
    for _ in range(2):
        with backend.as_base() as view:
            got = subject.first_question(view)()
            require(same(base[0], got), "base got another's")
        with backend.as_finetuned() as view:
            got = subject.first_question(view)()
            require(same(finetuned[0], got), "as_finetuned was served another view's value")


def scale_end_points(subject: Subject) -> None:
    """λ=0 is base and λ=1 is fine-tuned; a scale between differs from both."""
    backend = subject.scalable()
    base, finetuned = subject.base_and_finetuned()
    for lam, expected, name in ((0.0, base, "base"), (1.0, finetuned, "fine-tuned")):
        with backend.as_scaled_adapter(lam) as view:
            gap = max(map(difference, subject.scores(view), expected))
        require(gap <= subject.atol, f"λ={lam:g} differs from {name} by {gap} nats")
    with backend.as_scaled_adapter(SCALE) as view:
        between = subject.scores(view)
    for expected, name in ((base, "base"), (finetuned, "fine-tuned")):
        require(not all_same(between, expected), f"λ={SCALE:g} gives the scores of {name}")


def scaled_view_restores(subject: Subject) -> None:
    """A scaled view leaves base and fine-tuned bit-equal, also after an exception inside it."""
    backend = subject.scalable()
    _require_restored(subject, lambda: backend.as_scaled_adapter(SCALE))


def null_view_restores(subject: Subject) -> None:
    """A null view leaves base and fine-tuned bit-equal, also after an exception inside it."""
    backend = subject.null_calibrated()
    _require_restored(subject, lambda: backend.as_null_adapter(NULL_SEED))


class _Interruption(Exception):
    """Raised inside a view by the rule itself."""


def _require_restored(
    subject: Subject, enter: Callable[[], AbstractContextManager[ScoringBackend]]
) -> None:
    before = subject.base_and_finetuned()
    with enter() as view:
        subject.scores(view)
    _require_unchanged(before, subject.base_and_finetuned(), "after the view")
    with suppress(_Interruption), enter() as view:
        subject.scores(view)
        raise _Interruption
    _require_unchanged(before, subject.base_and_finetuned(), "after an exception inside the view")


def _require_unchanged(
    before: tuple[list[Any], list[Any]], after: tuple[list[Any], list[Any]], when: str
) -> None:
    for name, old, new in zip(("base", "fine-tuned"), before, after, strict=True):
        require(all_same(old, new), f"{when}, {name} differs from what it was")


def stale_view_refused(subject: Subject) -> None:
    """Using a view after its ``with`` ended raises, whether the value is cached or not."""
    backend = subject.differential()
    for enter in (backend.as_base, backend.as_finetuned):
        with enter() as view:
            ask = subject.first_question(view)
            ask()
        for when in ("with its value cached", "without its value cached"):
            if _error_of(ask) is None:
                fail(f"a view answered after its `with` had ended, {when}")
            subject.forget_values()


RULES: tuple[Rule, ...] = (
    value_types,
    distribution_mass,
    distribution_order,
    batch_equals_single,
    rolling_agrees_with_logprob_of,
    logprob_adds_up,
    determinism,
    hit_equals_miss,
    values_cannot_be_changed,
    counters_add_up,
    edge_inputs,
    view_isolation,
    cache_keeps_views_apart,
    scaled_view_restores,
    null_view_restores,
    scale_end_points,
    stale_view_refused,
)
"""All rules, in the order in which they are run."""
