"""Measures what a large comparison takes after its forwards: ``python -m benches.diff_page``.

The questions: how long do the figures of ten views of a million positions take (percentiles, and
intervals by resampling texts), how long their page, how large is it, and how much memory do
positions, figures and page take together?
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np

from benches.coverage import positions
from benches.machine import description
from benches.sections import publish, verdict
from forwardcache.observe.report.diff_page import diff_page
from forwardcache.statistics import (
    DiffResult,
    Floor,
    MovedPosition,
    Positions,
    TopToken,
    ViewDifference,
    adjusted,
    against_floor,
    against_nulls,
    summaries,
)

TITLE = "## Figures and page of a large comparison"
_TEXTS_OF_FLOOR = 64
_WORDS = ("the", "quick", "brown", "fox", "jumps", "over", "a", "lazy", "dog", "internationally")


def drawn(chance: np.random.Generator, size: int, texts: int, mean: float) -> Positions:
    text = np.sort(chance.integers(0, texts, size))
    kl = mean * chance.lognormal(-0.5, 1.0, size)
    return positions(text, kl, logprob=-1.0 + kl, texts=texts)


def moved(chance: np.random.Generator, view: Positions) -> tuple[MovedPosition, ...]:
    """Fifty positions in contexts of 33 words, half of whose KL a page colours."""
    levels = np.quantile(view.kl, [0.1, 0.3, 0.5, 0.6, 0.7, 0.8, 0.92, 0.97, 0.995, 1.0])
    words = [f" {word}" for word in chance.choice(_WORDS, (50, 33)).ravel()]
    tops = tuple(TopToken(f" {word}", 0.5 / at) for at, word in enumerate(_WORDS[:5], start=1))
    return tuple(
        MovedPosition(
            id=f"text {number}", line=number + 1, place=24, kl=float(view.kl.max()) / (number + 1),
            context=tuple(words[33 * number : 33 * (number + 1)]),
            context_kl=tuple(chance.choice(levels, 33).tolist()),
            at=24, reference_top=tops, view_top=tops[::-1],
        )
        for number in range(50)
    )  # fmt: skip


def result_of(views: dict[str, Positions], groups: list[str]) -> DiffResult:
    """What a run makes of its positions: summaries, verdicts against a floor and twenty nulls."""
    chance = np.random.default_rng(1)
    found = summaries(views, groups=groups)
    first = {
        view: one.of_items(np.arange(len(groups)) < _TEXTS_OF_FLOOR) for view, one in views.items()
    }
    size = len(next(iter(first.values())))
    reruns = [drawn(chance, size, _TEXTS_OF_FLOOR, 1e-6) for _ in range(4)]
    floor = Floor.of(reruns)
    nulls = [drawn(chance, size, _TEXTS_OF_FLOOR, 5e-4) for _ in range(20)]
    placed = adjusted({view: against_nulls(one, nulls, floor=floor) for view, one in first.items()})
    means = {f"null_{seed}_matched": float(one.kl.mean()) for seed, one in enumerate(nulls)}
    made = [
        ViewDifference(
            view=view, positions=one, summary=found[view], floor=against_floor(one, floor),
            nulls=placed[view], null_means=means,
        )
        for view, one in views.items()
    ]  # fmt: skip
    return DiffResult(
        reference="base", texts=len(groups), positions=len(made[0].positions), views=tuple(made),
        floor=floor, floor_texts=_TEXTS_OF_FLOOR, group_by="style",
    )  # fmt: skip


def measured(views: int, size: int, texts: int) -> dict[str, float]:
    """Processor seconds of both, the page's bytes, and the most memory of this process."""
    chance = np.random.default_rng(0)
    made = {
        f"scaled_{view / 10:.2f}": drawn(chance, size, texts, 1e-3 * (view + 1))
        for view in range(views)
    }
    began = time.process_time()
    result = result_of(made, [f"style {text % 4}" for text in range(texts)])
    figures_s = time.process_time() - began
    each = [replace(one, moved=moved(chance, one.positions)) for one in result.views]
    began = time.process_time()
    page = diff_page(replace(result, views=tuple(each)))
    return {
        "figures_s": figures_s,
        "page_s": time.process_time() - began,
        "page_bytes": len(page.encode()),
        "shown": page.count("<li><p>KL"),
        "peak_bytes": 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss,
    }


def in_a_process(views: int, size: int, texts: int) -> dict[str, float]:
    """``measured`` in a process of its own, since the most memory of one is its life's."""
    asked = f"print(json.dumps(measured({views}, {size}, {texts})))"
    code = f"import json; from benches.diff_page import measured; {asked}"
    # A second thread of the linear algebra waits busily, which counts as its time.
    one = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, **one},
    )
    found: dict[str, float] = json.loads(run.stdout)
    return found


def section(views: int = 10, size: int = 10**6) -> str:
    how = (
        f"- How: {views} views of {size:,} positions, four groups, a floor of four reruns and 20 "
        f"nulls on {_TEXTS_OF_FLOOR} texts, 50 moved positions a view; processor time of a process "
        "of one thread, and the most memory that it held, with its libraries and the positions."
    )
    lines = [
        TITLE,
        "",
        *description("benches.diff_page", ["numpy", "scipy", "matplotlib"]),
        how,
        "",
    ]
    lines += ["| figure | asked | measured | |", "|---|---|---|---|"]
    for texts in (1_000, 100_000):
        found = in_a_process(views, size, texts)
        total = found["figures_s"] + found["page_s"]
        memory, page = found["peak_bytes"] / 1e6, found["page_bytes"] / 1e6
        words = f"{texts:,} texts"
        lines += [
            f"| figures and page, {words}: s | under 20, aim 8 | {total:.1f} (figures "
            f"{found['figures_s']:.1f}, page {found['page_s']:.1f}) | {verdict(total <= 20.0)}"
            f"{', aim missed' if total > 8.0 else ''} |",
            f"| most memory, {words}: MB | under 1,000 | {memory:,.0f} | "
            f"{verdict(memory <= 1000)} |",
            f"| the page, {words}: MB | under 1 | {page:.2f}, with {found['shown']:.0f} of "
            f"{50 * views} moved positions | {verdict(page <= 1.0)} |",
        ]
    return "\n".join([*lines, ""])


if __name__ == "__main__":
    publish(section, __doc__, views=10, size=10**6)
