"""What ``diff`` says of what was asked for and can't be had.

Claims: a view that is no number anywhere leaves figures, rows and pages of the others as they are,
and is undecided itself; what is visible of an adapter is told of the whole adapter alone, and isn't
looked for in texts that are too few; texts without a position left are counted, and lines with two
texts.
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


def test_the_smallest_visible_scale_is_the_whole_adapter_s(diff: Run, prompts: Path) -> None:
    options = ["--texts", first(prompts, 20), "--detect", "--format", "json"]
    found = json.loads(diff(*options, "--views", "scaled:0.5,ft").out)["views"]
    known = {name: view["visible_from_lambda"] for name, view in found.items()}
    assert known.pop("ft") > 0.0
    assert known == {"scaled_0.50": None}


def test_no_scale_is_run_where_texts_are_too_few(
    diff: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.jobs.diff.detect.visible_from", None)
    ended = diff("--texts", prompts, "--detect")
    assert ended.code == 0, ended.err
    assert "for --detect" not in ended.err
    assert "How little of it can be seen? Not judged: that takes 20 distinct texts" in ended.out


def test_texts_without_a_position_and_lines_with_two_texts_are_counted(
    diff: Run, tmp_path: Path
) -> None:
    lines = [{"prompt": "a b c d e f g", "text": "x"}, {"text": "a"}, {"text": "a b"}]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = diff("--texts", texts, "--skip-first", 4, "--format", "json")
    assert ended.code == 0, ended.err
    notes = json.loads(ended.out)["notes"]
    left_out = "The first 4 positions of each text are left out; "
    assert f"{left_out}2 texts have no other, and count nowhere." in notes
    assert not any(note.startswith("Equal texts") for note in notes)
    assert '1 line has both "prompt" and "text": "prompt" was read, "text" was carried.' in notes


def test_one_text_is_told_of_as_one(diff: Run, tmp_path: Path) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("a b c d e f\na\na b c d e f\n")
    said = diff("--texts", texts, "--skip-first", 4).out
    assert "; 1 text has no other, and counts nowhere." in said
    assert "one in an interval, and each of them in a mean: of 2 there is 1 different one." in said
    texts.write_text("one text alone\n")
    ended = diff("--texts", texts, "--dry-run", "--skip-first", 1)
    assert ended.out.startswith("1 text is read 2 times")
    assert (
        "The first position of each text is left out."
        in diff("--texts", texts, "--skip-first", 1).out
    )
