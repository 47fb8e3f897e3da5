"""Checks of counts and lengths, and of what else says the same: streams, ``prompt_logprobs``."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from forwardcache.conformance.http.answer import Answer, Usage, logprob_from
from forwardcache.conformance.http.client import RequestFailedError
from forwardcache.conformance.server.compare import SINGLE, gaps_of_values
from forwardcache.conformance.server.failures import (
    MaxTokensIgnored,
    PromptLogprobsDiffer,
    PromptTruncated,
    StreamDiffers,
    UsageWrong,
)
from forwardcache.conformance.server.session import (
    STEPS,
    CheckSkippedError,
    Findings,
    Scored,
    Session,
    plain,
)

IDS = tuple(range(20, 28))
"""A prompt in ids: any vocabulary has these."""

WORDS = 32
"""Length of the first of the long prompts, each twice as long as the one before."""


def usage(session: Session) -> Findings:
    """Tokens of prompt and completion are counted as they are, and add up."""
    counted = 0
    for text in session.texts:
        answer = session.complete(text)
        if answer.usage is None:
            continue
        counted += 1
        asked = f"{STEPS} tokens after {text!r:.60}"
        yield from _adds_up(asked, answer.usage)
        yield from _completion_counted(asked, answer)
        yield from _prompt_counted(session, text, answer.usage)
    yield from _ids_counted(session)
    if not counted:
        raise CheckSkippedError("the server sends no usage")


def _adds_up(asked: str, given: Usage) -> Findings:
    counts = (given.prompt_tokens, given.completion_tokens, given.total_tokens)
    if not all(type(each) is int for each in counts):
        yield UsageWrong(asked, "three whole numbers", f"{counts}")
    elif counts[0] + counts[1] != counts[2]:
        yield UsageWrong(asked, f"total_tokens = {counts[0] + counts[1]}", f"{counts[2]}")


def _completion_counted(asked: str, answer: Answer) -> Findings:
    given, choice = answer.usage, answer.only()
    if given is None or choice.logprobs is None:
        return
    listed = len(choice.logprobs.tokens)
    # The end-of-text token may be counted and not listed, or the reverse.
    allowed = {listed} if choice.finish_reason == "length" else {listed - 1, listed, listed + 1}
    if given.completion_tokens not in allowed:
        yield UsageWrong(asked, f"completion_tokens = {listed}", f"{given.completion_tokens}")


def _prompt_counted(session: Session, text: str, given: Usage) -> Findings:
    try:
        echoed = len(session.known("echo", text).tokens)
    except CheckSkippedError:
        return
    # A BOS token may be counted and not echoed.
    if given.prompt_tokens not in (echoed, echoed + 1):
        expected = f"prompt_tokens = {echoed}, or one more for BOS"
        yield UsageWrong(f"{STEPS} tokens after {text!r:.60}", expected, f"{given.prompt_tokens}")


def _ids_counted(session: Session) -> Findings:
    try:
        answer = session.offered("a prompt of ids", prompt=list(IDS), max_tokens=1, temperature=0.0)
    except CheckSkippedError:
        return
    if answer.usage is not None and answer.usage.prompt_tokens != len(IDS):
        came = f"{answer.usage.prompt_tokens}"
        yield UsageWrong(f"a prompt of {len(IDS)} ids", f"prompt_tokens = {len(IDS)}", came)


def max_tokens(session: Session) -> Findings:
    """An answer is as long as was asked for, an echo for none adds nothing."""
    counted = 0
    for count in (1, STEPS // 2):
        answer = session.complete(session.texts[0], max_tokens=count)
        came, ended = _length(answer), answer.only().finish_reason
        counted += came is not None
        if came is not None and (came > count or (came < count and ended == "length")):
            asked = f"max_tokens={count} after {session.texts[0]!r:.60}"
            yield MaxTokensIgnored(asked, f"{count} tokens", f"{came}")
            return
    with suppress(CheckSkippedError):
        session.score(session.texts[0])
    if session.ran_on:
        text, more = session.ran_on
        asked = f"echo of {text!r:.60} with max_tokens=0"
        yield MaxTokensIgnored(asked, "the prompt alone", f"{more} tokens more")
    if not counted:
        raise CheckSkippedError("the server says of no token that it came")


def _length(answer: Answer) -> int | None:
    """How many tokens came, by the list of them or else by the count; None where neither is."""
    listed = answer.only().logprobs
    if listed is not None:
        return len(listed.tokens)
    counted = answer.usage.completion_tokens if answer.usage else None
    return counted if type(counted) is int else None


def long_prompts(session: Session) -> Findings:
    """A long prompt is scored whole, or refused."""
    words, before = WORDS, 0
    while words <= session.longest:
        text = " ".join(str(number) for number in range(100, 100 + words))
        try:
            answer = session.complete(text, max_tokens=1)
        except RequestFailedError as error:
            if error.status is None:
                raise
            if not before:
                raise CheckSkippedError(f"a prompt of {words} words is refused: {error}") from error
            return
        given = answer.usage.prompt_tokens if answer.usage else None
        counted = given if type(given) is int else None
        wrong = next(_counted_whole(words, before, counted), None)
        if wrong is None and not _echoed_whole(session, text):
            came = "an echo that lacks some of it"
            wrong = PromptTruncated(f"echo of {words} words", "the prompt, or a refusal", came)
        if wrong is not None:
            yield wrong
            return
        before, words = counted or 1, 2 * words


def _counted_whole(words: int, before: int, counted: int | None) -> Findings:
    # Twice the words are nearly twice the tokens; a tenth is left for what stands in front.
    least = max(words, int(1.8 * before))
    if counted is not None and counted < least:
        expected = f"at least {least} prompt_tokens, or a refusal"
        yield PromptTruncated(f"a prompt of {words} words", expected, f"{counted}")


def _echoed_whole(session: Session, text: str) -> bool:
    try:
        echo = session.echo(text)
    except (CheckSkippedError, RequestFailedError):
        return True
    joined = "".join(echo.tokens)
    return joined.startswith("token_id:") or plain(text) in plain(joined)


def prompt_logprobs(session: Session) -> Findings:
    """Values of ``prompt_logprobs`` (vLLM) are the echo's, with null first and ranks in order."""
    judged = 0
    for text in session.texts:
        given = _prompt_rows(session, text)
        echo = session.known("echo", text)
        asked = f"prompt_logprobs of {text!r:.60}"
        if len(given) != len(echo.tokens):
            yield PromptLogprobsDiffer(asked, f"{len(echo.tokens)} places", f"{len(given)}")
            return
        if given[0] is not None:
            yield PromptLogprobsDiffer(asked, "null first", f"{given[0]!r:.80}")
            return
        own = [_own_value(row, token) for row, token in zip(given, echo.tokens, strict=True)]
        judged += sum(value is not None for value in own)
        gaps = gaps_of_values(own, echo.logprobs)
        if gaps.beyond(session.tolerance):
            yield PromptLogprobsDiffer(asked, "the values of the echo", str(gaps))
            return
        unranked = [row for row in given if row and not _ranked(row)]
        if unranked:
            yield PromptLogprobsDiffer(asked, "rank 1 for the most likely", f"{unranked[0]!r:.120}")
            return
    if not judged:
        raise CheckSkippedError("prompt_logprobs name no token of the prompt")


