"""Checks of what the numbers mean: repeatable, of the whole vocabulary, of their own tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

from forwardcache.conformance.http.answer import Row
from forwardcache.conformance.server.compare import Gaps, gaps_of_rows, gaps_of_values
from forwardcache.conformance.server.failures import (
    LogprobsShifted,
    NotRepeatable,
    RenormalisedOverTopK,
    SampledDiffers,
    SampledNotScored,
    SumsDiffer,
    TemperatureApplied,
    WrongValues,
)
from forwardcache.conformance.server.session import CheckSkippedError, Findings, Scored, Session

REPEATS = 3
TEMPERATURES = (0.5, 1.0, 2.0)

MOST_ROUNDING = 0.2
"""Nats by which the median of the same request may differ: far above 16-bit rounding."""

EXACT = 0.05
"""Nats by which the median may differ from a model computed in 32 bits."""


def repeatable(session: Session) -> Findings:
    """The same request gets the same values; by how much they differ is the floor of the rest."""
    largest = 0.0
    for text in session.texts[:2]:
        first = session.score(text)
        for _ in range(REPEATS):
            again = session.score_anew(text)
            gaps = first.gaps(again, session.top_k)
            if gaps.beyond(MOST_ROUNDING) or (
                first.kind == "echo" and first.tokens != again.tokens
            ):
                asked = f"{first.kind} of {text!r:.60}, twice"
                yield NotRepeatable(asked, f"gaps of at most {MOST_ROUNDING} nats", str(gaps))
                return
            largest = max(largest, gaps.typical)
    session.tolerance = max(session.tolerance, min(4 * largest, MOST_ROUNDING))


def renormalised(session: Session) -> Findings:
    """A candidate's value is the same, however many candidates are asked for."""
    for text in session.texts:
        many = session.score(text)
        few = session.score_anew(text, top_k=1)
        alike = many.common(few)
        gaps = _common_gaps(many.top[:alike], few.top[:alike])
        if gaps.beyond(session.tolerance):
            asked = f"{many.kind} of {text!r:.60} with logprobs={session.top_k} and with 1"
            yield RenormalisedOverTopK(asked, "the same values", str(gaps))
            return


def _common_gaps(one: Sequence[Row | None], other: Sequence[Row | None]) -> Gaps:
    """Gaps of the candidates that both have at a place."""
    values: list[float] = []
    for a, b in zip(one, other, strict=True):
        tokens = list((a or {}).keys() & (b or {}).keys())
        mine, theirs = ([(row or {})[each] for each in tokens] for row in (a, b))
        values += gaps_of_values(mine, theirs).values
    return Gaps(tuple(values))


def temperature(session: Session) -> Findings:
    """The candidates of the next token are the model's, whatever the temperature of sampling."""
    for text in session.texts:
        cold = session.known("completion", text)
        for degree in TEMPERATURES:
            warm = session.completion(text, max_tokens=1, temperature=degree, seed=0)
            gaps = gaps_of_rows(cold.top[:1], warm.top[:1], session.top_k)
            if gaps.beyond(session.tolerance):
                asked = f"a token after {text!r:.60} at temperature 0 and {degree}"
                yield TemperatureApplied(asked, "the same candidates", str(gaps))
                return


def alignment(session: Session) -> Findings:
    """Each token has its own log-probability: its candidate's, and that of its own place."""
    for text, echo in _echoes(session):
        asked = f"echo of {text!r:.60}"
        gaps = own_gaps(echo, session.top_k)
        if not gaps.beyond(session.tolerance):
            continue
        for by, where in ((1, "one place late"), (-1, "one place early")):
            if _fits_elsewhere(session, echo, by):
                expected = "each token's value among the candidates of its place"
                yield LogprobsShifted(asked, expected, f"values that stand {where}")
                return
        expected = "the value of the prompt's token among the candidates"
        yield SampledNotScored(asked, expected, f"{gaps} to it")
        return
    yield from _whole_shift(session)


def _echoes(session: Session) -> Iterator[tuple[str, Scored]]:
    """By their texts: echoes of prompts with completions, where most candidates are known."""
    with suppress(CheckSkippedError):
        for completion, whole in session.continued():
            yield f"…{completion.text}", whole
    for text in session.texts:
        yield text, session.known("echo", text)


