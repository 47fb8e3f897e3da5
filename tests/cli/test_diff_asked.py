"""What ``diff`` says of what was asked for and can't be had.

Claims: a view that is no number anywhere leaves figures, rows and pages of the others as they are,
and is undecided itself.
"""

from __future__ import annotations

import json
from pathlib import Path
from xml.etree import ElementTree

import pytest

from tests.cli.conftest import Run, first, read_rows


@pytest.mark.parametrize("views", ["ft,scaled:1e30", "scaled:1e30,ft"])
def test_a_view_that_is_no_number_leaves_the_others(
    views: str, diff: Run, prompts: Path, tmp_path: Path
) -> None:
    out, page, junit = (tmp_path / name for name in ("rows.jsonl", "page.html", "junit.xml"))
    files = ["--out", out, "--report", page, "--junit", junit]
    options = ["--texts", prompts, "--format", "json", "--max-kl", 100, "--nulls", 2]
    options += ["--group-by", "style"]
    ended = diff(*options, "--views", views, *files)
    assert ended.code == 2
    found, alone = json.loads(ended.out), json.loads(diff(*options).out)
    assert (found["texts"], found["positions"]) == (12, alone["positions"])
    mine = found["views"]["ft"]
    assert mine["kl"]["median"] == pytest.approx(alone["views"]["ft"]["kl"]["median"], rel=1e-3)
    [name] = found["views"].keys() - {"ft"}
    bad = found["views"][name]
    assert (bad["kl"]["mean"], bad["left_out"]) == (None, found["positions"])
    why = f"{name} gives NaN at all {found['positions']} positions that count"
    assert f"{why}; is it sound" in ended.err
    assert any(note.startswith(why) for note in found["notes"])
    assert len(read_rows(out)) == 24
    assert name in page.read_text("utf-8")
    said = ElementTree.fromstring(junit.read_text("utf-8"))
    assert (said.get("tests"), said.get("errors"), said.get("failures")) == ("3", "2", "0")


def test_a_view_that_is_no_number_is_undecided_alone(diff: Run, prompts: Path) -> None:
    ended = diff("--texts", prompts, "--views", "scaled:1e30")
    assert ended.code == 2
    assert " gives NaN at all " in ended.err.splitlines()[-1]
    assert " gives NaN at all " in ended.out


def test_intervals_are_counted_over_the_texts_of_views_that_have_any(
    diff: Run, prompts: Path
) -> None:
    ended = diff("--texts", first(prompts, 20), "--views", "ft,scaled:1e30")
    assert "Intervals are over 20 distinct texts" in ended.out
