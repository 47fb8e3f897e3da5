"""Claims: JUnit has one case a view and bound; broken fails, undecided never passes; whatever a
name holds, the file parses; it gets its name whole.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.diff.junit import NO_BOUND, as_junit, write_junit
from forwardcache.statistics import (
    Bounds,
    DiffResult,
    Outcome,
    ViewDifference,
    judge,
    verdict_sentences,
)
from tests.statistics.made_result import result_of


def held_to(found: DiffResult, bounds: Bounds) -> DiffResult:
    return replace(found, views=tuple(judged(one, bounds) for one in found.views))


def judged(one: ViewDifference, bounds: Bounds) -> ViewDifference:
    return replace(
        one, outcomes=tuple(judge(one.view, one.summary.figures, bounds, floor=one.floor))
    )


def read(found: DiffResult) -> ElementTree.Element:
    return ElementTree.fromstring(as_junit(found))


def cases(root: ElementTree.Element) -> dict[str, list[str]]:
    """By name of a case: the tags in it."""
    return {str(case.get("name")): [part.tag for part in case] for case in root.iter("testcase")}


def counts(root: ElementTree.Element) -> list[str | None]:
    (suite,) = root
    for name in ("tests", "failures", "errors"):
        assert suite.get(name) == root.get(name)
    return [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]


def test_every_view_and_bound_is_a_case() -> None:
    found = result_of({"ft": 0.3, "scaled_0.50": 1e-4}, floor=1e-8)
    root = read(held_to(found, Bounds(expect="changed", max_kl=0.1, min_same_top=0.9)))
    assert cases(root) == {
        "ft expect": ["system-out"],
        "ft max_kl": ["failure"],
        "ft min_same_top": ["failure"],
        "scaled_0.50 expect": ["system-out"],
        "scaled_0.50 max_kl": ["system-out"],
        "scaled_0.50 min_same_top": ["system-out"],
    }
    assert counts(root) == ["6", "2", "0", "0"]
    # Jenkins takes what stands before a class's last dot for its package.
    assert {case.get("classname") for case in root.iter("testcase")} == {"forwardcache.diff"}


def test_a_failure_says_figure_bound_and_interval() -> None:
    found = held_to(result_of({"ft": 0.3}), Bounds(max_kl=0.1))
    (failure,) = read(found).iter("failure")
    (outcome,) = found.views[0].outcomes
    assert failure.attrib == {"message": outcome.line, "type": "broken"}
    assert failure.text == outcome.line
    assert "--max-kl 0.1 (point estimate; rough interval" in outcome.line


def test_what_is_undecided_is_an_error_and_neither_skipped_nor_passed() -> None:
    found = held_to(result_of({"ft": 1e-8}, texts=12, floor=1e-8), Bounds(expect="unchanged"))
    root = read(found)
    assert cases(root) == {"ft expect": ["error"]}
    assert counts(root) == ["1", "0", "1", "0"]
    (error,) = root.iter("error")
    assert error.get("type") == "undecided"
    assert "not judged against rounding" in str(error.get("message"))


def test_without_bounds_each_view_is_a_passing_case_with_its_answers() -> None:
    found = result_of({"ft": 0.3, "scaled_0.50": 1e-4}, floor=1e-8)
    root = read(found)
    assert cases(root) == {"ft measured": ["system-out"], "scaled_0.50 measured": ["system-out"]}
    assert counts(root) == ["2", "0", "0", "0"]
    told = [str(part.text) for part in root.iter("system-out")]
    assert told[0].splitlines() == [NO_BOUND, *verdict_sentences(found.views[0])]


def test_no_time_is_invented_and_the_run_is_told() -> None:
    root = read(replace(result_of({"ft": 0.3}), skipped=3))
    assert b"time" not in as_junit(result_of({"ft": 0.3}))
    told = {one.get("name"): one.get("value") for one in root.iter("property")}
    assert told == {"reference": "base", "texts": "30", "positions": "210", "skipped texts": "3"}


NAMES = [
    "a\x00b\x1b[31m",
    "\x0b\x0c\x7f\x85",
    "\ud800 alone",
    "\ufffe\uffff",
    "<&>\"'\n\t",
    "ft:é🙂λ",
]


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_whatever_a_name_holds_the_file_parses(name: str, tmp_path: Path) -> None:
    found = result_of({"ft": 0.3})
    outcome = Outcome("max_kl", "broken", f"{name}: is above")
    found = replace(found, views=(replace(found.views[0], view=name, outcomes=(outcome,)),))
    write_junit(tmp_path / "junit.xml", replace(found, reference=name))
    root = ElementTree.parse(tmp_path / "junit.xml").getroot()
    (case,) = root.iter("testcase")
    shown = re.sub(
        "[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]",
        lambda one: ascii(one[0])[1:-1],
        name,
    )
    assert case.get("name") == f"{shown} max_kl"
    assert case[0].get("message") == f"{shown}: is above"


def test_the_file_is_whole_and_replaced_only_when_asked(tmp_path: Path) -> None:
    out, found = tmp_path / "junit.xml", result_of({"ft": 0.3})
    write_junit(out, found, force=False)
    assert out.read_bytes() == as_junit(found)
    assert out.read_bytes().startswith(b"<?xml version='1.0' encoding='utf-8'?>\n<testsuites ")
    with pytest.raises(InvalidInputError, match="has come meanwhile"):
        write_junit(out, found, force=False)
    write_junit(out, replace(found, skipped=1))
    assert b'"skipped texts" value="1"' in out.read_bytes()
    assert [path.name for path in tmp_path.iterdir()] == ["junit.xml"]
