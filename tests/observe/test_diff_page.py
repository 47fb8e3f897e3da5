"""Claims: the page of ``diff`` carries the very JSON of the command, and shows its numbers;
whatever a user wrote is text on it; what a logarithmic axis can't show is said; results without
floor, nulls, groups or positions that moved have a page too; a page of ten views keeps below a
megabyte, with fewer of the moved positions, and of a great many groups the farthest.

In a browser: ``tests/cli/test_diff_page_browser.py``.
"""

from __future__ import annotations

import json
import re
import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from forwardcache.observe.report import diff_page as module
from forwardcache.observe.report.diff_page import diff_page
from forwardcache.observe.report.diff_tables import MOST_GROUPS
from forwardcache.statistics import (
    Bounds,
    DiffResult,
    MovedPosition,
    TopToken,
    judge,
    summaries,
)
from tests.observe.test_plots import inlined
from tests.statistics.made import same_texts
from tests.statistics.made_result import result_of

HOSTILE = "</script><script>alert(1)</script><img src='http://example.org/x'>$x$ \u202e \ud83e"


def moved_by(
    view: str, number: int, *, texts: tuple[str, ...] = (" a", "\n", " <b>")
) -> MovedPosition:
    context = tuple(texts[at % len(texts)] for at in range(33))
    tops = tuple(TopToken(texts[at % len(texts)], 0.5 / (at + 1)) for at in range(5))
    return MovedPosition(
        id=f"{view} {number}",
        line=number + 1,
        place=24,
        kl=10.0 / (number + 1),
        context=context,
        context_kl=(None, *np.geomspace(1e-6, 1.0, 32).tolist()),
        at=24,
        reference_top=tops,
        view_top=tops[::-1],
    )


def whole(result: DiffResult, *, most: int = 3, **words: Any) -> DiffResult:
    """A result with all that a run may add: nulls' means, moved positions, bounds, facts."""
    views = tuple(
        replace(
            one,
            null_means={f"null_{seed}_matched": 1e-3 * (1 + seed / 10) for seed in range(3)},
            moved=tuple(moved_by(one.view, number, **words) for number in range(most)),
            outcomes=tuple(judge(one.view, one.summary.figures, Bounds(max_kl=1e-9))),
            visible_from_lambda=0.07,
            detect_least=2.0**-10,
        )
        for one in result.views
    )
    facts = {"command": ["forwardcache", "diff"], "model": {"digest": "abc"}, "dtype": "float32"}
    return replace(result, views=views, facts=facts, notes=("A note.",), skipped=2)


def carried(page: str) -> Any:
    found = re.search(r'<script type="application/json" id="result">(.*?)</script>', page, re.S)
    assert found is not None
    return json.loads(found[1])


@pytest.fixture(scope="module")
def result() -> DiffResult:
    kl = {"ft": 3e-3, "scaled_0.50": 1e-3}
    return whole(result_of(kl, floor=1e-6, nulls=20, groups=3))


def test_it_carries_the_commands_json(result: DiffResult) -> None:
    page = diff_page(result)
    assert carried(page) == json.loads(json.dumps(result.as_json()))
    assert "ft is distinguishable from floating-point rounding" in page
    for fact in ("float32", "model digest", "abc", "forwardcache, diff"):
        assert fact in page
    assert "A note." in page
    assert "--max-kl 1e-09" in page


def test_what_users_wrote_is_text() -> None:
    made = result_of({HOSTILE: 3e-3}, floor=1e-6, nulls=2, groups=2)
    made = replace(made, reference=HOSTILE, group_by=HOSTILE, notes=(HOSTILE,))
    made = whole(made, texts=(HOSTILE,))
    groups = {HOSTILE: next(iter(made.views[0].summary.groups.values()))}
    [view] = made.views
    moved = replace(view.moved[0], id=HOSTILE)
    view = replace(view, summary=replace(view.summary, groups=groups), moved=(moved,))
    page = diff_page(replace(made, views=(view,), facts={HOSTILE: HOSTILE, "list": [HOSTILE]}))
    page.encode("utf-8")
    assert "\u202e" not in page
    assert "<img" not in page
    assert page.count("<script") == page.count("</script") == 2
    assert carried(page)["reference"] == HOSTILE
    assert "\\ud83e" in page
    # A dollar sign begins no formula in a plot.
    assert "$x$" in "".join(re.findall(r"<svg.*?</svg>", page, re.S))


