"""``trace`` over the traces of many workers: a folder or a pattern is what its files come to.

Checked: which files are meant, and in which order; merging 1,000 with fewer files open and memory
for none of them; copies are refused; summary, recover and watch of all and of each.
"""

from __future__ import annotations

import json
import os
import re
import resource
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from forwardcache import TraceEvent, TraceWriter
from forwardcache.observe import read_trace
from forwardcache.observe.follow_many import Followers
from forwardcache.observe.opened import MOST_OPEN
from tests.cli.conftest import Run
from tests.cli.test_trace import killed, line, trace


def workers(folder: Path, number: int, *, events: int = 3, **fields: Any) -> list[Path]:
    """The traces of ``number`` workers whose events take turns."""
    folder.mkdir(exist_ok=True)
    return [
        trace(
            folder / f"w.{at}.jsonl",
            *(
                line(float(seq * number + at), run=f"run {at}", seq=seq, **fields)
                for seq in range(events)
            ),
        )
        for at in range(number)
    ]


@contextmanager
def open_files(most: int) -> Iterator[None]:
    """No more than ``most`` files beside those that are open."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    there = max(map(int, os.listdir("/proc/self/fd")))
    resource.setrlimit(resource.RLIMIT_NOFILE, (there + most, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def names_of(run: Run, given: object) -> list[str]:
    found = json.loads(run("trace", "summary", given, "--format", "json").out)
    return [each["worker"] for each in found["workers"]]


def test_a_folder_is_the_traces_in_it_by_the_numbers_in_their_names(
    run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "runs"
    workers(folder, 11)
    trace(folder / "w.11.jsonl")
    for name in (".hidden.jsonl", "w.1.jsonl.lock", "w.x.jsonl.0f.journal", "all.jsonl.part"):
        trace(folder / name, line(run="x"))
    (folder / "inner").mkdir()
    numbers = [str(at) for at in range(12)]
    assert names_of(run, folder) == names_of(run, f"{folder}/w.*.jsonl") == numbers
    ended = run("trace", "summary", folder)
    assert ended.err == ""
    assert ended.out.splitlines()[-1].startswith("33 events, 11 runs, 12 traces, ")


def test_files_of_another_kind_are_passed_over_with_a_word(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    workers(folder, 2)
    (folder / "prompts.jsonl").write_text('{"prompt": "a"}\n')
    (folder / "notes.txt").write_text("mine")
    ended = run("trace", "summary", folder, "--format", "json")
    assert json.loads(ended.out)["events"] == 6
    assert ended.err == (
        f"forwardcache: {folder}: passed over: notes.txt (no trace), "
        "prompts.jsonl (a file of prompts)\n"
    )


def test_where_no_trace_is_meant_it_is_said(run: Run, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("mine")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "config.json").write_text("{}")
    run("trace", "summary", tmp_path).refused("no trace is in this folder: a.txt (no trace)")
    run("report", tmp_path / "model").refused("the folder of a model")
    run("trace", "summary", f"{tmp_path}/w*").refused("w*", "no file is called so")


def test_a_file_whose_name_is_a_pattern_is_that_file(run: Run, tmp_path: Path) -> None:
    trace(tmp_path / "w[1].jsonl", line(run="r", seq=0))
    trace(tmp_path / "w1.jsonl", line(run="s", seq=0), line(run="s", seq=1))
    found = run("trace", "summary", tmp_path / "w[1].jsonl", "--format", "json").out
    assert json.loads(found)["events"] == 1


def test_a_thousand_traces_are_merged_with_few_files_open(run: Run, tmp_path: Path) -> None:
    # A first run imports.
    assert (
        run("trace", "merge", *workers(tmp_path / "few", 3), "-o", tmp_path / "few.out").code == 0
    )
    paths = workers(tmp_path / "runs", 1000)
    with open_files(20):
        assert run("trace", "merge", tmp_path / "runs", "-o", tmp_path / "out").code == 0
    assert [event.ts for event in read_trace(tmp_path / "out")] == [float(n) for n in range(3000)]
    assert sorted((tmp_path / "out").read_bytes().splitlines()) == sorted(
        each for path in paths for each in path.read_bytes().splitlines()
    )


def test_merging_many_takes_memory_for_none(run: Run, tmp_path: Path) -> None:
    workers(tmp_path / "runs", 2 * MOST_OPEN, events=100, probe="p" * 2000)
    assert (
        run("trace", "merge", *workers(tmp_path / "few", 3), "-o", tmp_path / "few.out").code == 0
    )
    tracemalloc.start()
    try:
        assert run("trace", "merge", tmp_path / "runs", "-o", tmp_path / "out").code == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 10e6
    assert (tmp_path / "out").stat().st_size > 25e6


@pytest.mark.parametrize("number", [2, MOST_OPEN, MOST_OPEN + 1])
def test_ends_that_are_torn_and_equal_times_are_merged_alike_however_many_there_are(
    run: Run, tmp_path: Path, number: int
) -> None:
    paths = workers(tmp_path / "runs", number, events=1)
    for path in paths:
        with path.open("ab") as file:
            file.write(line(1e9, run=path.name) + b"x\n" + line(2e9)[:-1])
    ended = run("trace", "merge", tmp_path / "runs", "-o", tmp_path / "out")
    assert f"{2 * number} events of {number} traces; left out {2 * number} lines" in ended.err
    assert f"(no newline at the end: {number}, not JSON: {number})" in ended.err
    last = [event.run for event in read_trace(tmp_path / "out") if event.ts == 1e9]
    assert last == [path.name for path in paths]
    events = read_trace(paths, merge=True)
    assert [event.ts for event in events] == [event.ts for event in read_trace(tmp_path / "out")]


def test_the_merged_trace_may_lie_beside_its_parts(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "runs"
    workers(folder, 3)
    for options in ([], ["--force"]):
        assert run("trace", "merge", folder, "-o", folder / "all.jsonl", *options).code == 0
        assert sum(1 for _ in read_trace(folder / "all.jsonl")) == 9
    for command in (["trace", "summary"], ["trace", "merge", "-o", tmp_path / "out"], ["report"]):
        run(*command, folder).refused("all.jsonl", "w.0.jsonl", "session run 0", "once")
    assert not (tmp_path / "out").exists()


def test_a_session_may_go_on_in_another_file(run: Run, tmp_path: Path) -> None:
    trace(tmp_path / "w.1.jsonl", line(run="r", seq=0), line(run="r", seq=1))
    trace(tmp_path / "w.2.jsonl", line(run="r", seq=2))
    found = json.loads(run("trace", "summary", tmp_path, "--format", "json").out)
    assert (found["events"], found["runs"]) == (3, 1)


def test_summary_has_a_row_for_each_worker_and_their_sum(run: Run, tmp_path: Path) -> None:
    trace(tmp_path / "w.0.jsonl", line(1.0, run="a"), line(op="trace_lost", lost=4), b"x\n")
    trace(tmp_path / "w.1.jsonl", line(9.0, run="b", hit=False, wall_ms=2000.0))
    found = json.loads(run("trace", "summary", tmp_path, "--format", "json").out)
    one = [(w["worker"], w["events"], w["misses"], w["lost"], w["skipped"])
           for w in found["workers"]]  # fmt: skip
    assert one == [("0", 1, 0, 4, 1), ("1", 1, 1, 0, 0)]
    assert (found["events"], found["lost"], found["skipped"]) == (2, 4, {"not JSON": 1})
    rows = run("trace", "summary", tmp_path / "w.0.jsonl", tmp_path / "w.1.jsonl").out
    assert re.search(r"│1 +│ +1 │ +0 │ +1 │", rows)
    assert rows.splitlines()[-1].startswith("2 events, 2 runs, 2 traces, 1970-01-01 00:00:01 UTC")


def test_recover_completes_every_trace_of_a_folder(run: Run, tmp_path: Path) -> None:
    killed(tmp_path / "w.0.jsonl")
    trace(tmp_path / "w.1.jsonl", line(run="r", seq=0))
    before = sum(1 for _ in read_trace(tmp_path / "w.0.jsonl"))
    assert "trace recover" in run("trace", "summary", tmp_path).err
    found = json.loads(run("trace", "recover", tmp_path, "--format", "json").out)
    assert found == {
        "recovered": 1000 - before, "journals": 1, "damaged": 0, "alive": 0, "lost": 0,
    }  # fmt: skip
    ended = run("trace", "summary", tmp_path, "--format", "json")
    assert (json.loads(ended.out)["events"], ended.err) == (1001, "")


def test_recover_completes_every_trace_that_is_named(run: Run, tmp_path: Path) -> None:
    paths = [tmp_path / "w.0.jsonl", tmp_path / "w.1.jsonl"]
    for path in paths:
        killed(path)
    ended = run("trace", "recover", *paths)
    assert [line.split(": ")[0] for line in ended.out.splitlines()] == list(map(str, paths))
    assert all("recovered from 1 journal" in line for line in ended.out.splitlines())
    summary = run("trace", "summary", *paths, "--format", "json")
    assert (json.loads(summary.out)["events"], summary.err) == (2000, "")


def test_many_journals_are_one_line(run: Run, tmp_path: Path) -> None:
    for path in workers(tmp_path / "runs", 9):
        trace(path.with_name(f"{path.name}.0f.journal"))
    said = run("trace", "summary", tmp_path / "runs").err
    assert said.count("\n") == 1
    assert said.startswith("forwardcache: 9 of 9 traces have a journal next to them")
    assert f"trace recover {tmp_path / 'runs'})" in said


def test_watch_shows_all_workers_and_who_is_quiet(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    trace(tmp_path / "w.0.jsonl", line(100.0), line(40.0, hit=False), b"x\n")
    trace(tmp_path / "w.1.jsonl", line(70.0), line(op="trace_lost", lost=2))
    trace(tmp_path / "w.2.jsonl")
    ended = run("trace", "watch", ".", "--once")
    assert (ended.code, ended.err) == (0, "")
    rows = dict(row.split(None, 1) for row in ended.out.splitlines() if row)
    assert rows["workers"].strip() == (
        "3; 1 with nothing new: w.1.jsonl for 30 s; 1 without an event"
    )
    assert "3: 2 hits, 1 computed, 2 events lost, skipped 1 line" in rows["events"]


def test_followers_find_new_traces_and_begin_anew_where_one_was_replaced(tmp_path: Path) -> None:
    paths = [trace(tmp_path / "0", line(1.0))]
    followers = Followers(lambda known: [path for path in paths if path not in known])

    def seen() -> list[float]:
        return [event.ts for event in followers.look()]

    assert (seen(), seen(), followers.starts) == ([1.0], [], 1)
    paths.append(trace(tmp_path / "1", line(2.0), line(3.0)[:-1]))
    with paths[0].open("ab") as file:
        file.write(line(4.0))
    assert (seen(), followers.starts, followers.traces) == ([4.0, 2.0], 1, 2)
    assert followers.behind_bytes == 0
    with paths[1].open("ab") as file:
        file.write(b"\n")
    assert seen() == [3.0]
    trace(tmp_path / "new", line(5.0)).replace(paths[1])
    assert (seen(), followers.starts) == ([1.0, 4.0, 5.0], 2)
    followers.close()


def test_the_traces_of_running_writers_are_read_while_they_grow(run: Run, tmp_path: Path) -> None:
    with TraceWriter(tmp_path / "w.0.jsonl") as one, TraceWriter(tmp_path / "w.1.jsonl") as other:
        for at in range(20):
            for writer in (one, other):
                writer.write(TraceEvent(float(at), None, "base", "h", 8, "op", 0.5, True))
        ended = run("trace", "summary", tmp_path, "--format", "json")
        assert ended.err.count("there is a journal") == 2
    found = json.loads(run("trace", "summary", tmp_path, "--format", "json").out)
    assert [each["events"] for each in found["workers"]] == [20, 20]
