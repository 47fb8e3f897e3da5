"""Claims: the page of a sweep shows divergence by step and by strength where two of either were
compared, with the nulls' band of each line while they don't hide each other; of more views than
lines can be told apart some are drawn, and it is said of how many; each question is answered once,
and a bound that doesn't hold is seen without opening anything.
"""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from forwardcache.observe.report.diff_page import diff_page
from forwardcache.observe.report.diff_plots import MOST_LINES, drawn, short, spread
from forwardcache.observe.report.diff_sweep_plots import by_lambda, by_step
from forwardcache.statistics import Outcome
from tests.statistics.made_result import result_of, sweep_of

RUN = [f"checkpoint-{step}00" for step in range(1, 4)]


def legend(plot: str) -> set[str]:
    return set(re.findall(r"<text[^>]*>([^<]*)</text>", plot))


def test_names_of_a_sweep_are_not_cut_to_the_same_one() -> None:
    names = [
        f"scaled_0.{lam}:{run}-{step}"
        for lam in (25, 50)
        for run in ("checkpoint", "a-long-name-of-a-run/checkpoint")
        for step in (10, 1000)
    ]
    assert len({short(name) for name in names}) == len(names)
    assert short(names[1]) == names[1]
    assert max(len(short(name)) for name in names) <= 30


def test_divergence_is_drawn_by_step_and_by_strength() -> None:
    found = sweep_of(RUN, [0.5, 1.0], nulls=3)
    of_step, of_lambda = by_step(found), by_lambda(found)
    assert of_step is not None
    assert of_lambda is not None
    assert of_step[1] == of_lambda[1] == ""
    assert legend(of_step[0]) >= {"λ = 0.5", "λ = 1", "nulls of λ = 0.5", "rounding's mean"}
    assert legend(of_lambda[0]) >= {*RUN, *(f"nulls of {name}" for name in RUN)}
    page = diff_page(found)
    assert '<h2 id="sweep">By step and strength</h2>' in page
    assert page.count("<dt>Is it there at all?</dt>") == 1 + len(found.views)
    assert "of the same adapter at the same strength" in page


def test_what_was_not_swept_is_not_drawn() -> None:
    assert by_step(sweep_of(["one", "two"], [0.5, 1.0])) is None
    assert by_lambda(sweep_of(RUN, [1.0])) is None
    assert by_step(sweep_of(RUN, [1.0])) is not None
    assert "By step and strength" not in diff_page(result_of({"ft": 0.1}))


def test_of_many_views_as_many_are_drawn_as_can_be_told_apart() -> None:
    found = sweep_of([f"run-{step}" for step in range(1, 14)], [0.5, 1.0], nulls=2)
    shown = drawn(found)
    assert len(shown) == MOST_LINES
    assert (shown[0], shown[-1]) == ("ft:run-1", "ft:run-13")
    plot = by_lambda(found)
    assert plot is not None
    assert plot[1] == f"Drawn are {MOST_LINES} of 13 adapters."
    assert {one for one in legend(plot[0]) if one.startswith("nulls")} == {
        "nulls of run-1", "nulls of run-13",
    }  # fmt: skip
    page = diff_page(found)
    assert f"Plots with a line a view show {MOST_LINES} of 26 views" in page
    assert page.count("How the KL of") == MOST_LINES
    without = replace(found, views=tuple(one for one in found.views if one.lam != 1.0))
    assert drawn(without) == spread([one.view for one in without.views])


@pytest.mark.parametrize("state", ["broken", "undecided"])
def test_a_bound_that_does_not_hold_is_seen(state: str) -> None:
    found = sweep_of(RUN, [0.5, 1.0])
    bad = Outcome("max_kl", state, "ft:checkpoint-300: too far")  # type: ignore[arg-type]
    last = replace(found.views[-1], outcomes=(bad, Outcome("max_kl", "ok", "fine")))
    page = diff_page(replace(found, views=(*found.views[:-1], last)))
    assert f'<p class="{state}">Bound: ft:checkpoint-300: too far</p>' in page
    assert "Bound: fine" not in page
