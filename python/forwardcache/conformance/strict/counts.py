"""What one stream says of its numbers: ids, usage, and how many tokens were asked for."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping

from forwardcache.conformance.failures import FinishReasonWrong, InvalidTokenIds, UsageInvalid
from forwardcache.conformance.judge import limit_rules, usage_contradiction
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.stream import Reception
from forwardcache.conformance.strict.ask import collected, prompt_length, usual_limit
from forwardcache.conformance.strict.prompts import family
from forwardcache.conformance.strict.stops import stopped_after_first
from forwardcache.conformance.subject import PROMPT, Subject

__all__ = ["token_ids", "token_limits", "usage"]

_LONG_LIMIT = 130
"""More than the lengths at which engines stop by themselves: 16, 20, 32, 64, 100 or 128."""

_SHARE = 4
"""A request that would take more than this part of the check's time is left out."""

_STOPS = ("stop", "eos")


async def token_ids(subject: Subject) -> Failures:
    """Every token id is an int."""
    reception = await collected(subject)
    for value in reception.tokens:
        if not isinstance(value, int) or isinstance(value, bool):
            yield InvalidTokenIds(repr(value)).having(reception.chunks)
            return


async def usage(subject: Subject) -> Failures:
    """A terminal chunk's numbers are those of the prompt and of what was sent.

    Judged on a short prompt, a long one, and a stream that is cancelled.
    """
    for prompt in (PROMPT, *family(1, prompt_length(subject))):
        whole = await collected(subject, subject.request(prompt))
        for failure in _usage_rules(whole, len(prompt)):
            yield failure
    stopped = await stopped_after_first(subject)
    for failure in _usage_rules(stopped.reception, len(PROMPT)):
        yield failure


async def token_limits(subject: Subject) -> Failures:
    """A stream has as many tokens as were asked for, unless the model has ended it before."""
    ends: dict[int, Reception] = {}
    affordable = float("inf")
    for asked in _limits(subject):
        if asked > affordable:
            break
        began = time.monotonic()
        reception = await collected(subject, subject.request(max_tokens=asked))
        for failure in limit_rules(reception, asked):
            yield failure
        ends[asked] = reception
        seconds = (time.monotonic() - began) / max(1, len(reception.tokens))
        affordable = subject.settings.check_timeout / _SHARE / seconds
    for wrong in _wrong_reasons(ends):
        yield wrong


def _usage_rules(reception: Reception, prompt_tokens: int) -> Iterator[UsageInvalid]:
    contradiction = usage_contradiction(reception.chunks, prompt_tokens)
    if contradiction is not None:
        yield UsageInvalid(contradiction).having(reception.chunks)


def _limits(subject: Subject) -> list[int]:
    """One token, as many as in the other checks, and more than these, as the context has room."""
    usual = usual_limit(subject)
    limits = {1, usual, usual + 5, 3 * usual + 1, _LONG_LIMIT}
    return sorted({min(limit, subject.room()) for limit in limits})


def _wrong_reasons(ends: Mapping[int, Reception]) -> Iterator[FinishReasonWrong]:
    """Streams that say the model has ended at the limit, where a longer one shows that it goes on.

    A model may end with the very last token that was asked for; then no longer stream goes on.
    """
    for asked, reception in ends.items():
        reason = reception.chunks[-1].finish_reason
        if reason in _STOPS and len(reception.tokens) == asked:
            for longer in ends.values():
                if len(longer.tokens) > asked and longer.tokens[:asked] == reception.tokens:
                    yield FinishReasonWrong(asked, reason).having(reception.chunks)
                    break
