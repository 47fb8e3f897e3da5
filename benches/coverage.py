"""Measures how sure one may be of what is said: ``python -m benches.coverage``.

The questions, in experiments whose truth is known: how often does an interval hold it, where texts
differ in length and level and some stand several times? How often is mere rounding called
distinguishable, and how often is a mean seen of which it is said that it would have been? Are
p-values of true nulls uniform, and does Holm keep the chance of any false one? And what does it
take of time?
"""

from __future__ import annotations

import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benches.machine import description
from benches.sections import publish, verdict
from forwardcache.statistics import (
    Positions,
    Totals,
    adjusted,
    against_floor,
    among_nulls,
    intervals,
    share_intervals,
    summaries,
)
from forwardcache.statistics.floor import Floor

TITLE = "## Statistics: how often intervals hold the truth"
TEXTS = (20, 50, 100, 300, 1000)
SIGMAS = (0.3, 0.7, 1.0, 1.5)
SHARES = (0.002, 0.01, 0.05, 0.3)
_AT_ONCE = 250
_LONGEST = 60

Array = NDArray[np.float64]


def copies(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    """A fifth of the texts stand two to five times."""
    more: Array = np.where(chance.random(shape) < 0.2, chance.integers(1, 5, shape), 0)
    return 1.0 + more


def lengths(chance: np.random.Generator, shape: tuple[int, int]) -> Array:
    return chance.integers(10, _LONGEST, shape).astype(np.float64)


def skewed(
    chance: np.random.Generator, texts: int, experiments: int, sigma: float
) -> tuple[list[Totals], float]:
    """Lognormal divergences: texts differ by ``sigma``, positions of one text by 0.5."""
    shape = texts, experiments
    length, often = lengths(chance, shape), copies(chance, shape)
    sums = np.zeros(shape)
    for at in range(_LONGEST):
        sums += np.where(at < length, chance.lognormal(-0.125, 0.5, shape), 0.0)
    sums *= chance.lognormal(0.0, sigma, shape) * often
    return totals(sums, length * often), float(np.exp(sigma**2 / 2))


def shares(
    chance: np.random.Generator, texts: int, experiments: int, share: float
) -> tuple[list[Totals], float]:
    """Positions that disagree: each text has a rate of its own, from a beta law of 1/(1+20)."""
    shape = texts, experiments
    length, often = lengths(chance, shape), copies(chance, shape)
    rate = chance.beta(share * 20, (1 - share) * 20, shape)
    found = chance.binomial(length.astype(np.int64), rate)
    return totals(found * often, length * often), share


def totals(sums: Array, counts: Array) -> list[Totals]:
    return [
        Totals(np.ascontiguousarray(total), np.ascontiguousarray(count))
        for total, count in zip(sums.T, counts.T, strict=True)
    ]


def coverage(kind: str, texts: int, parameter: float, experiments: int, seed: int) -> Array:
    """Shares of the experiments whose interval holds the truth, is below it, is above it."""
    chance = np.random.default_rng([seed, texts, int(parameter * 1000)])
    make, find = (skewed, intervals) if kind == "skewed" else (shares, share_intervals)
    held = below = above = 0
    for start in range(0, experiments, _AT_ONCE):
        figures, truth = make(chance, texts, min(_AT_ONCE, experiments - start), parameter)
        found = find(figures, seed=seed + start)
        below += sum(one.high < truth for one in found)
        above += sum(one.low > truth for one in found)
        held += sum(one.low <= truth <= one.high for one in found)
    return np.array([held, below, above]) / experiments


def rounding(
    chance: np.random.Generator, texts: int, effect: float, length: int = 30
) -> tuple[Positions, Floor]:
    """A view that is rounding and ``effect`` (in means of the floor), and a floor of four pairs."""
    level = chance.lognormal(-0.125, 0.5, texts)
    reruns = [noise(chance, level, length, 0.0) for _ in range(4)]
    return noise(chance, level, length, effect), Floor.of(reruns)


def noise(chance: np.random.Generator, level: Array, length: int, effect: float) -> Positions:
    """Positions whose KL is 1e-6 of rounding on average, texts apart by ``level``."""
    n = len(level) * length
    kl = np.repeat(level, length) * chance.lognormal(-0.5, 1.0, n)
    kl += effect * np.repeat(chance.lognormal(-0.245, 0.7, len(level)), length)
    text, zeros = np.repeat(np.arange(len(level)), length), np.zeros(n)
    return positions(text, kl * 1e-6, logprob=zeros - 1.0 + kl * 1e-6, texts=len(level))


def positions(text: NDArray[np.intp], kl: Array, *, logprob: Array, texts: int) -> Positions:
    n = len(text)
    place = np.arange(n) - np.searchsorted(text, text) + 1
    return Positions(
        names=range(texts), text=text, item=text, place=place, kl=kl, kl_reverse=kl, js=kl / 4,
        logprob_reference=np.full(n, -1.0, np.float32), logprob=logprob.astype(np.float32),
        entropy_reference=np.random.default_rng(0).exponential(2.0, n).astype(np.float32),
        same_top=kl < np.median(kl) * 20,
        top_k_agreement=np.ones(n, np.float32),
    )  # fmt: skip


def floor_rates(experiments: int, seed: int, texts: int = 64) -> tuple[float, float]:
    """How often rounding is called distinguishable, and a mean of ``would_have_seen`` is."""
    chance = np.random.default_rng([seed, texts])
    false = seen = asked = 0
    for number in range(experiments):
        verdict_of_noise = against_floor(*rounding(chance, texts, 0.0), seed=number)
        false += bool(verdict_of_noise.distinguishable)
        if verdict_of_noise.would_have_seen is None:
            continue
        asked += 1
        effect = (verdict_of_noise.would_have_seen - verdict_of_noise.mean) / 1e-6
        seen += bool(against_floor(*rounding(chance, texts, effect), seed=number).distinguishable)
    return false / experiments, seen / max(asked, 1)


def null_ranks(experiments: int, nulls: int, seed: int) -> NDArray[np.intp]:
    """Ranks of views that are nulls themselves."""
    chance = np.random.default_rng([seed, nulls])
    figures = chance.lognormal(0.0, 0.7, (experiments, nulls + 1))
    return np.array([among_nulls(row[0], row[1:]).rank for row in figures], dtype=np.intp)


def uniformity(ranks: NDArray[np.intp], nulls: int) -> float:
    """The p of a chi-square test of p-values of nulls against 1/(n+1) ... 1."""
    return float(stats.chisquare(np.bincount(ranks - 1, minlength=nulls + 1)).pvalue)


def family_error(experiments: int, views: int, nulls: int, seed: int) -> float:
    """How often one of several views that are nulls is called significant."""
    chance = np.random.default_rng([seed, views, nulls])
    false = 0
    for _ in range(experiments):
        # All are held against the same nulls, so that they depend on each other.
        of_nulls = chance.lognormal(0.0, 0.7, nulls)
        found = {view: among_nulls(chance.lognormal(0.0, 0.7), of_nulls) for view in range(views)}
        false += any(one.is_significant for one in adjusted(found).values())
    return false / experiments


def seconds(views: int, size: int, texts: int) -> tuple[float, float]:
    """Processor and wall time of the summaries of ``views`` of ``size`` positions each."""
    chance = np.random.default_rng(0)
    text = np.sort(chance.integers(0, texts, size))
    made = {}
    for view in range(views):
        kl = chance.lognormal(-6.0, 1.0, size)
        made[f"{view}"] = positions(text, kl, logprob=-1.0 + kl, texts=texts)
    began, began_cpu = time.perf_counter(), time.process_time()
    summaries(made)
    return time.process_time() - began_cpu, time.perf_counter() - began


# Markdown


def coverage_lines(kind: str, words: str, parameters: tuple[float, ...], experiments: int,
                   seed: int) -> Iterator[str]:  # fmt: skip
    yield f"| {words} | {' | '.join(f'{texts:,} texts' for texts in TEXTS)} |"
    yield "|---" * (len(TEXTS) + 1) + "|"
    for parameter in parameters:
        found = [coverage(kind, texts, parameter, experiments, seed) for texts in TEXTS]
        cells = [f"{held:.1%} ({below:.1%}, {above:.1%})" for held, below, above in found]
        yield f"| {parameter:g} | {' | '.join(cells)} |"
        if kind == "skewed" and parameter <= 0.7:
            asked = [0.93 <= one[0] <= 0.97 if texts >= 300 else one[0] >= 0.88
                     for one, texts in zip(found, TEXTS, strict=True)]  # fmt: skip
            yield f"| asked | {' | '.join(map(verdict, asked))} |"
    yield ""


def test_lines(experiments: int, seed: int) -> Iterator[str]:
    false, seen = floor_rates(experiments, seed)
    yield "| figure | asked | measured | |"
    yield "|---|---|---|---|"
    yield (f"| rounding alone is called distinguishable, 64 texts | at most 4 % | {false:.1%} | "
           f"{verdict(false <= 0.04)} |")  # fmt: skip
    yield (f"| a mean of `would_have_seen` is called distinguishable | at least 75 % | {seen:.1%} "
           f"| {verdict(seen >= 0.75)} |")  # fmt: skip
    for nulls in (10, 20):
        p = uniformity(null_ranks(10 * experiments, nulls, seed), nulls)
        yield (f"| p-values of true nulls are uniform, {nulls} nulls: chi-square's p | above 0.001 "
               f"| {p:.3f} | {verdict(p > 0.001)} |")  # fmt: skip
    for views, nulls in ((1, 19), (3, 59), (5, 120)):
        error = family_error(experiments, views, nulls, seed)
        yield (f"| any of {views} null views is called significant, {nulls} nulls | at most 5 % + "
               f"3 deviations | {error:.1%} | "
               f"{verdict(error <= 0.05 + 3 * (0.05 * 0.95 / experiments) ** 0.5)} |")  # fmt: skip
    for texts in (1_000, 100_000):
        cpu, wall = seconds(10, 10**6, texts)
        yield (f"| 10 views of 1,000,000 positions in {texts:,} texts | under 10 s of one core | "
               f"{cpu:.1f} s (wall {wall:.1f} s) | {verdict(cpu < 10.0)} |")  # fmt: skip
    yield ""


def section(experiments: int = 2000, seed: int = 0) -> str:
    how = (
        f"- How: {experiments:,} experiments a cell. Texts of 10 to 59 positions, a fifth of them "
        "standing two to five times; in brackets: intervals below the truth, above it."
    )
    lines = [TITLE, "", *description("benches.coverage", ["numpy", "scipy"]), how, ""]
    lines += ["Mean divergence, lognormal; 95 % intervals:", ""]
    lines += coverage_lines("skewed", "deviation of the log between texts", SIGMAS,
                            experiments, seed)  # fmt: skip
    lines += ["Share of positions that disagree, texts of different rates; 95 % intervals:", ""]
    lines += coverage_lines("shares", "share", SHARES, experiments, seed)
    lines += test_lines(experiments, seed)
    return "\n".join(lines)


if __name__ == "__main__":
    publish(section, __doc__, experiments=2000, seed=0)
