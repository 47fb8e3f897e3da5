"""What a comparison looks like: a table and notes for a person, JSON for a program."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

from rich.console import Console
from rich.table import Table

from forwardcache.cli.differences import Comparison, Difference, why_no_interval
from forwardcache.cli.intervals import ROUGH_TEXTS, Interval
from forwardcache.cli.rows import finite

if TYPE_CHECKING:
    from forwardcache.hf.scoring.noise import NoiseFloor

NO_BASE = "no table: differences are from base, which isn't among --views"
NO_NULLS = (
    "no null view is among --views: with null:1,null:2 the table says what random adapters do"
)


def floor_line(floor: NoiseFloor) -> str:
    """The noise floor for a person."""
    mean, most = _digits(floor.mean_nats), _digits(floor.max_nats)
    prompts = "1 prompt" if floor.prompts == 1 else f"{floor.prompts:,} prompts"
    return (
        f"other batches move base by {mean} nats in the mean, {most} at most ({floor.dtype}, "
        f"{prompts}); rounding that is the same in every batch is not in it"
    )


def floor_as_json(floor: NoiseFloor) -> dict[str, Any]:
    """The noise floor as JSON values."""
    nats = {"mean_nats": finite(floor.mean_nats), "max_nats": finite(floor.max_nats)}
    return {"measures": "other batches", "dtype": floor.dtype, "prompts": floor.prompts, **nats}


def tables(comparison: Comparison) -> list[Table]:
    """How far the views are from base; then sizes, where signs or null views ask for them."""
    if not comparison.found:
        return []
    needs_sizes = comparison.is_signed or comparison.nulls
    return [_distances(comparison), *([_sizes(comparison)] if needs_sizes else [])]


def _distances(comparison: Comparison) -> Table:
    bound = ",\nlower bound" if comparison.is_bound else ""
    what = "view - base,\nnats" if comparison.is_signed else f"KL(base‖view), nats{bound}"
    signs = ("better", "worse") if comparison.is_signed else ()
    shown = _table("view", "prompts", what, "95 % interval", *signs)
    for one in comparison.found:
        within = ", as other batches" if comparison.is_within_floor(one) else ""
        shares = (f"{one.better:.0%}", f"{one.worse:.0%}") if comparison.is_signed else ()
        shown.add_row(
            _label(one) + within, _count(one), _digits(one.mean_nats), _ends(one.interval), *shares
        )
    return shown


def _sizes(comparison: Comparison) -> Table:
    signed, nulls = comparison.is_signed, comparison.nulls
    columns = [
        *(["mean |view -\nbase|, nats"] if signed else []),
        *(["norm added\nto weights", "random,\ndeviation"] if nulls else []),
        *(["x nulls'\nmean"] if comparison.yardstick_nats else []),
    ]
    shown = _table("view", *columns)
    for one in comparison.found:
        cells = [_digits(one.size_nats)] if signed else []
        if nulls:
            norm = comparison.norms.get(one.view.name)
            deviation = f"{one.view.deviation:g}" if one.view.is_null else "-"
            cells += ["-" if norm is None else _digits(norm), deviation]
        if comparison.yardstick_nats:
            ratio = comparison.ratio(one)
            cells.append("-" if ratio is None else f"{ratio:,.1f}")
        shown.add_row(_label(one), *cells)
    return shown


def _table(*columns: str) -> Table:
    shown = Table(*columns)
    shown.columns[0].no_wrap = True
    for column in shown.columns[1:]:
        column.justify = "right"
    return shown


def _label(one: Difference) -> str:
    return f"{one.view.name} (random)" if one.view.is_null else one.view.name


def _count(one: Difference) -> str:
    return f"{one.prompts:,}" + (f" ({one.not_finite:,} not finite)" if one.not_finite else "")


def _ends(interval: Interval) -> str:
    if not interval.is_known:
        return "-"
    # The ends of a bootstrap interval are known to no more.
    rough = " (rough)" if interval.is_rough else ""
    return f"{_digits(interval.low, 3)} to {_digits(interval.high, 3)}{rough}"


def _digits(value: float, digits: int = 4) -> str:
    """So many significant digits, also where the last ones are zeros."""
    return f"{value:#.{digits}g}".removesuffix(".") if value else "0"


def notes(comparison: Comparison) -> list[str]:
    """What has to be said beside the figures for them not to mislead."""
    if not comparison.found:
        return []
    said = [_interval_note(comparison)]
    if comparison.is_bound:
        said.append(_bound_note(comparison))
    if comparison.has_rounded_below_zero():
        said.append("some divergences are below 0: that is rounding, and isn't cut off")
    return [*said, *_null_notes(comparison)]


def _interval_note(comparison: Comparison) -> str:
    fewest = min((one.interval for one in comparison.found), key=lambda each: each.texts)
    if not fewest.is_known:
        return why_no_interval(fewest.texts)
    rough = f"; rough, as of all under {ROUGH_TEXTS}" if fewest.is_rough else ""
    several = sum(not one.view.is_null for one in comparison.found)
    alone = f"; each for itself, not for {several} views at once" if several > 1 else ""
    return f"intervals are over {fewest.texts:,} distinct prompts{rough}{alone}"


def _bound_note(comparison: Comparison) -> str:
    tokens = "the tokens of the rows" if comparison.fewest_tokens is None else (
        f"{comparison.fewest_tokens:,} tokens or more"
    )  # fmt: skip
    return (
        f"KL is a lower bound, over {tokens} and one bucket for all others, which hold up to "
        f"{comparison.most_outside:.2g} of base's probability"
    )


def _null_notes(comparison: Comparison) -> list[str]:
    if not comparison.nulls:
        return [NO_NULLS]
    if comparison.why_no_ratio:
        return [f"no ratio to the null views: {comparison.why_no_ratio}"]
    return [
        "null views are random adapters, not of the adapter's norm: the ratio doesn't say whether "
        "a random change of the same norm would move the model as far"
    ]


def as_json(comparison: Comparison) -> list[dict[str, Any]]:
    """The differences as JSON values; what is no finite number is null."""
    return [_view_as_json(comparison, one) for one in comparison.found]


def _view_as_json(comparison: Comparison, one: Difference) -> dict[str, Any]:
    low, high = one.interval.low, one.interval.high
    norm, ratio = comparison.norms.get(one.view.name), comparison.ratio(one)
    return {
        "view": one.view.name,
        "is_null": one.view.is_null,
        "prompts": one.prompts,
        "distinct_prompts": one.interval.texts,
        "not_finite": one.not_finite,
        f"mean_{_field(comparison)}": finite(one.mean_nats),
        "low": finite(low),
        "high": finite(high),
        "interval": _kind(one.interval),
        **(_signs_as_json(one) if comparison.is_signed else {}),
        "deviation": one.view.deviation if one.view.is_null else None,
        "update_norm": finite(norm),
        "times_null": finite(ratio),
    }


def _signs_as_json(one: Difference) -> dict[str, Any]:
    interval = one.size_interval
    return {
        "mean_abs_delta_nats": finite(one.size_nats),
        "abs_low": finite(interval.low),
        "abs_high": finite(interval.high),
        "better": finite(one.better),
        "worse": finite(one.worse),
    }


def _field(comparison: Comparison) -> str:
    if comparison.is_signed:
        return "delta_nats"
    return "kl_lower_bound" if comparison.is_bound else "kl_base_nats"


def _kind(interval: Interval) -> str:
    if not interval.is_known:
        return "none"
    return "rough" if interval.is_rough else "95 %"


def show_comparison(stream: TextIO, comparison: Comparison, *others: Table) -> None:
    """Print the tables with what has to be said beside them."""
    show(stream, *tables(comparison))
    stream.writelines(f"{note}\n" for note in notes(comparison))
    show(stream, *others)


def show(stream: TextIO, *shown: Table) -> None:
    """Print tables, in colour only on a terminal."""
    console = Console(file=stream)
    for each in shown:
        console.print(each)


def show_json(stream: TextIO, value: Any) -> None:
    """Print one JSON document."""
    stream.write(json.dumps(value, indent=2, allow_nan=False) + "\n")
    stream.flush()


@dataclass(frozen=True, slots=True)
class RunFigures:
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
        passes, hits = self.stats["forward_passes"], self.stats["cache_hits"]
        return (
            f"{passes:,} passes run, {hits:,} hits, hit rate {self.stats['hit_rate']:.1%}, "
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
