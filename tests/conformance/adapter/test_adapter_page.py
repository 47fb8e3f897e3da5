"""Claims: a page shows what the report has, expected against given for each token, of failures and
of what passed, loads nothing, and has every text as text; the command writes it, and replaces no
file unless told to.
"""

import json
import re
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import torch

from forwardcache.__main__ import main
from forwardcache.conformance.adapter import Report
from forwardcache.conformance.adapter import command as front
from forwardcache.conformance.adapter import run as running
from forwardcache.conformance.adapter.checks import checks_of
from forwardcache.conformance.adapter.ground import Ground
from forwardcache.conformance.adapter.run import check_on
from forwardcache.observe.report.adapter_page import adapter_page
from tests.conformance.adapter import faults
from tests.conformance.adapter.toy import Arithmetic, Ids, Sound

HOSTILE = "</script><script>alert(1)</script>"


def report_on(kind: type[Sound], ground: Ground, arithmetic: Arithmetic) -> Report:
    return check_on(ground, lambda: kind(arithmetic), report_all=False)


def cells(page: str, column: int, figure: str = "tokens") -> list[Any]:
    """The values in a column of the tables of tokens: of failures, or of what ``passed``."""
    tables = re.findall(rf'<table data-figure="{figure}">(.*?)</table>', page.replace("\n", ""))
    rows = [row for table in tables for row in re.findall(r"<tr>(<td.*?)</tr>", table)]
    found = [re.findall(r"data-value='(.*?)'", row) for row in rows]
    return [json.loads(row[column]) for row in found]


def test_a_page_shows_expected_against_given_for_each_token(
    ground: Ground, arithmetic: Arithmetic
) -> None:
    report = report_on(faults.Halved, ground, arithmetic)
    [failure] = report.failures()
    page = adapter_page({"subject": HOSTILE, **report.to_dict()}, "does not run its adapters")
    tokens = failure.to_dict()["evidence"]["tokens"]
    assert len(tokens) > 10
    for column, name in ((1, "token"), (2, "expected"), (3, "given"), (4, "base")):
        assert cells(page, column) == [each[name] for each in tokens]
    assert cells(page, 5) == [abs(each["given"] - each["expected"]) for each in tokens]
    assert "the adapter has the wrong scale: 0.5" in page
    assert "all_linear: LoRA on q, k, v" in page
    assert page.count("<svg") == 1
    assert HOSTILE not in page
    assert not re.search(r'(src|href)="(?!#|data:,)', page.replace("xmlns:xlink", ""))


def test_a_value_that_is_no_number_is_shown_as_text(ground: Ground, arithmetic: Arithmetic) -> None:
    report = report_on(faults.Overflowing, ground, arithmetic)
    page = adapter_page({"subject": "mine", **report.to_dict()}, "does not run its adapters")
    assert "nan" in cells(page, 3)


def test_a_report_without_failures_has_a_page(ground: Ground, arithmetic: Arithmetic) -> None:
    report = report_on(Sound, ground, arithmetic)
    page = adapter_page({"subject": "mine", **report.to_dict()}, "runs its adapters")
    assert "mine runs its adapters" in page
    assert "<svg" not in page


def test_a_page_shows_the_tokens_of_each_check_that_passed(
    ground: Ground, arithmetic: Arithmetic
) -> None:
    report = report_on(Sound, ground, arithmetic)
    page = adapter_page({"subject": "mine", **report.to_dict()}, "runs its adapters")
    passed = [each for each in report.results if each.outcome == "passed"]
    shown = [each.evidence for each in passed if each.evidence is not None]
    assert len(shown) == len(passed) > 20
    for column, name in ((1, "tokens"), (2, "wanted"), (3, "given"), (4, "base")):
        expected = [value for each in shown for value in getattr(each, name)]
        assert cells(page, column, "passed") == expected
    for each in passed:
        assert f"<summary>{each.check}: " in page
    assert cells(page, 3) == []


def test_of_what_passed_the_text_that_came_nearest_to_failing_is_shown(
    ground: Ground, arithmetic: Arithmetic
) -> None:
    class OffInOne(Sound):
        def given(self, ids: Ids, rows: torch.Tensor) -> Any:
            values = super().given(ids, rows)
            return [value - 2e-3 for value in values] if ids == off else values

    off = ground.texts("base_unloaded")[1]
    report = check_on(ground, lambda: OffInOne(arithmetic))
    [evidence] = [each.evidence for each in report.results if each.check == "base_kept"]
    assert evidence is not None
    assert tuple(evidence.tokens) == off[1:]
    assert "was loaded, used and unloaded" in evidence.planted


def test_the_command_writes_a_page_and_replaces_none(
    ground: Ground,
    arithmetic: Arithmetic,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(running, "ground_of", lambda *_: nullcontext(ground))
    monkeypatch.setattr(front, "locate", lambda _: lambda: faults.OneValueTooMany(arithmetic))
    page = tmp_path / "page.html"
    asked = ["check", "adapter", "mine:make", "--model", "folder", "--report"]
    assert main([*asked, str(page)]) == 1
    assert "mine:make does not run its adapters: " in page.read_text()
    assert "There are no values to compare." in page.read_text()
    page.write_text("kept")
    assert main([*asked, str(page)]) == 2
    assert page.read_text() == "kept"
    assert main([*asked, str(page), "--force"]) == 1
    assert main([*asked, str(page), "--force", "--junit", str(page)]) == 2
    junit = tmp_path / "junit.xml"
    assert main([*asked[:-1], "--junit", str(junit)]) == 1
    root = ElementTree.parse(junit).getroot()
    [failure] = root.iter("failure")
    assert failure.get("type") == "SubjectFailed"
    assert [case.get("name") for case in root.iter("testcase")] == [
        each.name for each in checks_of("quick")
    ]
    assert main([*asked, str(tmp_path / "page.txt")]) == 2
    assert "must end in .html" in capsys.readouterr().err
