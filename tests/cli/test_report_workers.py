"""``report`` over the traces of many workers: what the merged trace says, and each worker's part.

Checked: the same figures as from one merged file; a row a worker; who had computed what others took
from a store, and what several computed; memory; the page of a hundred workers.
"""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.test_trace import line, trace
from tests.patience import PATIENCE_S

OF_WORKERS = ("workers", "over_workers", "warmed_workers")


def figures(run: Run, *paths: Path) -> dict[str, Any]:
    ended = run("report", *paths, "--format", "json")
    assert ended.code == 0, ended.err
    said: dict[str, Any] = json.loads(ended.out)
    return said


def some_worker(rng: random.Random, at: int, *, events: int) -> list[bytes]:
    """Calls of all kinds: batches, hits, waits, failures, values from a store, evictions."""
    run, lines, asked = f"{at:016x}", [], set()
    for seq in range(events):
        prompt = rng.randrange(events // 3)
        view = rng.choice(("base", "ft"))
        fields: dict[str, Any] = {
            "run": run, "seq": seq, "thread": rng.randrange(2), "prompt_hash": f"{prompt:012x}",
            "view_id": view, "key": f"{prompt}{view}{at}", "probe": rng.choice((None, "a", "b")),
        }  # fmt: skip
        is_hit = rng.random() < 0.5
        fields |= {"hit": is_hit, "wall_ms": rng.choice((0.25, 1.5, rng.random() * 40))}
        if is_hit and rng.random() < 0.2:
            fields["waited"] = True
        elif not is_hit and rng.random() < 0.1:
            fields["error"] = rng.choice(("ValueError", "KeyboardInterrupt"))
        elif not is_hit and rng.random() < 0.7:
            fields |= {"batch": seq // 4, "batch_size": 3 + seq // 4 % 2}
        asked.add(prompt)
        lines.append(line(1e9 + seq * 0.5 + at * 0.01, **fields))
    lines.insert(events // 2, line(1e9, op="trace_lost", lost=at))
    return [*lines, b"torn"]


def some_workers(folder: Path, number: int, *, events: int = 90) -> list[Path]:
    rng = random.Random(5)
    folder.mkdir(exist_ok=True)
    return [
        trace(folder / f"w.{at}.jsonl", *some_worker(rng, at, events=events))
        for at in range(number)
    ]


def close(value: Any) -> Any:
    """``value`` with its floats as such that another order of adding gives."""
    if isinstance(value, dict):
        return {name: close(each) for name, each in value.items() if name != "worker"}
    if isinstance(value, list):
        return [close(each) for each in value]
    return pytest.approx(value, rel=1e-9, abs=1e-9) if isinstance(value, float) else value


def test_a_folder_has_the_figures_of_the_merged_trace(run: Run, tmp_path: Path) -> None:
    paths = some_workers(tmp_path / "runs", 5)
    merged = tmp_path / "merged.jsonl"
    assert run("trace", "merge", tmp_path / "runs", "-o", merged).code == 0
    plain, found = figures(run, merged), figures(run, tmp_path / "runs")
    assert found == figures(run, *paths)
    for name in OF_WORKERS:
        del found[name]
    # What merging left out is in no line of it.
    assert (found.pop("skipped"), plain.pop("skipped")) == ({"no newline at the end": 5}, {})
    assert plain["total"]["recomputed"] > 0 < plain["total"]["from_store"]
    assert min(len(plain[name]) for name in ("threads", "batches", "slowest", "warmed")) > 1
    assert close(found) == plain


def test_a_cache_is_each_session_s_own_however_their_events_take_turns(
    run: Run, tmp_path: Path
) -> None:
    uses = [
        line(at * 1.0 + own / 2, run=f"{own}", seq=at, key=f"{at % 2}", hit=False, wall_ms=1000.0)
        for at in range(4)
        for own in range(2)
    ]
    found = figures(run, trace(tmp_path / "t.jsonl", *uses))["curve"]
    assert (found["entries_enough"], found["enough_saves_s"]) == (2, 4.0)
    assert [(p["entries"], p["miss_ratio"]) for p in found["points"]] == [(1, 1.0), (2, 0.5)]


def test_each_worker_has_a_row(run: Run, tmp_path: Path) -> None:
    trace(
        tmp_path / "w.9.jsonl", line(10.0, run="a", hit=False, wall_ms=4000.0), line(12.0, run="a")
    )
    trace(tmp_path / "w.10.jsonl", line(11.0, run="b", hit=False, error="ValueError"),
          line(op="trace_lost", lost=3), b"x\n")  # fmt: skip
    said = figures(run, tmp_path)
    first, second = said["workers"]
    assert first == {
        "worker": "9", "events": 2, "hits": 1, "hit_rate": 0.5, "misses": 1, "failed": 0,
        "from_store": 0, "from_others": 0, "for_others": 0, "miss_s": 4.0, "hit_s": 0.00025,
        "wait_s": 0.0, "lost": 0, "skipped": 0, "from_s": 0.0, "to_s": 2.0,
    }  # fmt: skip
    assert (second["worker"], second["failed"], second["lost"], second["skipped"]) == (
        "10",
        1,
        3,
        1,
    )
    assert said["over_workers"]["workers_with_lost_events"] == 1
    assert [said["over_workers"][f"{which}_miss_s"] for which in ("least", "median", "most")] == [
        0.0,
        2.0,
        4.0,
    ]
    table = run("report", tmp_path).out
    assert "from others" in table
    assert "\n9    " in table


def test_what_a_worker_had_from_a_store_is_by_who_had_computed_it(run: Run, tmp_path: Path) -> None:
    def asked(ts: float, run_: str, prompt: str, **fields: Any) -> bytes:
        key = f"{run_} {prompt} {fields.get('top_k')}"
        return line(ts, run=run_, key=key, prompt_hash=prompt, **fields)

    computed: dict[str, Any] = {"hit": False, "wall_ms": 2000.0}
    trace(
        tmp_path / "w.0.jsonl",
        asked(1.0, "a", "p", **computed),
        asked(1.0, "a", "q", **computed),
        asked(9.0, "a", "late", **computed),
    )
    trace(
        tmp_path / "w.1.jsonl",
        asked(2.0, "b", "p", wall_ms=1.0),
        asked(3.0, "b", "p"),
        asked(2.0, "b", "q", wall_ms=1.0, top_k=4),
        asked(2.0, "b", "q", wall_ms=1.0, view_id="ft"),
        asked(2.0, "b", "late", wall_ms=1.0),
    )
    # Its own, of an earlier session; and a value that two compute.
    trace(tmp_path / "w.2.jsonl", asked(0.5, "c", "own", **computed), asked(7.0, "d", "own"),
          asked(5.0, "d", "q", **computed))  # fmt: skip
    said = figures(run, tmp_path)
    assert [
        (row["computed_by"], row["asked_by"], row["values"]) for row in said["warmed_workers"]
    ] == [
        (None, "1", 3),
        ("0", "1", 1),
        ("2", "2", 1),
    ]
    assert said["warmed_workers"][1]["saved_s"] == 1.999
    each = [(row["from_store"], row["from_others"], row["for_others"]) for row in said["workers"]]
    assert each == [(0, 0, 1), (4, 1, 0), (1, 0, 0)]
    over = said["over_workers"]
    assert (over["from_other_workers"], over["from_other_workers_saved_s"]) == (1, 1.999)
    assert (over["computed_by_several"], over["computed_again_s"]) == (1, 2.0)


PEAK = """
import sys
from forwardcache.cli.report import report
report([sys.argv[1]], out=None, output_format="json")
status = open("/proc/self/status").read()
print(status.split("VmHWM:")[1].split()[0], file=sys.stderr)
"""


def peak_kb(given: Path) -> int:
    ended = subprocess.run([sys.executable, "-c", PEAK, given], capture_output=True,
                           timeout=PATIENCE_S, check=True)  # fmt: skip
    return int(ended.stderr.split()[-1])


def test_memory_is_that_of_one_trace_and_a_little_for_each_event(tmp_path: Path) -> None:
    more, events = 16, 3000
    lines = [
        line(float(at), run="r" * 16, seq=at, thread=0, key=f"{at:016x}", prompt_hash=f"{at:012x}",
             hit=False)
        for at in range(events)
    ]  # fmt: skip
    for folder, number in (("few", 2), ("many", 2 + more)):
        (tmp_path / folder).mkdir()
        for at in range(number):
            own = [each.replace(b"r" * 16, b"%016x" % at) for each in lines]
            trace(tmp_path / folder / f"w.{at}.jsonl", *own)
    grown = 1024 * (peak_kb(tmp_path / "many") - peak_kb(tmp_path / "few"))
    assert grown < 400 * more * events


def test_the_page_of_a_hundred_workers_is_small_and_names_them(run: Run, tmp_path: Path) -> None:
    some_workers(tmp_path, 100, events=12)
    page = run("report", tmp_path, "--format", "html").out
    assert len(page) < 400_000
    assert "<details><summary>Every worker, in numbers</summary>" in page
    assert "Seconds that each worker computed" in page
    assert page.count("<dt>median miss, s</dt>") == 1
    for at in range(100):
        assert f"""<td data-value='"{at}"'>{at}</td>""" in page
    few = run("report", tmp_path / "w.1.jsonl", tmp_path / "w.2.jsonl", "--format", "html").out
    assert "Every worker, in numbers" not in few
