"""Checks of one answer: its form, its text, its numbers and its candidates."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

from forwardcache.conformance.http.answer import Row
from forwardcache.conformance.server.compare import SINGLE
from forwardcache.conformance.server.failures import (
    EchoTextWrong,
    FirstTokenNotNull,
    InvalidLogprob,
    LengthsDiffer,
    LogprobMissing,
    MassAboveOne,
    TextOffsetsWrong,
    TopKCountWrong,
    TopKNotHighest,
    TopKOrderWrong,
)
from forwardcache.conformance.server.session import (
    CheckSkippedError,
    Findings,
    Scored,
    Session,
    plain,
)

MASS_TOLERANCE = 1e-3
"""How far the candidates' mass may be above 1: sums of rounded numbers."""

SMALLER_K = 2


def answers(session: Session) -> Findings:
    """A completion of one token is answered in the form of a completion."""
    session.complete(session.texts[0], max_tokens=1).only()
    yield from ()


def lengths(session: Session) -> Findings:
    """Tokens, log-probabilities, candidates and offsets are one to one."""
    for text in session.texts:
        for scored in _both(session, text):
            given = scored.choice.logprobs
            if given is not None and len(set(given.lengths.values())) > 1:
                came = ", ".join(f"{count} {name}" for name, count in given.lengths.items())
                yield LengthsDiffer(_asked(scored, text), "lists of one length", came)
                return


def first_token(session: Session) -> Findings:
    """An echo's first token, before which nothing stands, has null."""
    for text in session.texts:
        echo = session.known("echo", text)
        if echo.logprobs[0] is not None:
            came = f"{echo.logprobs[0]} for {echo.tokens[0]!r}"
            yield FirstTokenNotNull(_asked(echo, text), "null for the first token", came)
            return


def echo_text(session: Session) -> Findings:
    """An echo's text and tokens are the prompt's, and each offset is where its token stands."""
    for text in session.texts:
        echo = session.known("echo", text)
        asked = _asked(echo, text)
        if not echo.text.startswith(text):
            yield EchoTextWrong(asked, f"text that begins with {text!r}", f"{echo.text!r:.120}")
            return
        joined = plain("".join(echo.tokens))
        if plain(text) not in joined and not _are_ids(echo):
            yield EchoTextWrong(asked, f"tokens of {text!r}", f"tokens {list(echo.tokens)!r:.120}")
            return
        yield from _offsets(echo, text)


def _offsets(echo: Scored, text: str) -> Findings:
    # Where the tokens' texts are not quite the prompt's (a vocabulary's signs), nothing is known.
    if not echo.text_offset or "".join(echo.tokens[echo.lead :]) != text:
        return
    # Whether the offsets count a special token in front is left open: the distances are judged.
    steps = [after - before for before, after in pairwise(echo.text_offset[echo.lead :])]
    sizes = [len(token) for token in echo.tokens[echo.lead : -1]]
    if steps != sizes:
        expected = f"distances {sizes!r:.120}"
        yield TextOffsetsWrong(_asked(echo, text), expected, f"distances {steps!r:.120}")


def probabilities(session: Session) -> Findings:
    """Values are logarithms of probabilities: numbers, and at most 0."""
    for text in session.texts:
        for scored in _both(session, text):
            broken = next(_broken_numbers(scored, text), None)
            if broken is not None:
                yield broken
                return


def _broken_numbers(scored: Scored, text: str) -> Findings:
    asked = _asked(scored, text)
    start = 1 if scored.kind == "echo" else 0
    places = list(zip(scored.tokens, scored.logprobs, scored.top, strict=True))
    for place, (token, value, row) in enumerate(places[start:], start):
        where = f"token {place}, {token!r}"
        if value is None and row is None:
            yield LogprobMissing(asked, f"a log-probability for {where}", "null")
        values = [*(row or {}).values(), *([] if value is None else [value])]
        wrong = [each for each in values if math.isnan(each) or each > MASS_TOLERANCE]
        if wrong:
            yield InvalidLogprob(asked, "values of at most 0", f"{wrong[0]} at {where}")


