"""What ``forwardcache diff`` found: one value that its table, its JSON, its page and JUnit show.

The page and the table compute nothing of their own, so that all of them give the same figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from forwardcache.statistics.as_json import view_as_json
from forwardcache.statistics.bounds import Outcome
from forwardcache.statistics.chain import Stage, stages_as_json
from forwardcache.statistics.floor import Floor, FloorVerdict
from forwardcache.statistics.nulls import NullComparison
from forwardcache.statistics.positions import Positions
from forwardcache.statistics.summary import Summary

MOST_SIDE_BY_SIDE = 8
"""Views of one adapter that are shown as columns; of more, each is a row."""

_FEW_STRENGTHS = 3


@dataclass(frozen=True, slots=True)
class TopToken:
    """One of a model's most likely tokens at a position.

    Attributes:
        text: The token as text.
        probability: From 0 to 1.
    """

    text: str
    probability: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MovedPosition:
    """A position that a view moved, in its context.

    Attributes:
        id: The input's own id of the text, or its line.
        line: Line of the input, from 1.
        place: Tokens that stand before the predicted one.
        kl: KL(reference ‖ view) there, nats.
        context: Tokens of the text around it, as text.
        context_kl: For each of them the KL where it is predicted, nats; None for a text's first
            token, which nothing predicts.
        at: Which of ``context`` is the predicted token, from 0.
        reference_top: The reference's most likely tokens there, most likely first.
        view_top: The view's.
    """

    id: str
    line: int
    place: int
    kl: float
    context: tuple[str, ...]
    context_kl: tuple[float | None, ...]
    at: int
    reference_top: tuple[TopToken, ...]
    view_top: tuple[TopToken, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewDifference:
    """One view against the reference.

    Attributes:
        view: Its id.
        positions: Those that count.
        summary: What they come to.
        floor: Whether it can be told from rounding; None where no floor was measured.
        nulls: Its place among matched nulls, p-values adjusted; None without any.
        null_means: By id of each matched null: its mean KL in nats over the same texts.
        group_nulls: By group: its place among matched nulls there.
        visible_from_lambda: The smallest scale of the adapter that can be told from rounding; None
            where that wasn't asked, or none down to ``detect_least`` can.
        detect_least: The smallest scale that was tried; None where it wasn't asked.
        moved: The positions that it moved most, most first.
        outcomes: What each bound came to.
        adapter: Name of the adapter that it is of; None where that has none, or it is of none.
        lam: Factor on the adapter: 1 for all of it; None for a view that isn't the adapter times a
            number.
        step: The number of a training run's checkpoint; None for any other view.
    """

    view: str
    positions: Positions
    summary: Summary
    floor: FloorVerdict | None = None
    nulls: NullComparison | None = None
    null_means: Mapping[str, float] = field(default_factory=dict)
    group_nulls: Mapping[str, NullComparison] = field(default_factory=dict)
    visible_from_lambda: float | None = None
    detect_least: float | None = None
    moved: tuple[MovedPosition, ...] = ()
    outcomes: tuple[Outcome, ...] = ()
    adapter: str | None = None
    lam: float | None = None
    step: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The view's part of ``--format json``."""
        which = {"adapter": self.adapter, "step": self.step, "lambda": self.lam}
        return which | view_as_json(
            self.summary,
            floor=self.floor,
            nulls=self.nulls,
            group_nulls=self.group_nulls,
            visible_from_lambda=self.visible_from_lambda,
            outcomes=self.outcomes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffResult:
    """What a run found.

    Attributes:
        reference: Id of the view that the others are held against.
        texts: Distinct texts with a position that counts.
        positions: Positions that count, of one view.
        views: In the order asked for.
        floor: What rounding alone makes; None where it wasn't measured.
        floor_texts: Texts that floor and nulls were measured on.
        group_by: The field of the input that ``groups`` are by.
        notes: What a reader has to know beside the figures, a sentence each.
        skipped: Texts that could not be compared.
        facts: What ``OUT.meta.json`` holds.
        chain: The stages behind the reference, each also against its neighbour; empty where that
            wasn't asked for.
        not_compared: By id of a view that was asked for: why there is nothing of it.
    """

    reference: str
    texts: int
    positions: int
    views: tuple[ViewDifference, ...]
    floor: Floor | None = None
    floor_texts: int = 0
    group_by: str | None = None
    notes: tuple[str, ...] = ()
    skipped: int = 0
    facts: Mapping[str, Any] = field(default_factory=dict)
    chain: tuple[Stage, ...] = ()
    not_compared: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_sweep(self) -> bool:
        """Whether there are several adapters, many strengths, or too many views for columns."""
        adapters = {one.adapter for one in self.views if one.adapter is not None}
        strengths = {one.lam for one in self.views if one.lam is not None}
        are_many = len(strengths) > _FEW_STRENGTHS or len(self.views) > MOST_SIDE_BY_SIDE
        return len(adapters) > 1 or are_many

    def as_json(self) -> dict[str, Any]:
        """What ``--format json`` prints."""
        return {
            "reference": self.reference,
            "texts": self.texts,
            "positions": self.positions,
            "views": {one.view: one.as_json() for one in self.views},
            "notes": list(self.notes),
            "skipped": self.skipped,
            "chain": stages_as_json(self.chain),
            "not_compared": dict(self.not_compared) or None,
        }
