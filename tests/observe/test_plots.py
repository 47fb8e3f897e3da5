"""Claims: a plot draws no line across a time in which nothing happened; the band of null views is
seen on a logarithmic axis however narrow it is; names are drawn letter by letter.
"""

from __future__ import annotations

import re
from typing import Any

import pytest

from forwardcache.observe.report import plots


def inlined(svg: str) -> str:
    """The plot with its styles where they are used."""
    rules = dict(re.findall(r"\.([\w-]+)\{([^}]*)\}", svg))
    return re.sub(r'class="([\w-]+)"', lambda found: f'style="{rules[found[1]]}"', svg)


@pytest.mark.parametrize(("starts", "lines"), [((0, 1, 2, 3), 1), ((0, 1, 61, 62), 2)])
def test_no_line_is_drawn_across_a_time_without_events(starts: Any, lines: int) -> None:
    bins = [{"from_s": float(start), "hit_rate": 0.5} for start in starts]
    svg = inlined(plots.hit_rate_over_time(bins))
    assert len(re.findall(r'<path d="M [^"]* L [^"]*"[^>]*stroke-width: 2[;"]', svg)) == lines


def test_a_narrow_band_of_nulls_is_seen_on_a_logarithmic_axis() -> None:
    points = [
        {"view": view, "factor": factor, "mean_nats": nats}
        for view, factor, nats in (("base", 0.0, 0.0), ("scaled_0.50", 0.5, 0.1), ("ft", 1.0, 1.0))
    ]
    band = {"least_nats": 1e-5, "most_nats": 1.0001e-5}
    svg = inlined(plots.sweep(points, band, "KL, nats"))
    assert "null views" in svg
    # As high as its edge, where 1e-5 of a linear axis is nothing.
    [place] = re.findall(r'<path d="([^"]*)"[^>]*opacity: 0.3; stroke: currentColor', svg)[:1]
    ends = [float(end) for end in re.findall(r"[ML] [\d.]+ ([\d.]+)", place)]
    [line] = re.findall(r'<path d="([^"]*)"[^>]*stroke: var\(--accent\); stroke-width: 2[;"]', svg)
    tops = [float(end) for end in re.findall(r"[ML] [\d.]+ ([\d.]+)", line)]
    # 0.1 and 1 are a decade apart, and the band lies four below.
    decade = tops[-2] - tops[-1]
    assert min(ends) - tops[-2] == pytest.approx(4 * decade, rel=0.02)


def test_names_are_drawn_letter_by_letter() -> None:
    svg = plots.distances({"$a$": [1.0, 2.0], "_b": [1.0, 2.0]}, "KL, nats")
    assert ">$a$</text>" in svg
    assert "_b</text>" in svg
