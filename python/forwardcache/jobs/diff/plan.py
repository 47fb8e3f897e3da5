"""Which texts are compared, through which views, and in what pieces; nothing is run for it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from forwardcache.errors import (
    ContextLengthError,
    ForwardCacheError,
    InvalidInputError,
)
from forwardcache.jobs.planning import with_lengths
from forwardcache.jobs.prompts import Prompt, PromptSet
from forwardcache.jobs.reasons import shown
from forwardcache.jobs.session import Session
from forwardcache.jobs.skips import OnError, Skipped
from forwardcache.jobs.views import View

SAMPLE = 64
"""Most texts that floor, nulls and the smallest visible scale are measured on."""

CHUNK_TOKENS = 16384
"""Of the texts that are compared at once, unless one text has more or many views are compared."""

_PASSES_A_CHUNK = 4
"""Views that ``CHUNK_TOKENS`` are read in; of more views, a chunk has as much fewer tokens."""

MOST_GROUPS = 1000
NO_GROUP = "(none)"
"""The group of texts without the field."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffPlan:
    """What is compared.

    Attributes:
        source: The texts.
        texts: What the model reads of each, before the completion where it has one.
        lengths: Tokens of each that are read: all but the last.
        views: In the order of a text's rows; not ``reference``.
        reference: What they are held against.
        groups: The group of each text; None without any.
        group_by: The field of the input that they are by.
        skip_first: Of each text, how many of its first positions are left out.
        on_error: Whether a text on which the model fails is skipped.
        why_no_nulls: Why no view is held against matched nulls although they were asked for.
        without_nulls: By adapter: why it has none although others have.
        chunk_tokens: Of the texts that are compared at once, unless one text has more.
    """

    source: PromptSet
    texts: Sequence[Any]
    lengths: Sequence[int]
    views: tuple[View, ...]
    reference: View
    groups: Sequence[str] | None = None
    group_by: str | None = None
    skip_first: int = 0
    on_error: OnError = "fail"
    why_no_nulls: str | None = None
    without_nulls: Mapping[str | None, str] = field(default_factory=dict)
    chunk_tokens: int | None = None

    @property
    def prompts(self) -> tuple[Prompt, ...]:
        """The texts as the input has them."""
        return self.source.prompts

    @property
    def completions(self) -> list[str | None]:
        """The completion of each text."""
        return [prompt.completion for prompt in self.prompts]

    def chunks(self) -> Iterator[range]:
        """Positions of texts that are compared at once."""
        most = self.chunk_tokens or CHUNK_TOKENS
        start = tokens = 0
        for position, length in enumerate(self.lengths):
            if tokens and tokens + length > most:
                yield range(start, position)
                start, tokens = position, 0
            tokens += length
        if start < len(self.lengths):
            yield range(start, len(self.lengths))

    def sample(self) -> list[int]:
        """Positions of up to ``SAMPLE`` texts, spread evenly; of equal ones the first alone."""
        first: dict[tuple[str, str | None], int] = {}
        for at in range(len(self.prompts)):
            if self.lengths[at] > self.skip_first:
                first.setdefault((str(self.texts[at]), self.prompts[at].completion), at)
        known = list(first.values())
        if len(known) <= SAMPLE:
            return known
        return [known[at] for at in np.linspace(0, len(known) - 1, SAMPLE).round().astype(int)]

    def skips(self, position: int, error: Exception) -> Skipped:
        """The text that the model failed on, as one that is skipped.

        Raises:
            InvalidInputError: none is to be skipped.
            MachineError: so, and memory was too small.
        """
        return self.source.failed(self.prompts[position], error, self.on_error)


