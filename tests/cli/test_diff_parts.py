"""Parts of ``diff`` by themselves.

Claims: the floor's texts are spread over the input and no two are equal; one on which the reruns
fail is left out where texts are skipped and named where not; a model that can't be rerun has no
floor, and why is told; only half precision is said to make top tokens equal; a view has no place
among nulls of which one is no number; the time is told from a comparison of some texts, and not at
all where they can't be compared; progress says what is being done and what is left.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forwardcache.cli.diff_estimate import estimate
from forwardcache.cli.diff_progress import DiffProgress
from forwardcache.cli.interrupts import Interrupts
from forwardcache.errors import ContextLengthError, InvalidInputError, UnsupportedModelError
from forwardcache.jobs.diff.measured import MeasuredFloor, measured_floor
from forwardcache.jobs.diff.notes import notes_on_floor, notes_on_nulls
from forwardcache.jobs.diff.nulls import Nulls, places
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.plan import SAMPLE, DiffPlan
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.prompts import Prompt, PromptSet
from forwardcache.jobs.views import View
from tests.statistics.made import with_kl


def plan_of(texts: Sequence[str], *, skip_first: int = 0) -> DiffPlan:
    prompts = tuple(Prompt(line, text) for line, text in enumerate(texts, start=1))
    return DiffPlan(
        source=PromptSet("texts.txt", prompts, ""),
        texts=list(texts),
        lengths=[len(text.split()) for text in texts],
        views=(View("ft"),),
        reference=View("base"),
        skip_first=skip_first,
    )


def test_the_sample_is_spread_and_has_each_text_once() -> None:
    texts = [f"text number {number // 2}" for number in range(1000)]
    sample = plan_of(texts).sample()
    assert len(sample) == SAMPLE
    assert (sample[0], sample[-1]) == (0, 998)
    assert {after - before for before, after in pairwise(sample)} == {14, 16}
    assert plan_of(texts[:10]).sample() == [0, 2, 4, 6, 8]


def test_the_sample_has_only_texts_with_a_position_that_counts() -> None:
    assert plan_of(["a b", "a b c d", "a", "a b c"], skip_first=2).sample() == [1, 3]


class Reruns:
    """A backend that can't read some texts, or be rerun at all."""

    def __init__(self, error: Exception) -> None:
        self._error = error
        self.asked: list[list[str]] = []

    def as_base(self) -> None:
        return None

    def rounding_floor(self, texts: list[str], **_: Any) -> Any:
        self.asked.append(list(texts))
        if isinstance(self._error, UnsupportedModelError) or "bad text" in texts:
            self._error.index = texts.index("bad text")  # type: ignore[attr-defined]
            raise self._error
        return "floor"


TEXTS = ["one text", "bad text", "third text"]


def test_a_text_that_cannot_be_rerun_is_left_out_or_named() -> None:
    backend = Reruns(ContextLengthError("too long"))
    with pytest.raises(InvalidInputError, match=r"texts\.txt line 2: too long"):
        measured_floor(backend, plan_of(TEXTS))
    found = measured_floor(backend, replace(plan_of(TEXTS), on_error="skip"))
    assert str(found.floor) == "floor"
    assert list(found.positions) == [0, 2]
    assert backend.asked[-1] == ["one text", "third text"]


def test_a_model_that_cannot_be_rerun_has_no_floor() -> None:
    found = measured_floor(Reruns(UnsupportedModelError("no blocks")), plan_of(TEXTS))
    assert (found.floor, found.why_none) == (None, "no blocks")


def test_only_half_precision_is_said_to_make_tops_equal() -> None:
    floor = MeasuredFloor(None, [])
    said = {name: notes_on_floor(floor, name) for name in ("bfloat16", "float16", "float32")}
    assert list(map(len, said.values())) == [1, 1, 0]
    assert notes_on_floor(floor, "float64") == []


@pytest.mark.parametrize("groups", [None, ["a", "a", "b"]])
def test_a_null_without_a_number_leaves_a_view_without_a_place(groups: list[str] | None) -> None:
    plan = replace(plan_of(TEXTS), views=(View("ft"), View("scaled", lam=0.5)), groups=groups)
    good, bad = with_kl([[1e-3, 2e-3]] * 3), with_kl([[np.nan] * 2] * 3)
    means, none = good.means_by_text(good.kl), bad.means_by_text(bad.kl)
    nulls = Nulls({(None, 1.0): {"null_0": means, "null_1": none}, (None, 0.5): {"null_0": means}})
    found = places(plan, nulls, {"ft": good, "scaled_0.50": good}, groups, None)
    assert list(found) == ["scaled_0.50"]
    first, *_ = notes_on_nulls(plan, nulls, found)
    assert first.startswith("ft has no place among nulls")
    assert notes_on_nulls(replace(plan, views=plan.views[:1]), nulls, {}) == [first]


@pytest.mark.parametrize("error", [None, ContextLengthError("too long")])
def test_the_time_is_that_of_comparing(
    error: Exception | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(["a " * 300, *["b " * 20] * 20, "c " * 250])
    clock = [0.0]
    asked: list[list[int]] = []

    def differences(_: Any, plan: DiffPlan, views: Any, at: list[int]) -> dict[str, list[Any]]:
        asked.append(at)
        clock[0] += 2 * 0.5 * sum(plan.lengths[each] for each in at)
        return {view.name: [error] * len(at) for view in views}

    monkeypatch.setattr("forwardcache.jobs.diff.compared.differences", differences)
    fake = SimpleNamespace(perf_counter=lambda: clock[0])
    monkeypatch.setattr("forwardcache.cli.diff_estimate.time", fake)
    options = DiffOptions(loading=ModelOptions(model="model"), texts="texts.txt", nulls=0)
    backend = SimpleNamespace(_scorer=SimpleNamespace(adapters=None))
    found = estimate(SimpleNamespace(backend=backend), plan, options)  # type: ignore[arg-type]
    assert found.seconds == (None if error else pytest.approx(0.5 * found.tokens))
    # The longest, and of those that are spread over the rest all that there is room for.
    assert asked == [[0, *range(2, 21, 2)]] * 2


def test_progress_says_what_is_done_and_what_is_left() -> None:
    progress = DiffProgress(100, Interrupts())
    seen: list[str] = []
    progress.changed = lambda: seen.append(progress.told())
    progress.begin("comparing views")
    progress.advance(25)
    progress.begin("comparing nulls")
    progress.advance(200)
    assert seen[0] == "0%, comparing views"
    assert seen[1].startswith("25%, comparing views, 0:00:0")
    assert seen[2].startswith("25%, comparing nulls")
    assert seen[3] == "100%, comparing nulls, 0:00:00 left"