def _prompt_rows(session: Session, text: str) -> list[Mapping[str, Any] | None]:
    answer = session.offered(
        "prompt_logprobs",
        prompt=text,
        max_tokens=1,
        temperature=0.0,
        prompt_logprobs=session.top_k,
    )
    given = answer.only().sent.get("prompt_logprobs")
    if not isinstance(given, list) or not given:
        raise CheckSkippedError("the server gives no prompt_logprobs")
    return given


def _own_value(row: Mapping[str, Any] | None, token: str) -> float | None:
    """The value of the entry whose text is ``token``, where just one has it."""
    entries = [each for each in (row or {}).values() if each.get("decoded_token") == token]
    return logprob_from(entries[0].get("logprob")) if len(entries) == 1 else None


def _ranked(row: Mapping[str, Any]) -> bool:
    entries = sorted(row.values(), key=lambda each: each.get("rank") or 0)
    values = [logprob_from(each.get("logprob")) or 0.0 for each in entries]
    return values == sorted(values, reverse=True)


def stream(session: Session) -> Findings:
    """A stream gives the text, the tokens and the values of the answer in one piece."""
    for text in session.texts[:2]:
        whole = session.known("completion", text)
        given = _streamed(session, text)
        asked = f"{STEPS} tokens after {text!r:.60}, as a stream"
        if not given.tokens:
            yield from _other_text(session, asked, text, given.text)
        else:
            yield from _other_tokens(session, asked, whole, given)