def make_plan(
    session: Session,
    source: PromptSet,
    views: tuple[View, ...],
    reference: View,
    *,
    in_windows: bool,
    group_by: str | None = None,
    skip_first: int = 0,
    on_error: OnError = "fail",
) -> DiffPlan:
    """A plan whose texts can all be encoded.

    Args:
        session: The loaded model.
        source: The texts, as ``comparable`` leaves them.
        views: What is held against the reference.
        reference: What they are held against.
        in_windows: Whether texts over the context are compared in windows.
        group_by: A field of the input.
        skip_first: Of each text, how many of its first positions are left out.
        on_error: Whether a text that can't be compared is skipped.

    Raises:
        InvalidInputError: a text can't be compared and isn't to be skipped, its line is named; no
            text has the field, or it has too many values.
    """
    texts, lengths = _encoded(session.backend, source, in_windows)
    good = [at for at, length in enumerate(lengths) if isinstance(length, int)]
    source, kept = with_lengths(source, lengths, on_error)
    groups = None if group_by is None else _groups(source, group_by)
    if max(kept) <= skip_first:
        raise InvalidInputError(
            f"--skip-first {skip_first:,} leaves no position: the longest text has {max(kept):,}"
        )
    return DiffPlan(
        source=source,
        texts=[texts[at] for at in good],
        lengths=kept,
        views=views,
        reference=reference,
        groups=groups,
        group_by=group_by,
        skip_first=skip_first,
        on_error=on_error,
        chunk_tokens=_chunk_tokens(session, len(views)),
    )


def _chunk_tokens(session: Session, views: int) -> int:
    """Tokens of a chunk: what an interrupt may cost is bounded, and a batch is filled."""
    share = CHUNK_TOKENS * _PASSES_A_CHUNK // (views + 1)
    return min(CHUNK_TOKENS, max(share, int(session.arithmetic()["token_budget"])))


def comparable(source: PromptSet, *, has_template: bool, on_error: OnError) -> PromptSet:
    """The texts that have what is compared: all of a text, or a completion after a prompt.

    Args:
        source: The texts as they were read.
        has_template: Whether prompts go through the chat template.
        on_error: Whether others are skipped.

    Raises:
        InvalidInputError: one has neither and isn't to be skipped, or none is left.
    """
    reasons: dict[int, str] = {}
    for at, prompt in enumerate(source.prompts):
        if prompt.completion is None and (prompt.messages is not None or has_template):
            what = "a list of messages" if prompt.messages is not None else "a prompt"
            reasons[at] = (
                f"{what} without a completion: a whole text is compared as it stands, and only a "
                "completion's positions count after a chat template"
            )
    if reasons and on_error == "fail":
        first = min(reasons)
        source.refuse(source.prompts[first], reasons[first])
    return source.without(reasons) if reasons else source


def _encoded(
    backend: Any, source: PromptSet, in_windows: bool
) -> tuple[list[Any], list[int | ForwardCacheError]]:
    """What the model reads of each text, and its tokens or why it has none."""
    texts: list[Any] = [prompt.asked for prompt in source.prompts]
    lengths: list[int | ForwardCacheError] = [0] * len(texts)
    pairs = [at for at, prompt in enumerate(source.prompts) if prompt.completion is not None]
    whole = [at for at, prompt in enumerate(source.prompts) if prompt.completion is None]
    # Rendered once: a template that prints the time writes one text for every view.
    items = [(texts[at], source.prompts[at].completion) for at in pairs]
    rendered = backend.rendered(items, op="logprob_of")
    found = backend.token_lengths(rendered, op="logprob_of")
    for at, item, length in zip(pairs, rendered, found, strict=True):
        lengths[at] = length
        if isinstance(item, Exception):
            continue
        texts[at], completion = item
        if in_windows and isinstance(length, ContextLengthError):
            [lengths[at]] = backend.token_lengths(
                [f"{texts[at]}{completion}"], op="rolling_logprob"
            )
    found = backend.token_lengths([texts[at] for at in whole], op="rolling_logprob")
    for at, length in zip(whole, found, strict=True):
        lengths[at] = length
    return texts, lengths


def _groups(source: PromptSet, field: str) -> list[str]:
    """The group of each text."""
    values = [prompt.carried.get(field) for prompt in source.prompts]
    if all(value is None for value in values):
        known = sorted({name for prompt in source.prompts for name in prompt.carried})
        there = f"there are {', '.join(map(shown, known[:20]))}" if known else "there are none"
        raise InvalidInputError(
            f"--group-by {shown(field)}: no text of {source.name} has that field; {there}"
        )
    groups = [NO_GROUP if value is None else _name(value) for value in values]
    if (found := len(set(groups))) > MOST_GROUPS:
        raise InvalidInputError(
            f"--group-by {shown(field)}: {found:,} different values, allowed are {MOST_GROUPS:,}"
        )
    return groups


def _name(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
