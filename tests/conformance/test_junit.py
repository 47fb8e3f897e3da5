"""Claims: JUnit of a kit has one case a check with its time; a failed and a stale one fail, what is
expected to fail, skipped or not run is skipped with the reason, and a run that shows nothing has an
error. Each command writes it, and no file is replaced unless told to.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest

from forwardcache.__main__ import main
from forwardcache.conformance.failures import CancellationIgnored, StreamYieldedError
from forwardcache.conformance.junit import as_junit
from forwardcache.conformance.told import Judged, Told
from forwardcache.jobs.diff.junit import SUITE
from tests.conformance.backend.dummy import DummyBackend

GOOD, BAD = "tests.conformance.engines:Engine", "tests.conformance.engines:StopSeenOnlyAtFirst"
FAILURES = CancellationIgnored(), StreamYieldedError("a\x00b")


def read(*checks: Judged, conforms: bool = False) -> ElementTree.Element:
    report = {"conforms": conforms, "kit_version": "2", "checks_run": 3, "checks": []}
    told = Told("engine", "mine:\x1bEngine", "does not conform", report, checks)
    return ElementTree.fromstring(as_junit(told))


def parts(root: ElementTree.Element) -> dict[str | None, list[str]]:
    """By name of a case: the tags in it."""
    return {case.get("name"): [part.tag for part in case] for case in root.iter("testcase")}


def counts(root: ElementTree.Element) -> list[str | None]:
    (suite,) = root
    return [suite.get(name) for name in ("tests", "failures", "errors", "skipped")]


def test_every_check_is_a_case_with_its_time() -> None:
    root = read(
        Judged("start", "passed", seconds=0.25),
        Judged("usage", "failed", seconds=1.5, failures=FAILURES),
        Judged("cleanup", "stale", "take the entry out"),
        Judged("cancellation", "expected", "issue 12", failures=FAILURES[:1]),
        Judged("setup_metrics", "skipped", "it has none"),
        Judged("left_behind", "not_run"),
    )
    assert parts(root) == {
        "start": [],
        "usage": ["failure"],
        "cleanup": ["failure"],
        "cancellation": ["skipped"],
        "setup_metrics": ["skipped"],
        "left_behind": ["skipped"],
    }
    assert counts(root) == ["6", "2", "0", "3"]
    cases = list(root.iter("testcase"))
    assert [case.get("time") for case in cases[:3]] == ["0.250", "1.500", None]
    assert {case.get("classname") for case in cases} == {"forwardcache.engine"}
    assert [part.get("message") for part in root.iter("skipped")] == [
        "failed as expected: issue 12",
        "skipped: it has none",
        "not run",
    ]


def test_a_failure_has_its_name_its_sentence_and_all_that_was_found() -> None:
    root = read(Judged("usage", "failed", failures=FAILURES), Judged("start", "stale", "take it"))
    failure, stale = root.iter("failure")
    assert failure.attrib == {
        "message": FAILURES[0].message_line,
        "type": "CancellationIgnored",
    }
    assert failure.text == f"{FAILURES[0]}\n\n{FAILURES[1]}".replace("\x00", "\\x00")
    assert stale.attrib == {"message": "take it", "type": "stale"}


def test_a_run_that_shows_nothing_has_an_error() -> None:
    skipped = Judged("start", "skipped", "no GPU")
    root = read(skipped)
    assert parts(root) == {"start": ["skipped"], "judged": ["error"]}
    assert counts(root) == ["2", "0", "1", "1"]
    assert [error.get("message") for error in root.iter("error")] == ["does not conform"]
    assert parts(read(skipped, conforms=True)) == {"start": ["skipped"]}


def test_the_run_is_told() -> None:
    root = read(Judged("start", "passed"), conforms=True)
    assert {each.get("name"): each.get("value") for each in root.iter("property")} == {
        "subject": "mine:\\x1bEngine",
        "verdict": "does not conform",
        "kit_version": "2",
        "checks_run": "3",
    }
    assert root.get("name") == "forwardcache check engine" != SUITE


def broken_backend() -> Any:
    return DummyBackend("ids in order of id")


@pytest.mark.parametrize(
    ("asked", "code", "suite"),
    [
        (["engine", GOOD], 0, ["8", "0", "0", "0"]),
        (["engine", BAD, "--profile", "strict", "--cancel-deadline", "0.2"], 1, None),
        (["backend", "tests.conformance.backend.dummy:DummyBackend"], 0, None),
        (["backend", "tests.conformance.test_junit:broken_backend"], 1, None),
    ],
    ids=["engine", "faulty engine", "backend", "faulty backend"],
)
def test_a_command_writes_what_it_prints(
    asked: list[str],
    code: int,
    suite: list[str] | None,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "junit.xml"
    assert main(["check", *asked, "--format", "json", "--junit", str(path)]) == code
    said, words = capsys.readouterr()
    report = json.loads(said)
    assert words.endswith(f"wrote {path}\n")
    root = ElementTree.parse(path).getroot()
    told = {each.get("name"): each.get("value") for each in root.iter("property")}
    assert told["subject"] == asked[1]
    results = report.get("checks") or report["results"]
    tags = {"passed": [], "failed": ["failure"], "skipped": ["skipped"], "not_run": ["skipped"]}
    assert parts(root) == {
        each.get("check") or each["rule"]: tags[each["outcome"]] for each in results
    }
    if suite is not None:
        assert counts(root) == suite
    reasons = [each["reason"] for each in results if each["outcome"] == "failed" and each["reason"]]
    assert [each.get("message") for each in root.iter("failure") if reasons] == reasons


def test_no_file_is_replaced_unless_told_to(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "junit.xml"
    path.write_text("kept")
    asked = ["check", "engine", GOOD, "--junit"]
    assert main([*asked, str(path)]) == 2
    assert path.read_text() == "kept"
    assert "is there already" in capsys.readouterr().err
    assert main([*asked, str(path), "--force"]) == 0
    assert path.read_bytes().startswith(b"<?xml")
    assert main([*asked, str(tmp_path)]) == 2
    assert "is a folder" in capsys.readouterr().err
