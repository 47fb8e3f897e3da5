"""``forwardcache report compare``: what changed between two traces, in all three forms.

Checked: totals, seconds by op and view, prompts that are new and gone, on two small traces whose
every figure is known; a change of nothing; what is refused; a trace that is called ``compare``.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.test_report import HOSTILE
from tests.cli.test_trace import line, trace


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """The first computes p and q on base; the second has p from the cache and asks ft for p."""
    miss: dict[str, Any] = {"hit": False, "wall_ms": 1000.0}
    first = trace(
        tmp_path / "a.jsonl",
        line(1.0, run="a", key="1", prompt_hash="p", **miss),
        line(2.0, run="a", key="2", prompt_hash="q", **miss),
    )
    second = trace(
        tmp_path / "b.jsonl",
        line(1.0, run="b", key="9", prompt_hash="p", wall_ms=0.0),
        line(2.0, run="b", key="8", prompt_hash="p", view_id="ft", hit=False, wall_ms=500.0),
        b"no JSON\n",
    )
    return first, second


def test_the_change_of_each_figure(run: Run, two: tuple[Path, Path]) -> None:
    said = json.loads(run("report", "compare", *two, "--format", "json").out)
    total = {row.pop("figure"): row for row in said["total"]}
    assert total["misses"] == {"before": 2, "after": 1, "change": -1}
    assert total["hit_rate"] == {"before": 0.0, "after": 0.5, "change": 0.5}
    by_op = {row["view_id"]: row for row in said["by_op"]}
    assert (by_op["base"]["before_s"], by_op["base"]["after_s"]) == (2.0, 0.0)
    assert (by_op["ft"]["calls_before"], by_op["ft"]["change_s"]) == (0, 0.5)
    assert by_op["ft"]["before_hit_rate"] is None
    assert said["by_op"][0]["view_id"] == "base"
    op = "next_token_dist"
    assert said["asked"] == [
        {"view_id": "base", "op": op, "in_both": 1, "new": 0, "gone": 1, "asked_by": "both"},
        {
            "view_id": "ft",
            "op": op,
            "in_both": 0,
            "new": 1,
            "gone": 0,
            "asked_by": "the second only",
        },
    ]
    assert said["gaps"][1] == {"figure": "lines skipped", "before": 0, "after": 1, "change": 1}
    assert said["verdict"] == (
        "The second run's calls took 0.5 s, 1.5 s less than the first's 2.0 s; hits went from "
        "0.0% to 50.0%. 0 prompts are new and 1 prompt is gone, by view and op that both asked "
        "for. Not asked for before: ft next_token_dist."
    )


def test_views_that_were_left_out_are_no_prompts_that_are_gone(run: Run, tmp_path: Path) -> None:
    asked = [line(1.0, prompt_hash=f"{n:012x}", run="r", key=f"{n}") for n in range(9)]
    others = [
        line(2.0, view_id=view, prompt_hash=f"{n:012x}", run="r", key=f"{view}{n}")
        for n in range(9)
        for view in ("ft", "null_7")
    ]
    first, second = (
        trace(tmp_path / "a.jsonl", *asked, *others),
        trace(tmp_path / "b.jsonl", *asked),
    )
    said = json.loads(run("report", "compare", first, second, "--format", "json").out)
    assert "0 prompts are new and 0 prompts are gone" in said["verdict"]
    assert "Not asked for any more: ft next_token_dist, null_7 next_token_dist." in said["verdict"]


def test_a_table_and_a_page_say_the_same(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    shown = run("report", "compare", *two).out
    assert "1.5 s less than the first's" in shown
    assert "misses" in shown
    out = tmp_path / "c.html"
    assert run("report", "compare", *two, "--out", out).code == 0
    page = out.read_text()
    assert "1.5 s less than the first&#39;s 2.0 s" in page
    assert ">50.0%</td>" in page


def test_the_tables_fit_a_terminal_of_80_columns(run: Run, tmp_path: Path) -> None:
    whole: dict[str, Any] = {"op": "next_token_dist", "hit": False, "wall_ms": 0.0123456789}
    lines = [line(1.0, view_id="null_7_rank0.25", **whole) for _ in range(1_000)]
    first = trace(tmp_path / "a.jsonl", *lines)
    second = trace(tmp_path / "b.jsonl", *lines, line(2.0, view_id="scaled_0.50", **whole))
    _, *tables = run("report", "compare", first, second).out.splitlines()
    assert max(map(len, tables)) <= 80
    assert "null_7_rank0.25  next_token_dist         1,000  1,000         0.0%   0.0%" in tables


def test_names_are_escaped_and_nothing_runs(run: Run, tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl", line(1.0, view_id=HOSTILE, op=HOSTILE, probe=HOSTILE))
    page = run("report", "compare", path, path, "--format", "html").out
    # The page's own, which sorts its tables, is the only one.
    assert page.count("<script") == page.count('<script>"use strict";') == 1
    assert "&lt;script&gt;" in page


def test_a_trace_beside_itself_has_not_changed(run: Run, two: tuple[Path, Path]) -> None:
    said = json.loads(run("report", "compare", two[0], two[0], "--format", "json").out)
    assert {row["change"] for row in said["total"]} == {0}
    assert [(row["new"], row["gone"]) for row in said["asked"]] == [(0, 0)]


def test_an_empty_trace_leaves_nothing_to_compare(
    run: Run, two: tuple[Path, Path], tmp_path: Path
) -> None:
    empty = trace(tmp_path / "e.jsonl")
    assert "nothing to compare" in run("report", "compare", two[0], empty).out
    assert run("report", "compare", two[0], empty, "--format", "html").code == 0


def test_what_is_refused(run: Run, two: tuple[Path, Path], tmp_path: Path) -> None:
    run("report", "compare", two[0]).refused("B")
    run("report", "compare", two[0], tmp_path / "no.jsonl").refused("no.jsonl")
    run("report", "compare", "-", "-").refused("read once")
    over = ["--out", two[0], "--force", "--format", "json"]
    run("report", "compare", *two, *over).refused("also read")


def test_a_trace_of_that_name_is_given_as_a_path(
    run: Run, two: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "compare").write_bytes(two[0].read_bytes())
    monkeypatch.chdir(tmp_path)
    assert run("report", "./compare").out.startswith("0.0% of 2 calls were hits")
