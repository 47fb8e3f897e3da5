"""Several streams: each is what it would be alone."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from forwardcache.conformance.failures import (
    ConcurrentStreamInvalid,
    CrossTalk,
    NeighbourDisturbed,
    PromptsMixedUp,
)
from forwardcache.conformance.guard import EngineRaisedError, all_of, own_task, release
from forwardcache.conformance.judge import limit_rules
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.stream import Reception
from forwardcache.conformance.strict.ask import (
    Alone,
    Outcome,
    alone,
    broken,
    collected,
    outcome_of,
    prompt_length,
    usual_limit,
)
from forwardcache.conformance.strict.prompts import Prompt, family, heads
from forwardcache.conformance.strict.stops import stopped_after_first
from forwardcache.conformance.subject import CheckSkippedError, Subject

__all__ = ["concurrent_streams", "cross_talk", "neighbours", "shared_prefixes"]


async def concurrent_streams(subject: Subject) -> Failures:
    """Streams that run at once keep the rules that a single stream keeps."""
    outcomes = await all_of(outcome_of(subject) for _ in range(subject.settings.concurrency))
    for index, outcome in enumerate(outcomes):
        for failure in broken(outcome):
            yield ConcurrentStreamInvalid(index, failure).having(failure.chunks)
        if isinstance(outcome, Reception):
            for failure in limit_rules(outcome, subject.settings.max_tokens):
                yield ConcurrentStreamInvalid(index, failure).having(failure.chunks)


async def cross_talk(subject: Subject) -> Failures:
    """Different requests that run at once each get the tokens that they get alone."""
    prompts = _prompts(subject, subject.settings.concurrency)
    solos = [await alone(subject, prompt) for prompt in prompts]
    if all(solo.tokens is None for solo in solos):
        raise CheckSkippedError("the same request gave other tokens when it was asked again")
    outcomes = await all_of(outcome_of(subject, subject.request(prompt)) for prompt in prompts)
    for index, (solo, outcome) in enumerate(zip(solos, outcomes, strict=True)):
        if solo.tokens is None or isinstance(outcome, EngineRaisedError):
            continue
        raised = outcome.chunks[-1].error if outcome.chunks else None
        if outcome.tokens != solo.tokens or raised is not None:
            failure = CrossTalk(index, solo.tokens, outcome.tokens, raised)
            yield failure.having(outcome.chunks).due_to(outcome.raised)


async def shared_prefixes(subject: Subject) -> Failures:
    """What a prompt's last ids are makes a difference, where its first ids make one.

    An engine that takes a request for another one with the same beginning answers both alike, also
    one after the other. The ends are told apart by no prompt then, and the beginnings by each.
    """
    pairs = heads(prompt_length(subject, times=2))
    answers = await _same_answers(subject, pairs, None)
    if answers is None or len(set(answers)) < len(answers):
        return
    # An engine that sends the prompt back comes to its end only in an answer that is longer.
    longer = len(pairs[0][0]) + usual_limit(subject)
    if await _same_answers(subject, pairs, longer) is not None:
        yield PromptsMixedUp(len(pairs)).having(subject.receptions[-1].chunks)


async def neighbours(subject: Subject) -> Failures:
    """Streams that run while one is cancelled go on as if nothing had happened."""
    prompts = _prompts(subject, max(1, subject.settings.concurrency - 1))
    solos = [await alone(subject, prompt) for prompt in prompts]
    outcomes = await _beside_a_victim(subject, prompts)
    for index, (solo, outcome) in enumerate(zip(solos, outcomes, strict=True)):
        fault = _disturbance(solo, outcome)
        if fault is not None:
            chunks = [] if isinstance(outcome, EngineRaisedError) else outcome.chunks
            yield NeighbourDisturbed(index, fault).having(chunks)


async def _same_answers(
    subject: Subject, pairs: Sequence[tuple[Prompt, Prompt]], max_tokens: int | None
) -> list[tuple[object, ...]] | None:
    """The answers, one a pair, where both prompts of each pair get the same; else None."""
    answers: list[tuple[object, ...]] = []
    for pair in pairs:
        first, second = [
            await collected(subject, subject.request(prompt, max_tokens=max_tokens))
            for prompt in pair
        ]
        if first.tokens != second.tokens:
            return None
        answers.append(first.tokens)
    return answers


def _prompts(subject: Subject, count: int) -> list[Prompt]:
    return family(count, prompt_length(subject))


async def _beside_a_victim(subject: Subject, prompts: Sequence[Prompt]) -> list[Outcome]:
    victim = own_task(stopped_after_first(subject))
    try:
        return await all_of(outcome_of(subject, subject.request(prompt)) for prompt in prompts)
    finally:
        await asyncio.wait([victim], timeout=subject.settings.cancel_deadline)
        await release([victim])


def _disturbance(solo: Alone, outcome: Outcome) -> str | None:
    for failure in broken(outcome):
        return failure.message_line
    assert isinstance(outcome, Reception)
    if outcome.chunks[-1].cancelled and not solo.cancelled:
        return "it was cancelled too"
    if solo.tokens not in (None, outcome.tokens):
        return f"it gave {outcome.tokens}, and {solo.tokens} alone"
    return None
