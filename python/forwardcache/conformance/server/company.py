"""Checks of a prompt's company: batches, texts with the same beginning, requests at once."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from forwardcache.conformance.http.answer import Answer
from forwardcache.conformance.http.client import RequestFailedError
from forwardcache.conformance.server.compare import gaps_of_rows
from forwardcache.conformance.server.failures import (
    BatchMixedUp,
    DependsOnBatch,
    DependsOnPrefix,
    MixedUnderConcurrency,
)
from forwardcache.conformance.server.session import (
    CheckSkippedError,
    Findings,
    Scored,
    Session,
    prompt_part,
    scored,
)

BEGINNING = (
    "one two three four five six seven eight nine ten eleven twelve "
    "thirteen fourteen fifteen sixteen seventeen eighteen"
)
"""Long enough for a cache that keeps whole blocks of 16 tokens, as vLLM's does."""

SHARED_WORDS = (4, 18)
"""How many words of it are shared."""

ENDINGS = ("the red house on the hill", "a cold wind from the sea", "my old green coat")
"""What follows it; two of one length in words, one shorter."""


def batch(session: Session) -> Findings:
    """Each prompt of a batch gets what it gets alone."""
    alone = [session.score(text) for text in session.texts]
    answer = _batched(session, list(session.texts), alone[0].kind)
    asked = f"a batch of {len(alone)} prompts"
    if [choice.index for choice in answer.choices] != list(range(len(alone))):
        indices = [choice.index for choice in answer.choices]
        yield BatchMixedUp(asked, "a choice a prompt, by its index", f"indices {indices}")
        return
    together = [_of_batch(session, answer, place) for place in range(len(alone))]
    for place, given in enumerate(together):
        if _same(session, alone[place], given):
            continue
        others = [at for at, one in enumerate(alone) if at != place and _same(session, one, given)]
        expected = f"for prompt {place} what it gets alone"
        if others:
            yield BatchMixedUp(asked, expected, f"what prompt {others[0]} gets alone")
        else:
            gaps = alone[place].gaps(given, session.top_k)
            yield DependsOnBatch(asked, expected, str(gaps))
        return


def _batched(session: Session, texts: list[str], kind: str) -> Answer:
    try:
        if kind == "echo":
            return session.echo_answer(texts)
        return session.complete(texts)
    except RequestFailedError as error:
        if error.status is None:
            raise
        raise CheckSkippedError(f"a list of prompts is refused: {error}") from error


def _of_batch(session: Session, answer: Answer, place: int) -> Scored:
    alone = session.score(session.texts[place])
    whole = scored(alone.kind, answer, answer.choices[place])
    if alone.kind == "completion":
        return whole
    return prompt_part(session.texts[place], whole, session.behind)


def _same(session: Session, one: Scored, other: Scored) -> bool:
    if one.kind == "echo" and one.tokens != other.tokens:
        return False
    return not one.gaps(other, session.top_k).beyond(session.tolerance)


def prefixes(session: Session) -> Findings:
    """A prompt gets the same before and after others with the same beginning."""
    words = BEGINNING.split()
    for shared in SHARED_WORDS:
        start = " ".join(words[:shared])
        texts = [f"{start} {ending}" for ending in ENDINGS]
        before = [session.score_anew(text) for text in texts]
        after = [session.score_anew(text) for text in texts]
        for text, old, new in zip(texts, before, after, strict=True):
            gaps = old.gaps(new, session.top_k)
            if gaps.beyond(session.tolerance):
                asked = f"{old.kind} of {text!r:.60}, before and after others that begin so"
                yield DependsOnPrefix(asked, "the same values", str(gaps))
                return
        wrong = next(_anothers(session, texts, before), None)
        if wrong is not None:
            yield wrong
            return


def _anothers(session: Session, texts: Sequence[str], given: Sequence[Scored]) -> Findings:
    """Texts that part must part in their candidates too, from the place after."""
    for text, one, other in zip(texts[1:], given[1:], given, strict=False):
        parted = one.common(other)
        rows = one.top[parted + 1 :], other.top[parted + 1 :]
        count = min(map(len, rows))
        if one.kind != "echo" or count < 4:
            continue
        gaps = gaps_of_rows(rows[0][:count], rows[1][:count], session.top_k)
        if gaps.largest < 1e-6:
            asked = f"echo of {text!r:.60}, after another that begins so"
            expected = f"candidates of its own after token {parted}"
            yield DependsOnPrefix(asked, expected, "those of the other text")
            return


def concurrency(session: Session) -> Findings:
    """Each of several requests at once gets what it gets alone."""
    texts = [session.texts[at % len(session.texts)] for at in range(session.concurrency)]
    alone = [session.score(text) for text in texts]
    with ThreadPoolExecutor(len(texts)) as pool:
        together = list(pool.map(session.score_anew, texts))
    for place, (one, other) in enumerate(zip(alone, together, strict=True)):
        if not _same(session, one, other):
            gaps = one.gaps(other, session.top_k)
            came = f"{gaps} in request {place}, {other.common(one)} of {len(one.tokens)} tokens"
            asked = f"{len(texts)} requests at once"
            yield MixedUnderConcurrency(asked, "what each gets alone", came)
            return
    if len(texts) < 2:
        raise CheckSkippedError("one request at a time was asked for")
