"""What the rows come to: means with intervals, and the table or JSON that shows them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TextIO

import numpy as np
from rich.console import Console
from rich.table import Table

from forwardcache.cli.job import Tally
from forwardcache.cli.rows import finite
from forwardcache.cli.views import View

if TYPE_CHECKING:
    from forwardcache.hf.noise import NoiseFloor

SEED = 0
_MOST_DRAWS, _FEWEST_DRAWS = 2000, 200
_MOST_PICKS = 50_000_000


@dataclass(frozen=True, slots=True)
class Difference:
    """How far one view is from base over all prompts.

    Attributes:
        view: The view.
        prompts: Prompts with a finite value; the mean is over them.
        not_finite: Prompts without one.
        mean_nats: Mean KL(base ‖ view), or mean difference in log-probability.
        low_nats: Lower end of the 95 % bootstrap interval of the mean.
        high_nats: Upper end.
    """

    view: View
    prompts: int
    not_finite: int
    mean_nats: float
    low_nats: float
    high_nats: float


def differences(views: Sequence[View], tally: Tally) -> list[Difference]:
    """One for every view beside base, in the order of ``views``."""
    found = [(view, tally.differences.get(view.name)) for view in views]
    return [_difference(view, values) for view, values in found if values]


def _difference(view: View, values: Sequence[float | None]) -> Difference:
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    mean = float(known.mean()) if len(known) else np.nan
    low, high = bootstrap_interval(known)
    return Difference(view, len(known), len(values) - len(known), mean, low, high)


def bootstrap_interval(values: Any, *, seed: int = SEED) -> tuple[float, float]:
    """The 95 % percentile interval of the mean, from resampled prompts.

    Args:
        values: float64[n], one a prompt.
        seed: Of the resampling; the same values give the same interval.

    Returns:
        Lower and upper end; NaN for fewer than two values.
    """
    if len(values) < 2:
        return float("nan"), float("nan")
    chance = np.random.default_rng(seed)
    draws = max(_FEWEST_DRAWS, min(_MOST_DRAWS, _MOST_PICKS // len(values)))
    means = [values[chance.integers(0, len(values), len(values))].mean() for _ in range(draws)]
    low, high = np.percentile(means, [2.5, 97.5])
    return float(low), float(high)


def yardstick_nats(found: Sequence[Difference]) -> float | None:
    """The largest mean of a null view; None without one."""
    nulls = [abs(one.mean_nats) for one in found if one.view.is_null]
    return max(nulls) if nulls else None


def floor_line(floor: NoiseFloor) -> str:
    """The noise floor for a person."""
    mean, most = _digits(floor.mean_nats), _digits(floor.max_nats)
    prompts = "1 prompt" if floor.prompts == 1 else f"{floor.prompts:,} prompts"
    return (
        f"noise floor: base in other batches is {mean} nats from itself in the mean, "
        f"{most} at most ({floor.dtype}, {prompts})"
    )


def floor_as_json(floor: NoiseFloor) -> dict[str, Any]:
    """The noise floor as JSON values."""
    nats = {"mean_nats": finite(floor.mean_nats), "max_nats": finite(floor.max_nats)}
    return {"dtype": floor.dtype, "prompts": floor.prompts, **nats}


def _is_noise(one: Difference, floor: NoiseFloor | None) -> bool:
    return floor is not None and abs(one.mean_nats) <= floor.mean_nats


def table(found: Sequence[Difference], op: str, floor: NoiseFloor | None = None) -> Table:
    """The differences as a table a person reads; one within the noise floor says so."""
    yardstick = yardstick_nats(found)
    kl = op == "next_token_dist"
    what = "KL(base‖view), nats" if kl else "view - base, nats"
    shown = Table("view", "prompts", what, "95 % interval", title_justify="left")
    if yardstick:
        shown.add_column("x null")
    for column in shown.columns[1:]:
        column.justify = "right"
    for one in found:
        label, *others = _cells(one)
        label += ", within noise" if _is_noise(one, floor) else ""
        shown.add_row(label, *others, *([_times(one, yardstick)] if yardstick else []))
    return shown


def _cells(one: Difference) -> tuple[str, str, str, str]:
    label = f"{one.view.name} (noise)" if one.view.is_null else one.view.name
    # The ends of a bootstrap interval are known to no more.
    low, high = _digits(one.low_nats, 3), _digits(one.high_nats, 3)
    interval = f"{low} to {high}" if one.prompts > 1 else "-"
    count = f"{one.prompts:,}" + (f" ({one.not_finite:,} not finite)" if one.not_finite else "")
    return label, count, _digits(one.mean_nats), interval


def _digits(value: float, digits: int = 4) -> str:
    """So many significant digits, also where the last ones are zeros."""
    return f"{value:#.{digits}g}".removesuffix(".")


def _times(one: Difference, yardstick: float) -> str:
    return f"{abs(one.mean_nats) / yardstick:,.1f}"


def as_json(found: Sequence[Difference], op: str) -> list[dict[str, Any]]:
    """The differences as JSON values; what is no finite number is null."""
    yardstick = yardstick_nats(found)
    name = "kl_base_nats" if op == "next_token_dist" else "delta_nats"
    return [
        {
            "view": one.view.name,
            "is_null": one.view.is_null,
            "prompts": one.prompts,
            "not_finite": one.not_finite,
            f"mean_{name}": finite(one.mean_nats),
            "low": finite(one.low_nats),
            "high": finite(one.high_nats),
            "times_null": finite(abs(one.mean_nats) / yardstick) if yardstick else None,
        }
        for one in found
    ]


def show(stream: TextIO, *tables: Table) -> None:
    """Print tables, in colour only on a terminal."""
    console = Console(file=stream)
    for each in tables:
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