def mass(session: Session) -> Findings:
    """The candidates of a place sum to at most 1."""
    for text in session.texts:
        for scored in _both(session, text):
            for place, row in enumerate(scored.top):
                total = sum(map(math.exp, (row or {}).values()))
                if total > 1 + MASS_TOLERANCE:
                    came = f"{total:.6g} at token {place}, {scored.tokens[place]!r}"
                    yield MassAboveOne(_asked(scored, text), "a sum of at most 1", came)
                    return


def top_k(session: Session) -> Findings:
    """As many candidates as asked for (and the token itself): the most likely, in order."""
    text, k = session.texts[0], session.top_k
    many = session.score(text)
    if not many.rows:
        raise CheckSkippedError("the server gives no candidates")
    few = session.score_anew(text, top_k=SMALLER_K)
    for scored, count in ((many, k), (few, SMALLER_K)):
        yield from _count(scored, text, count)
        yield from _order(scored, text, count)
    yield from _highest(session, text, many, few)


def _count(scored: Scored, text: str, k: int) -> Findings:
    counts = [len(row) for row in scored.rows]
    # Two candidates may share one text, so that single places have fewer; the token of the text may
    # be there beyond the k.
    if max(counts) > k + 1 or max(counts) < k:
        expected = f"{k} candidates, or {k + 1} with the token itself"
        yield TopKCountWrong(_asked(scored, text, k), expected, f"{sorted(set(counts))}")


def _order(scored: Scored, text: str, k: int) -> Findings:
    for token, row in zip(scored.tokens, scored.top, strict=True):
        if not row or _falling(row, token) or list(row) == sorted(row):
            continue
        asked = _asked(scored, text, k)
        yield TopKOrderWrong(asked, "candidates in falling order", _shown(row))
        return


def _falling(row: Row, token: str) -> bool:
    """Whether the candidates fall; the token itself may stand anywhere."""
    values = [value for each, value in row.items() if each != token]
    return all(before >= after for before, after in pairwise(values))


def _highest(session: Session, text: str, many: Scored, few: Scored) -> Findings:
    """The candidates are those above all others, as far as an answer or two of them show it."""
    slack = SINGLE * session.tolerance
    for token, wide, narrow in _pairs(many, few):
        chosen = _without(narrow, token) if len(narrow) > SMALLER_K else narrow
        second = sorted(wide.values(), reverse=True)[SMALLER_K - 1]
        if min(chosen.values()) < second - slack:
            expected = f"the {SMALLER_K} highest of {_shown(wide)}"
            yield TopKNotHighest(_asked(many, text, SMALLER_K), expected, _shown(chosen))
            return
    yield from _above_all(session, text, slack)


def _above_all(session: Session, text: str, slack: float) -> Findings:
    """A sampled token that is more likely than the k-th candidate is one of the k."""
    completion = session.known("completion", text)
    places = zip(completion.tokens, completion.logprobs, completion.top, strict=True)
    for token, value, row in places:
        others = sorted(_without(row or {}, token).values(), reverse=True)
        if value is None or len(others) < session.top_k:
            continue
        if value > others[session.top_k - 1] + slack:
            asked = _asked(completion, text, session.top_k)
            expected = f"{token!r}, at {value:.4g}, among the {session.top_k}"
            yield TopKNotHighest(asked, expected, _shown(row or {}))
            return


def _without(row: Row, token: str) -> Row:
    return {each: value for each, value in row.items() if each != token}


def _shown(row: Row) -> str:
    return ", ".join(f"{each!r}: {value:.4g}" for each, value in row.items())


def _pairs(many: Scored, few: Scored) -> Iterator[tuple[str, Row, Row]]:
    for place in range(many.common(few)):
        wide, narrow = many.top[place], few.top[place]
        if wide and narrow:
            yield many.tokens[place], wide, narrow


def _both(session: Session, text: str) -> Iterator[Scored]:
    """The echo and the completion, as far as the server gives them."""
    yield session.score(text)
    if session.score(text).kind == "echo":
        yield session.known("completion", text)


def _are_ids(scored: Scored) -> bool:
    """Whether the tokens are named by their ids, as vLLM does when it is asked to."""
    return all(token.startswith("token_id:") for token in scored.tokens)


def _asked(scored: Scored, text: str, k: int | None = None) -> str:
    many = "" if k is None else f", logprobs={k}"
    return f"{scored.kind} of {text!r:.60}{many}"
