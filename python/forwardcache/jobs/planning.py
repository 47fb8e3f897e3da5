"""A job out of prompts and views: how long its prompts are, how many tokens are asked for."""

from __future__ import annotations

from collections.abc import Sequence

from forwardcache.divergence import WIDE
from forwardcache.jobs.job import Job, are_compared
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.session import Session
from forwardcache.jobs.skips import OnError
from forwardcache.jobs.views import View


def make_job(
    session: Session,
    source: PromptSet,
    op: str,
    views: tuple[View, ...],
    *,
    top_k: int,
    on_error: OnError = "fail",
) -> Job:
    """A job whose prompts can all be encoded.

    Raises:
        InvalidInputError: a prompt can't be and isn't to be skipped; its line is named.
    """
    found = session.backend.token_lengths(source.items(op), op=op)
    source, lengths = with_lengths(source, found, on_error)
    k = asked_k(views, top_k, session.vocab_size)
    return Job(source, lengths, op, views, top_k, k, on_error)


def asked_k(views: Sequence[View], top_k: int, vocab_size: int) -> int:
    """Tokens asked of the model where rows have ``top_k``.

    All of a small vocabulary where views are compared: their divergence is that of the values then.
    """
    return max(top_k, vocab_size) if are_compared(views) and vocab_size <= WIDE else top_k


def with_lengths(
    source: PromptSet, found: Sequence[int | str | Exception], on_error: OnError
) -> tuple[PromptSet, list[int]]:
    """The prompts that have a length, and their lengths.

    Args:
        source: The prompts.
        found: Tokens of each, or why it can't be scored.
        on_error: Whether those without a length are skipped.

    Raises:
        InvalidInputError: one has none and isn't to be skipped; its line is named.
    """
    lengths = [length for length in found if isinstance(length, int)]
    reasons = {at: str(each) for at, each in enumerate(found) if not isinstance(each, int)}
    if reasons and on_error == "fail":
        first = min(reasons)
        source.refuse(source.prompts[first], reasons[first])
    return (source.without(reasons) if reasons else source), lengths
