"""What a comparison and a run come to: notes for a person, JSON for a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from forwardcache.jobs.differences import Comparison, Difference
from forwardcache.jobs.rows import finite
from forwardcache.statistics.sentences import (
    BELOW_ZERO,
    IS_MORE,
    OTHER_NORM,
    among_random_changes,
    interval_notes,
)

if TYPE_CHECKING:
    from forwardcache.hf.scoring.noise import NoiseFloor

NO_BASE = "no table: differences are from base, which isn't among --views"
NO_NULLS = (
    "No null view is among --views: null:1:matched to null:19:matched say how far random changes "
    "of the adapter's weight norm move the model."
)


def floor_line(floor: NoiseFloor) -> str:
    """The noise floor for a person."""
    mean, most = significant(floor.mean_nats), significant(floor.max_nats)
    prompts = "1 prompt" if floor.prompts == 1 else f"{floor.prompts:,} prompts"
    return (
        f"other batches move base by {mean} nats on average, {most} at most ({floor.dtype}, "
        f"{prompts}); rounding that is the same in every batch is not in it"
    )


def floor_as_json(floor: NoiseFloor) -> dict[str, Any]:
    """The noise floor as JSON values."""
    nats = {"mean_nats": finite(floor.mean_nats), "max_nats": finite(floor.max_nats)}
    return {"measures": "other batches", "dtype": floor.dtype, "prompts": floor.prompts, **nats}


def significant(value: float, digits: int = 4) -> str:
    """So many significant digits, also where the last ones are zeros."""
    return f"{value:#.{digits}g}".removesuffix(".") if value else "0"


def notes(comparison: Comparison) -> list[str]:
    """What has to be said with the figures for them not to mislead."""
    if not comparison.found:
        return []
    said = _interval_notes(comparison)
    if comparison.is_bound:
        said.append(_bound_note(comparison))
    if comparison.has_rounded_below_zero():
        said.append(BELOW_ZERO)
    return [*said, *_null_notes(comparison)]


def _interval_notes(comparison: Comparison) -> list[str]:
    texts = min(one.figures.spread.interval.texts for one in comparison.found)
    return interval_notes(texts, sum(not one.view.is_null for one in comparison.found))


def _bound_note(comparison: Comparison) -> str:
    tokens = "the tokens of the rows" if comparison.fewest_tokens is None else (
        f"{comparison.fewest_tokens:,} tokens or more"
    )  # fmt: skip
    return (
        f"KL is a lower bound, over {tokens} and one bucket for all others, which hold up to "
        f"{comparison.most_outside:.2g} of base's probability."
    )


def _null_notes(comparison: Comparison) -> list[str]:
    if not comparison.nulls:
        return [NO_NULLS]
    places = {one.view.name: comparison.among_nulls(one) for one in comparison.found}
    said = [
        f"{IS_MORE} {among_random_changes(view, place)}"
        for view, place in places.items()
        if place is not None
    ]
    are_matched = all(null.view.matched for null in comparison.nulls)
    return said if are_matched else [*said, OTHER_NORM]


def as_json(comparison: Comparison) -> list[dict[str, Any]]:
    """The differences as JSON values; what is no finite number is null."""
    return [_view_as_json(comparison, one) for one in comparison.found]


def _view_as_json(comparison: Comparison, one: Difference) -> dict[str, Any]:
    place = comparison.among_nulls(one)
    return {
        "view": one.view.name,
        "is_null": one.view.is_null,
        "prompts": one.figures.prompts,
        "texts": one.figures.spread.interval.texts,
        "not_finite": one.figures.not_finite,
        comparison.field: one.figures.as_json(),
        "deviation": finite(one.view.deviation) if one.view.is_null else None,
        "update_norm": finite(comparison.norms.get(one.view.name)),
        "nulls": None if place is None else place.as_json(),
    }


@dataclass(frozen=True, slots=True)
class JobFigures:
    """What a run cost.

    Attributes:
        stats: The instrumentation's counters of this run.
        tokens_run: Tokens of the prompts that were run.
        seconds: From the first prompt to the last row.
    """

    stats: dict[str, int | float]
    tokens_run: int
    seconds: float

    @property
    def tokens_per_s(self) -> float:
        """Tokens run a second; 0.0 where nothing was run."""
        return self.tokens_run / self.seconds if self.tokens_run and self.seconds > 0 else 0.0

    def line(self) -> str:
        """One line for a person."""
        computed, hits = self.stats["forward_passes"], self.stats["cache_hits"]
        return (
            f"{computed:,} values computed, {hits:,} hits, hit rate {self.stats['hit_rate']:.1%}, "
            f"{self.seconds:.1f} s, {self.tokens_per_s:,.0f} tokens/s"
        )

    def as_json(self) -> dict[str, int | float]:
        """All counters and times."""
        times = {"seconds": self.seconds, "tokens_per_s": self.tokens_per_s}
        return {**self.stats, "tokens_run": self.tokens_run, **times}


def figures_between(before: dict[str, Any], after: dict[str, Any]) -> dict[str, int | float]:
    """Counters of one run: what ``to_dict`` gained between two looks."""
    gained = {name: after[name] - before[name] for name in after if name in before}
    lookups = gained["cache_hits"] + gained["cache_misses"]
    gained["hit_rate"] = gained["cache_hits"] / lookups if lookups else 0.0
    gained["max_batch_size"] = after["max_batch_size"]
    sent = gained["batches_sent"]
    gained["avg_batch_size"] = gained["batched_prompts"] / sent if sent else 0.0
    return gained
