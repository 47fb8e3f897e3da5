"""``forwardcache report``: its numbers, and that the page shows them and nothing that runs.

Checked: each group of figures on a small trace; the page has the numbers of the JSON, escapes
hostile names and loads nothing; size; what is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from forwardcache import prompt_hash
from tests.cli.conftest import Run
from tests.cli.test_trace import line, trace

HOSTILE = '<script>alert("x")</script>&\'"'


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """One value is computed by a, asked for by b, computed again by b; one computation fails."""
    key: dict[str, Any] = {"run": "r", "key": "k"}
    miss = {"hit": False, "wall_ms": 2000.0}
    return trace(
        tmp_path / "t.jsonl",
        line(1.0, probe="a", **miss, **key, batch=1, batch_size=4),
        line(2.0, probe="b", wall_ms=0.0, **key),
        line(3.0, probe="c", run="r", key="other", **miss),
        line(4.0, probe="b", **key, **miss),
        line(5.0, probe="b", **key, wall_ms=500.0, waited=True),
        line(6.0, run="r", key="bad", hit=False, error="ValueError"),
        b"no JSON\n",
    )


def figures(run: Run, path: Path) -> dict[str, Any]:
    said: dict[str, Any] = json.loads(run("report", path, "--format", "json").out)
    return said


def test_the_numbers_are_those_of_the_trace(run: Run, small: Path) -> None:
    said = figures(run, small)
    total = said["total"]
    assert (total["events"], total["hits"], total["misses"], total["failed"]) == (6, 2, 3, 1)
    assert (total["hit_rate"], total["saved_s"], total["miss_s"]) == (0.4, 2.0, 6.0)
    assert (total["waited"], total["wait_s"]) == (1, 0.5)
    assert total["compute_saved_by_waiting_s"] == 2.0
    assert (total["recomputed"], total["recomputed_s"]) == (1, 2.0)
    assert said["skipped"] == {"not JSON": 1}
    assert said["errors"] == [{"error": "ValueError", "events": 1}]
    assert said["batches"] == [{"size": 4, "batches": 1}]
    assert [(each["computed_by"], each["asked_by"]) for each in said["warmed"]] == [
        ("a", "b"),
        ("b", "b"),
    ]
    assert said["curve"]["entries_enough"] == 2
    assert said["curve"]["points"][-1]["miss_ratio"] == 0.4
    assert said["curve"]["enough_saves_s"] == 2.0
    assert "1 values were computed again (2.0 s), and a cache of 2 entries" in said["verdict"]
    assert "and saved 2.0 s" in said["verdict"]


def test_the_page_shows_the_numbers_of_the_json(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    assert run("report", small, "--out", out).code == 0
    page = out.read_text("utf-8")
    said = figures(run, small)
    assert said["verdict"] in page
    shown = re.findall(r"<dt>([^<]*)</dt><dd[^>]*>([^<]*)</dd>", page)
    assert ("hit rate", "40.0%") in shown
    assert len(shown) == len(said["total"]) - 2 + 1
    assert page.count('<svg role="img"') == 2
    assert len(page) < 1_000_000


def test_a_page_escapes_names_and_loads_nothing(run: Run, tmp_path: Path) -> None:
    names: dict[str, Any] = {"probe": HOSTILE, "view_id": HOSTILE, "op": HOSTILE, "run": HOSTILE}
    missed = line(1.0, **names, key="k", hit=False, wall_ms=3.0)
    path = trace(tmp_path / "t.jsonl", missed, line(2.0, **names, key="k"),
                 line(3.0, **names, hit=False, error=HOSTILE))  # fmt: skip
    page = run("report", path, "--format", "html").out
    # The page's own, which sorts its tables, is the only one.
    assert page.count("<script") == page.count('<script>"use strict";') == 1
    assert "&lt;script&gt;alert(&#34;x&#34;)" in page
    assert not re.search(r'(src|href)="(?!#|data:,)', page.replace("xmlns:xlink", ""))


def test_a_trace_without_events_is_a_report_too(run: Run, tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl")
    assert run("report", path).out.startswith("No call was answered.")
    assert "No call was answered." in run("report", path, "--format", "html").out


def test_a_missing_folder_is_refused_before_work(run: Run, small: Path, tmp_path: Path) -> None:
    run("report", small, "--out", tmp_path / "no" / "r.html").refused(
        "r.html", "there is no folder"
    )


def test_the_name_of_the_file_says_the_format(run: Run, small: Path, tmp_path: Path) -> None:
    for name, begins in (("r.html", "<!doctype"), ("r.json", "{"), ("r.txt", "40.0% of")):
        assert run("report", small, "--out", tmp_path / name).code == 0
        assert (tmp_path / name).read_text("utf-8").startswith(begins)
    run("report", small, "--out", tmp_path / "r.pdf").refused("r.pdf", ".html, .json, .txt")
    assert run("report", small, "--out", tmp_path / "r.pdf", "--format", "html").code == 0


def test_the_table_shows_times_as_dates_and_views_by_their_names(
    run: Run, small: Path, tmp_path: Path
) -> None:
    told = run("report", small).out
    assert re.search(r"^first ts +1970-01-01 00:00:\d\d UTC$", told, re.MULTILINE)
    path = trace(tmp_path / "t.jsonl", line(1.0, view_id="null_7", key="k", hit=False))
    assert "null_7  " in run("report", "compare", path, path).out


def test_an_existing_file_is_replaced_only_by_force(run: Run, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "mine.html"
    out.write_text("mine")
    run("report", small, "--out", out).refused("mine.html", "--force")
    assert out.read_text() == "mine"
    assert run("report", small, "--out", out, "--force").code == 0
    assert "<!doctype html>" in out.read_text().lower()
    run("report", small, "--out", small, "--force", "--format", "json").refused("also read")


def test_the_table_has_the_verdict_and_the_totals(run: Run, small: Path) -> None:
    out = run("report", small).out
    assert out.startswith("40.0% of 5 calls were hits")
    assert re.search(r"^recomputed +1$", out, re.MULTILINE)


def test_threads_are_shown_with_the_seconds_of_each_part_of_the_time(
    run: Run, tmp_path: Path
) -> None:
    lines = [line(float(n), run="r", thread=n % 2, hit=n < 3, wall_ms=500.0) for n in range(5)]
    path = trace(tmp_path / "t.jsonl", *lines)
    found = figures(run, path)["threads"]
    assert [(one["thread"], one["events"], one["hits"]) for one in found] == [(0, 3, 2), (1, 2, 1)]
    busy = found[0]["busy_s"]
    # A part is a fifteenth of a second; of the first call only its end lies in the time.
    assert [round(15 * each, 6) for each in busy[21:32]] == [0, 0, 0.5, *[1] * 7, 0]
    assert sum(busy) == pytest.approx(1 / 15 + 1.0)
    assert "When the threads were busy" in run("report", path, "--format", "html").out


def test_prompts_are_shown_by_their_text(run: Run, tmp_path: Path) -> None:
    text = "<b>Why</b> is the sky blue?"
    known = line(1.0, prompt_hash=prompt_hash(text), hit=False, wall_ms=9.0)
    path = trace(tmp_path / "t.jsonl", known, line(2.0, hit=False, wall_ms=3.0))
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(text + "\n")
    said = json.loads(run("report", path, "--prompts", prompts, "--format", "json").out)
    assert [row["prompt"] for row in said["slowest"]] == [text, None]
    page = run("report", path, "--prompts", prompts, "--format", "html").out
    assert "&lt;b&gt;Why&lt;/b&gt; is the sky blue?" in page
    assert "prompt" not in figures(run, path)["slowest"][0]


def test_values_from_a_store_are_a_kind_of_their_own(run: Run, tmp_path: Path) -> None:
    calls = [line(at, run="r", key=f"k{at}", prompt_hash=f"{at}") for at in (1.0, 2.0, 3.0)]
    again = line(4.0, probe="b", run="r", key="k1.0", prompt_hash="1.0")
    path = trace(tmp_path / "t.jsonl", *calls, again)
    said = figures(run, path)
    assert (said["total"]["hits"], said["total"]["from_store"]) == (4, 3)
    assert sorted((row["values"], row["hits_after"]) for row in said["from_store"]) == [
        (0, 1),
        (3, 0),
    ]
    assert "3 of values from the store" in said["verdict"]
    assert "1 of the cache" in said["verdict"]
    assert said["warmed"] == []
    page = run("report", path, "--format", "html").out
    assert "Values from the store, by who asked" in page


def test_where_all_came_from_the_store_no_size_of_cache_is_named(run: Run, tmp_path: Path) -> None:
    calls = [line(at, run="r", key=f"k{at}", prompt_hash=f"{at}") for at in (1.0, 2.0)]
    path = trace(tmp_path / "t.jsonl", *calls)
    assert figures(run, path)["curve"]["entries_enough"] == 0
    page = run("report", path, "--format", "html").out
    assert "What was not computed came from the store" in page
    assert "Miss ratio by size of the cache" not in page


def test_what_was_computed_or_follows_from_a_larger_value_is_not_from_a_store(
    run: Run, tmp_path: Path
) -> None:
    same = {"run": "r", "prompt_hash": "p", "op": "next_token_dist"}
    path = trace(
        tmp_path / "t.jsonl",
        # Another thread's hit may be written before the computation's event.
        line(1.0, **same, key="large", top_k=64),
        line(2.0, **same, key="large", top_k=64, hit=False),
        # Of each key, be it the first of all or not.
        *(line(2.5, run="r", prompt_hash=f"{n}", key=f"{n}") for n in range(9)),
        *(line(2.6, run="r", prompt_hash=f"{n}", key=f"{n}", hit=False) for n in range(9)),
        line(3.0, **same, key="small", top_k=8),
        line(4.0, **same, key="larger", top_k=128),
    )
    assert figures(run, path)["total"]["from_store"] == 1


def test_batches_are_ranked_as_batches(run: Run, tmp_path: Path) -> None:
    def batch(number: int, prompts: int, each_ms: float) -> list[bytes]:
        event: dict[str, Any] = {"run": "r", "hit": False, "wall_ms": each_ms}
        where: dict[str, Any] = {"batch": number, "batch_size": prompts}
        return [
            line(float(number), key=f"{number} {at}", **event, **where) for at in range(prompts)
        ]

    alone = line(9.0, run="r", key="alone", hit=False, wall_ms=1.0)
    path = trace(tmp_path / "t.jsonl", *batch(1, 2, 3000.0), *batch(2, 4, 2000.0), alone)
    said = figures(run, path)
    ranked = [
        (row["batch"], row["prompts"], row["batch_s"], row["ms_per_prompt"])
        for row in said["slowest_batches"]
    ]
    assert ranked == [(2, 4, 8.0, 2000.0), (1, 2, 6.0, 3000.0)]
    assert [row["wall_ms"] for row in said["slowest"]] == [1.0]


def test_an_interrupt_is_no_failure(run: Run, tmp_path: Path) -> None:
    errors = ("KeyboardInterrupt", "KeyboardInterrupt", "ValueError")
    lines = [line(1.0, run="r", key=f"{at}", hit=False, error=e) for at, e in enumerate(errors)]
    said = figures(run, trace(tmp_path / "t.jsonl", *lines))
    assert (said["total"]["failed"], said["total"]["interrupted"]) == (1, 2)
    assert said["errors"] == [{"error": "ValueError", "events": 1}]