@dataclass(frozen=True)
class _Streamed:
    """The chunks of a stream, put together; no tokens where it has no log-probabilities."""

    text: str
    tokens: tuple[str, ...]
    values: tuple[float | None, ...]


def _streamed(session: Session, text: str) -> _Streamed:
    asked = {"temperature": 0.0, "logprobs": session.top_k}
    try:
        chunks = session.client.stream(text, max_tokens=STEPS, **asked)
    except RequestFailedError as error:
        if error.status is None:
            raise
        raise CheckSkippedError(f"a stream is refused: {error}") from error
    choices = [choice for chunk in chunks for choice in chunk.choices]
    given = [choice.logprobs for choice in choices if choice.logprobs]
    return _Streamed(
        "".join(choice.text for choice in choices),
        tuple(token for each in given for token in each.tokens),
        tuple(value for each in given for value in each.token_logprobs),
    )


def _other_text(session: Session, asked: str, text: str, joined: str) -> Findings:
    """Whether the stream's text is another than that of the answer in one piece."""
    whole = session.known("completion", text)
    if joined == whole.text:
        return
    if not whole.text.startswith(joined) and _has_near_equals(session, whole):
        # Which of near-equal tokens comes is rounding, and without values that can't be told.
        raise CheckSkippedError("a stream has no values, and near-equal tokens may change places")
    yield StreamDiffers(asked, f"{whole.text!r}", f"{joined!r}")


def _has_near_equals(session: Session, whole: Scored) -> bool:
    """Whether rounding may have chosen one of the tokens."""
    best = [sorted(row.values(), reverse=True)[:2] for row in whole.rows]
    return any(len(two) == 2 and two[0] - two[1] < SINGLE * session.tolerance for two in best)


def _other_tokens(session: Session, asked: str, whole: Scored, given: _Streamed) -> Findings:
    pairs = zip(whole.tokens, given.tokens, strict=False)
    alike = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
    if alike < max(len(whole.tokens), len(given.tokens)) and not _near(
        session, whole, given, alike
    ):
        yield StreamDiffers(asked, f"tokens {list(whole.tokens)}", f"{list(given.tokens)}")
    elif alike == len(whole.tokens) and given.text != whole.text:
        yield StreamDiffers(asked, f"{whole.text!r}", f"{given.text!r}")
    elif len(given.values) < alike:
        yield StreamDiffers(asked, f"{alike} values", f"{len(given.values)}")
    else:
        gaps = gaps_of_values(given.values[:alike], whole.logprobs[:alike])
        if gaps.beyond(session.tolerance):
            yield StreamDiffers(asked, "the same values", str(gaps))


def _near(session: Session, whole: Scored, given: _Streamed, place: int) -> bool:
    """Whether the tokens that differ first are near-equals, of which rounding chooses one."""
    if place >= min(len(whole.tokens), len(given.tokens)):
        return False
    row, chosen = whole.top[place] or {}, whole.logprobs[place]
    other = row.get(given.tokens[place])
    near = SINGLE * session.tolerance
    return chosen is not None and other is not None and chosen - other < near
