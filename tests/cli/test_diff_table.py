"""Claims: the table's figures are those of JSON; it can be read in 80 columns and fewer; what
wasn't asked is said to be not measured; notes tell what intervals, p and nulls are.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from forwardcache.cli.diff_table import MOST_GROUPS, notes, show_diff
from forwardcache.statistics import (
    DiffResult,
    Floor,
    Interval,
    adjusted,
    against_floor,
    verdict_sentences,
)
from tests.statistics.made import with_kl
from tests.statistics.made_result import result_of

WIDTH = 80


@pytest.fixture(autouse=True)
def _a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def shown(result: DiffResult) -> str:
    stream = io.StringIO()
    show_diff(stream, result)
    return stream.getvalue()


def lines_of(result: DiffResult) -> dict[str, list[str]]:
    """By first cell of a line of the tables, without its indent: the cells behind it.

    Of an interval the first cell is that of the line above with ``interval`` behind it.
    """
    found: dict[str, list[str]] = {}
    above = ""
    for line in shown(result).splitlines():
        if not line.startswith(("│", "┃")):
            continue
        label, *cells = (cell.strip() for cell in re.split("[│┃]", line)[1:-1])
        if label.startswith("95 % interval"):
            label = f"{above} interval"
        found.setdefault(label, []).extend(cells)
        above = label
    return found


def all_asked() -> DiffResult:
    found = result_of({"ft": 0.3, "scaled_0.50": 2e-3}, floor=1e-8, nulls=40, groups=3)
    views = tuple(
        replace(one, visible_from_lambda=0.07, detect_least=2**-10) for one in found.views
    )
    return replace(found, views=views)


def test_the_figures_are_those_of_json() -> None:
    found = all_asked()
    lines, told = lines_of(found), found.as_json()["views"]
    for at, view in enumerate(("ft", "scaled_0.50")):
        of_view = told[view]
        assert lines["compared with base"][at] == view
        for label, field in (("mean KL, nats", "mean"), ("median KL", "median"),
                             ("99th percentile of KL", "p99"), ("largest KL", "max")):  # fmt: skip
            assert float(lines[label][at]) == pytest.approx(of_view["kl"][field], rel=1e-3)
        ends = [float(end) for end in lines["mean KL, nats interval"][at].split(" to ")]
        assert ends == pytest.approx(of_view["kl"]["interval"], rel=1e-2)
        assert lines["same top token"][at] == f"{of_view['same_top']:.2%}"
        low, high = of_view["same_top_interval"]
        assert lines["same top token interval"][at] == f"{low:.2%} to {high:.2%}"
        ratio = float(lines["perplexity ratio"][at])
        assert ratio - 1 == pytest.approx(of_view["ppl_ratio"] - 1, rel=1e-2)
        ends = [float(end) for end in lines["perplexity ratio interval"][at].split(" to ")]
        assert ends == pytest.approx(of_view["ppl_ratio_interval"], rel=1e-3)
        assert float(lines["rounding's mean KL"][at]) == pytest.approx(
            of_view["floor"]["mean"], rel=1e-2
        )
        assert float(lines["times their mean KL"][at]) == pytest.approx(
            of_view["nulls"]["ratio_to_mean"], rel=1e-2
        )
        assert float(lines["p, Holm over 2"][at]) == pytest.approx(
            of_view["nulls"]["p_adjusted"], rel=1e-1
        )
        assert lines["rounding's same top"][at] == f"{of_view['floor']['same_top']:.2%}"
    assert lines["told from rounding?"] == ["yes", "yes"]
    assert lines["place among nulls"] == ["first of 41", "first of 41"]
    assert lines["visible from λ"] == ["0.07", "0.07"]


def test_what_was_not_asked_is_not_measured() -> None:
    lines = lines_of(result_of({"ft": 0.3}))
    for label in ("told from rounding?", "place among nulls", "visible from λ"):
        assert lines[label] == ["not measured"]
    assert not {"rounding's mean KL", "times their mean KL", "would be seen above"} & lines.keys()


def test_one_below_rounding_says_what_would_have_been_seen() -> None:
    found = result_of({"ft": 1e-8, "strong": 0.3}, floor=1e-7)
    lines = lines_of(found)
    assert lines["told from rounding?"] == ["no", "yes"]
    floor = found.views[0].floor
    assert floor is not None
    assert floor.would_have_seen is not None
    seen = float(lines["would be seen above"][0])
    assert seen == pytest.approx(floor.would_have_seen, rel=1e-2)
    assert "unchanged" not in shown(found)


def test_few_texts_have_no_interval_and_no_verdict() -> None:
    found = result_of({"ft": 0.3}, texts=12, floor=1e-8)
    lines = lines_of(found)
    assert lines["mean KL, nats interval"] == ["-"]
    assert lines["told from rounding?"] == ["not judged"]
    assert "No intervals: that takes 20 distinct texts, and there are 12." in notes(found)


def test_few_texts_have_no_place_among_nulls() -> None:
    found = result_of({"ft": 0.3}, texts=19, floor=1e-8, nulls=20)
    lines = lines_of(found)
    assert (lines["place among nulls"], lines["p, Holm over 1"]) == (["not judged"], ["-"])
    assert not re.search("significant|first of 21", shown(found))
    nulls = found.as_json()["views"]["ft"]["nulls"]
    assert (nulls["significant"], nulls["p"], nulls["p_adjusted"]) == (False, None, None)
    assert nulls["texts"] == 19


def test_groups_of_few_texts_are_not_judged_and_the_notes_say_so() -> None:
    found = result_of({"ft": 0.3}, texts=19 + 3 * 21, floor=1e-8, nulls=40, groups=2)
    (one,) = found.views
    assert one.nulls is not None
    figures = one.summary.groups["style 0"]
    few = replace(
        figures, texts=19, kl=replace(figures.kl, interval=Interval(math.nan, math.nan, 19))
    )
    groups = {"few": few, "style 0": figures, "style 1": one.summary.groups["style 1"]}
    one = replace(
        one,
        summary=replace(one.summary, groups=groups),
        group_nulls={"few": replace(one.nulls, texts=19), "style 0": one.nulls},
    )
    shown_now = lines_of(replace(found, views=(one,)))
    assert shown_now["few"][2] == "not judged"
    assert shown_now["style 0"][2] == "first of 41,"
    said = notes(replace(found, views=(one,)))
    assert (
        "1 of 3 groups have fewer than 20 distinct texts: they have no interval, and no place "
        "among nulls."
    ) in said
    assert "A group's interval is for itself, not for all groups at once." in said
    assert not any("groups" in note for note in notes(result_of({"ft": 0.3})))


def test_intervals_of_under_100_texts_are_rough() -> None:
    rough, whole = result_of({"ft": 0.3}, texts=99), result_of({"ft": 0.3, "b": 0.1}, texts=100)
    assert "95 % interval, rough" in shown(rough)
    assert "Intervals are over 99 distinct texts; rough, as of all under 100." in notes(rough)
    assert "rough" not in shown(whole)
    assert "Intervals are over 100 distinct texts." in notes(whole)
    alone = "Each interval is for itself, not for 2 views at once."
    assert (alone in notes(whole), alone in notes(rough)) == (True, False)


def test_of_too_few_nulls_only_the_place_is_told() -> None:
    found = result_of({"ft": 0.3}, floor=1e-8, nulls=10)
    lines = lines_of(found)
    assert (lines["place among nulls"], lines["p, Holm over 1"]) == (["first of 11"], ["-"])
    assert any("too few for a p of 0.05 over 1 comparison" in note for note in notes(found))
    assert not re.search(r"p = |significant", shown(found))


def test_the_notes_say_over_how_many_p_is_and_what_nulls_are() -> None:
    found = all_asked()
    assert (
        "Nulls are 40 random adapters of the view's weight norm; first is farthest; p is after "
        "Holm over 2 comparisons, and can't be below 0.049."
    ) in notes(found)
    assert "Rounding and nulls were measured on 30 texts, where views are held against them." in (
        notes(found)
    )
    assert not re.search("sigma|unchanged", shown(found))


@pytest.mark.parametrize("width", [80, 100, 132, 250])
def test_views_that_do_not_fit_beside_each_other_follow_below(
    width: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    names = [f"ft:checkpoint-{number}00" for number in range(7)]
    found = result_of(dict.fromkeys(names, 0.3), floor=1e-8)
    tables = [line for line in shown(found).splitlines() if line and line[0] in "│┃┏└┡"]
    assert max(map(len, tables)) <= width
    lines = lines_of(found)
    assert lines["compared with base"] == names
    # Not one label or figure is broken across lines.
    assert len(lines["mean KL, nats"]) == len(names)
    assert all(re.fullmatch(r"0\.\d+", cell) for cell in lines["mean KL, nats"])
    many = shown(found).count("compared with base")
    assert many > 1 if width < 132 else many < 4


def test_all_of_one_view_is_narrower_than_a_terminal() -> None:
    found = all_asked()
    one = replace(found, views=found.views[:1])
    tables = [line for line in shown(one).splitlines() if line and line[0] in "│┃┏└┡"]
    assert max(map(len, tables)) < WIDTH


def test_quarters_of_entropy_have_the_mean_of_each_view() -> None:
    found = all_asked()
    lines = lines_of(found)
    for bucket, other in zip(*(one.summary.buckets for one in found.views), strict=True):
        (label,) = [
            name for name in lines
            if (ends := re.fullmatch(r"(\S+) to (\S+)", name))
            and float(ends[1]) == pytest.approx(bucket.low, rel=1e-2)
        ]  # fmt: skip
        means = [float(cell) for cell in lines[label]]
        expected = [bucket.figures.kl.mean, other.figures.kl.mean]
        assert means == pytest.approx(expected, rel=1e-3)


def test_groups_have_a_table_a_view() -> None:
    found = all_asked()
    places = adjusted(
        {(one.view, group): one.nulls for one in found.views if one.nulls
         for group in one.summary.groups}
    )  # fmt: skip
    views = tuple(
        replace(one, group_nulls={g: places[one.view, g] for g in one.summary.groups})
        for one in found.views
    )
    lines = lines_of(replace(found, views=views))
    assert lines["style,"][-1] == ""
    for number in range(3):
        group = f"style {number}"
        means = lines[group][0::3]
        expected = [one.summary.groups[group].kl.mean for one in views]
        assert [float(mean) for mean in means] == pytest.approx(expected, rel=1e-3)
    # 40 nulls are too few for six comparisons.
    assert lines["style 0"][2] == "first of 41"
    assert lines["(10 texts)"][0] == "-"


def test_of_many_groups_those_that_were_moved_most_are_shown() -> None:
    found = result_of({"ft": 0.3}, texts=60, groups=MOST_GROUPS + 5)
    names = [name for name in lines_of(found) if name.startswith("style ")]
    means = {name: one.kl.mean for name, one in found.views[0].summary.groups.items()}
    assert names == sorted(means, key=lambda name: -means[name])[:MOST_GROUPS]
    assert f"The {MOST_GROUPS} groups that were moved most are shown; JSON has all." in notes(found)


def test_the_three_answers_of_each_view_stand_below() -> None:
    found = all_asked()
    below = shown(found).splitlines()
    for one in found.views:
        assert set(verdict_sentences(one)) <= set(below)
    # That is the adapter's, whatever the view.
    assert sum("How little of it" in line for line in below) == 1
    alone = shown(result_of({"a": 0.3, "b": 0.1})).splitlines()
    assert alone.count("Is it there at all? Not measured.") == 1


def test_values_below_0_and_texts_that_were_skipped_are_told() -> None:
    found = result_of({"ft": 0.3})
    (one,) = found.views
    below = with_kl([[-1e-9, 1e-3]] * 20)
    strange = replace(one, positions=below)
    said = notes(replace(found, views=(strange,), skipped=1, notes=("A note of the run.",)))
    assert "Some divergences are below 0: that is rounding, and isn't cut off." in said
    assert said[-2:] == ["1 text could not be compared.", "A note of the run."]


def test_shares_and_ratios_close_to_one_keep_their_difference() -> None:
    found = result_of({"ft": 0.3})
    (one,) = found.views
    figures = replace(one.summary.figures, same_top=0.99999, ppl_ratio=1.0000021)
    close = replace(one, summary=replace(one.summary, figures=figures))
    lines = lines_of(replace(found, views=(close,)))
    assert lines["same top token"] == [">99.99%"]
    assert lines["perplexity ratio"] == ["1.00000210"]
    figures = replace(figures, same_top=1e-6, ppl_ratio=1.0)
    close = replace(one, summary=replace(one.summary, figures=figures))
    lines = lines_of(replace(found, views=(close,)))
    assert (lines["same top token"], lines["perplexity ratio"]) == (["<0.01%"], ["1.000"])


def test_an_infinite_divergence_is_shown() -> None:
    positions = with_kl([[math.inf, 1e-3]] * 30)
    found = result_of({"ft": 0.3})
    (one,) = found.views
    floor = Floor.of([with_kl([[1e-9, 2e-9]] * 30)])
    infinite = replace(one, positions=positions, floor=against_floor(positions, floor))
    assert lines_of(replace(found, views=(infinite,)))["told from rounding?"] == ["yes"]
    figures = replace(one.summary.figures, kl=replace(one.summary.figures.kl, max=np.inf))
    infinite = replace(one, summary=replace(one.summary, figures=figures))
    assert lines_of(replace(found, views=(infinite,)))["largest KL"] == ["inf"]


@pytest.mark.parametrize("name", ["\x1b[2Jft", "[bold]ft[/bold]", "[/]", "ft\n┃", "x" * 300])
def test_a_name_neither_moves_the_cursor_nor_is_taken_for_markup(name: str) -> None:
    found = result_of({name: 0.3}, floor=1e-8)
    (one,) = found.views
    groups = {name: one.summary.figures}
    one = replace(one, summary=replace(one.summary, groups=groups))
    told = shown(replace(found, views=(one,), reference=name, group_by=name))
    assert "\x1b" not in told
    assert all(len(line) <= WIDTH for line in told.splitlines() if line[:1] in ("│", "┃", "┏"))
    if name.startswith("["):
        assert told.count(name) > 3


@pytest.mark.parametrize(
    ("visible", "least", "words"),
    [(0.07, 2**-10, "0.07"), (2**-10, 2**-10, "below 0.001"), (None, 2**-10, "not at 1")],
)
def test_how_little_can_be_seen(visible: float | None, least: float, words: str) -> None:
    found = result_of({"ft": 0.3}, floor=1e-8)
    one = replace(found.views[0], visible_from_lambda=visible, detect_least=least)
    assert lines_of(replace(found, views=(one,)))["visible from λ"] == [words]
    few = replace(result_of({"ft": 0.3}, floor=1e-8, texts=12).views[0], detect_least=least)
    assert lines_of(replace(found, views=(few,)))["visible from λ"] == ["not judged"]