def own_gaps(scored: Scored, k: int) -> Gaps:
    """How far each token's value is from its own candidate's, or above the k-th if it has none.

    Args:
        scored: Tokens with their values.
        k: How many candidates were asked for.
    """
    values = []
    for token, value, row in zip(scored.tokens, scored.logprobs, scored.top, strict=True):
        if value is None or not row:
            continue
        if token in row:
            values.append(abs(value - row[token]) if value != row[token] else 0.0)
        elif len(row) >= k:
            values.append(max(0.0, value - sorted(row.values(), reverse=True)[k - 1]))
    return Gaps(tuple(values))


def _fits_elsewhere(session: Session, echo: Scored, by: int) -> bool:
    """Whether each token's value stands ``by`` places behind its candidate's."""
    values = [None, *echo.logprobs[1:]]
    moved = [*values[1:], None] if by > 0 else [None, *values[:-1]]
    judged = [
        (value, row[token])
        for token, value, row in zip(echo.tokens, moved, echo.top, strict=True)
        if value is not None and row and token in row
    ]
    fitting = gaps_of_values(*zip(*judged, strict=True)) if judged else Gaps(())
    return len(judged) >= 2 and not fitting.beyond(session.tolerance)


def _whole_shift(session: Session) -> Findings:
    """An echo's candidates are those that the completion had at the same place."""
    with suppress(CheckSkippedError):
        for completion, whole in session.continued():
            if not _row_gaps_at(session, completion, whole, 0).beyond(session.tolerance):
                continue
            for by, where in ((-1, "one place early"), (1, "one place late")):
                if not _row_gaps_at(session, completion, whole, by).beyond(session.tolerance):
                    asked = f"a completion {completion.text!r:.40}, and the echo of both together"
                    expected = "the same candidates at the same places"
                    yield LogprobsShifted(asked, expected, f"those that stand {where}")
                    return


def _row_gaps_at(session: Session, completion: Scored, whole: Scored, by: int) -> Gaps:
    """Gaps of the completion's rows to those of the whole, ``by`` places behind its own."""
    start = len(whole.tokens) - len(completion.tokens) + by
    rows = whole.top[start : start + len(completion.tokens)]
    return gaps_of_rows(rows, completion.top[: len(rows)], session.top_k)


def sampled(session: Session) -> Findings:
    """A sampled token's log-probability is that which it has when scored."""
    for completion, whole in session.continued():
        count = len(completion.tokens)
        values = gaps_of_values(completion.logprobs, whole.logprobs[-count:])
        rows = gaps_of_rows(completion.top, whole.top[-count:], session.top_k)
        gaps = Gaps(values.values + rows.values)
        if values.beyond(session.tolerance) or gaps.beyond(session.tolerance):
            asked = f"a completion {completion.text!r:.40}, and the echo of both together"
            yield SampledDiffers(asked, "the same values", str(gaps))
            return


def sums(session: Session) -> Findings:
    """A text's log-probability is that of its beginning plus that of the rest."""
    for text in session.texts:
        whole = session.known("echo", text)
        half = text[: len(text) // 2]
        part = session.known("echo", half)
        alike = part.common(whole)
        if alike < 2:
            continue
        gaps = gaps_of_values(part.logprobs[:alike], whole.logprobs[:alike])
        if gaps.beyond(session.tolerance):
            asked = f"echoes of {half!r:.60} and of {text!r:.60}"
            yield SumsDiffer(asked, f"the same values for the first {alike} tokens", str(gaps))
            return


def exact(session: Session) -> Findings:
    """The values are the model's, as computed here in 32 bits."""
    if session.reference is None:
        raise CheckSkippedError("no model to compare with: --model DIR")
    tolerance = max(EXACT, session.tolerance)
    judged = 0
    for text in session.texts:
        echo, model = session.known("echo", text), list(session.reference(text))
        given = echo.logprobs[1:]
        # A BOS in front that the server doesn't show is known by one value fewer.
        if len(given) == len(model) - 1:
            model = model[1:]
        if len(given) != len(model):
            continue
        judged += 1
        gaps = gaps_of_values(given, model)
        if gaps.beyond(tolerance):
            floor = f"the model's within {tolerance:g} nats"
            yield WrongValues(f"echo of {text!r:.60}", floor, str(gaps))
            return
    if not judged:
        raise CheckSkippedError("the server reads texts into other tokens than the model's")