def test_nothing_but_a_view_makes_a_page_too() -> None:
    page = diff_page(result_of({"ft": 1e-3}))
    assert "Not measured." in page
    assert "ft: none are known." in page
    assert "Nothing was recorded." in page
    assert "null" not in page.partition("<script")[0].partition("Figures by view")[2]


@pytest.mark.parametrize("kl", [0.0, -1e-12, np.inf])
def test_what_a_logarithmic_axis_cant_show_is_said(kl: float) -> None:
    made = result_of({"ft": 1e-3}, texts=20)
    [view] = made.views
    positions = same_texts(view.positions, np.full(len(view.positions), kl))
    found = summaries({"ft": positions})["ft"]
    page = diff_page(replace(made, views=(replace(view, positions=positions, summary=found),)))
    words = "of infinite KL" if kl > 0.0 else "at 0 or, by rounding, below"
    assert f"Not drawn: positions {words} (100.00%)." in page


def test_the_null_band_and_the_floor_are_drawn(result: DiffResult) -> None:
    page = diff_page(result)
    assert page.count(">means of 3 matched nulls</text>") == 2
    assert page.count(">floor: mean of rounding</text>") == 2


def test_the_floor_is_in_sight_however_far_below() -> None:
    page = diff_page(result_of({"ft": 5.0}, floor=1e-15))
    [plot] = re.findall(r'<svg role="img" aria-labelledby="kl0-title.*?</svg>', page, re.DOTALL)
    upright = r'<path d="M ([-\d.]+) [\d.]+ L \1 [^"]*" clip-path="[^>]*dasharray'
    places = [float(place) for place in re.findall(upright, inlined(plot))]
    assert len(places) == 2
    assert all(30.0 < place < 390.0 for place in places)


def test_a_page_of_ten_views_is_small(monkeypatch: pytest.MonkeyPatch) -> None:
    kl = {f"scaled_{number}.50": 1e-3 * (number + 1) for number in range(10)}
    made = whole(result_of(kl, texts=60, floor=1e-6, nulls=20, groups=4), most=50)
    page = diff_page(made)
    assert len(page.encode()) < 1e6
    assert page.count("<li><p>KL") == 500
    # Where a million bytes are too few, fewer of these are shown.
    monkeypatch.setattr(module, "MOST_BYTES", 700_000)
    fewer = diff_page(made)
    shown = fewer.count("<li><p>KL")
    assert 50 <= shown < 500
    assert f": the {shown // 10} most moved positions" in fewer
    assert carried(fewer) == carried(page)


def test_of_many_groups_the_farthest_are_shown() -> None:
    made = result_of({"ft": 3e-3}, texts=100, groups=100)
    page = diff_page(made)
    shown = carried(page)["views"]["ft"]["groups"]
    means = {group: one.kl.mean for group, one in made.views[0].summary.groups.items()}
    farthest = sorted(means, key=lambda group: -means[group])[:MOST_GROUPS]
    assert set(shown) == set(farthest)
    assert "50 more are in the JSON of the command" in page


def test_of_many_groups_the_one_of_infinite_kl_is_farthest() -> None:
    made = result_of({"ft": 3e-3}, texts=100)
    [view] = made.views
    endless = view.positions.item == 77
    positions = same_texts(view.positions, np.where(endless, np.inf, view.positions.kl))
    groups = [f"style {number}" for number in range(100)]
    found = summaries({"ft": positions}, groups=groups)["ft"]
    page = diff_page(replace(made, views=(replace(view, positions=positions, summary=found),)))
    shown = carried(page)["views"]["ft"]["groups"]
    assert "style 77" in shown
    assert shown["style 77"]["kl"]["mean"] is None


def test_an_infinite_null_leaves_the_band_of_the_others() -> None:
    made = whole(result_of({"ft": 3e-3}, floor=1e-6))
    [view] = made.views
    means = {**view.null_means, "null_9_matched": np.inf}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = diff_page(replace(made, views=(replace(view, null_means=means),)))
    assert ">means of 4 matched nulls</text>" in page


def test_a_p_that_was_not_adjusted_is_not_shown(result: DiffResult) -> None:
    text, _, _ = diff_page(result).partition('<script type="application/json"')
    nulls = result.views[0].nulls
    assert nulls is not None
    assert nulls.p < nulls.p_adjusted
    assert f">{nulls.p_adjusted:.4g}<" in text
    assert f">{nulls.p:.4g}<" not in text
