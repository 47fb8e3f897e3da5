"""``forwardcache trace export``: the formats, what is left out, and files that stand in the way."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import tracemalloc
from pathlib import Path

import polars as pl
import pytest

from forwardcache.observe import read_trace
from tests.cli.conftest import Run
from tests.cli.test_trace import command, line, trace
from tests.patience import PATIENCE_S

COLUMNS = [
    "ts", "probe", "view_id", "prompt_hash", "top_k", "op", "wall_ms", "hit", "run", "thread",
    "seq", "key", "batch", "batch_size", "batch_wall_ms", "bytes", "error", "waited",
]  # fmt: skip


def test_chrome_has_the_events_of_all_traces(run: Run, tmp_path: Path) -> None:
    one = trace(tmp_path / "one", line(2.0), line(None), b"x\n", line(op="trace_lost", lost=3))
    other = trace(tmp_path / "other", line(1.0, run="r", thread=0))
    out = tmp_path / "out.json"
    ended = run("trace", "export", one, other, "--chrome", out)
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == (
        f"forwardcache: {out}: 2 events; skipped 1 line (not JSON: 1); left out 1 event "
        "(no time: 1); 3 events lost by the writers\n"
    )
    entries = json.loads(out.read_text("ascii"))["traceEvents"]
    assert sum(entry["ph"] == "X" for entry in entries) == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "out.json"]


def test_parquet_has_a_column_a_field_and_the_values_of_the_lines(run: Run, tmp_path: Path) -> None:
    full = {"run": "r", "thread": 1, "seq": 7, "key": "k", "batch": 2, "batch_size": 3}
    full |= {"batch_wall_ms": 1.5, "bytes": 99, "error": "E", "waited": True}
    path = trace(tmp_path / "t", line(), line(None, hit=False, probe="é", **full))
    out = tmp_path / "out.parquet"
    assert run("trace", "export", path, "--parquet", out).code == 0
    frame = pl.read_parquet(out)
    assert frame.columns == COLUMNS
    for row, event in zip(frame.to_dicts(), read_trace(path), strict=True):
        known = {name: getattr(event, name) for name in COLUMNS}
        assert row == known | ({"ts": None} if math.isnan(event.ts) else {})


def test_parquet_takes_what_it_has_no_type_for(run: Run, tmp_path: Path) -> None:
    path = trace(tmp_path / "t", line(), line(top_k=2**70, view_id="a\ud800", wall_ms=None))
    out = tmp_path / "out.parquet"
    ended = run("trace", "export", path, "--parquet", out)
    assert ended.code == 0, ended.err
    first, second = pl.read_parquet(out).to_dicts()
    assert (first["top_k"], first["view_id"], first["wall_ms"]) == (8, "base", 0.25)
    assert (second["top_k"], second["view_id"], second["wall_ms"]) == (None, "a\\ud800", None)


def test_both_at_once_and_an_empty_trace(run: Run, tmp_path: Path) -> None:
    path = trace(tmp_path / "t")
    chrome, parquet = tmp_path / "c.json", tmp_path / "p.parquet"
    ended = run("trace", "export", path, "--chrome", chrome, "--parquet", parquet)
    assert (ended.code, ended.err.count("0 events")) == (0, 2)
    assert json.loads(chrome.read_text("ascii"))["traceEvents"] == []
    assert pl.read_parquet(parquet).columns == COLUMNS
    assert pl.read_parquet(parquet).is_empty()


@pytest.mark.parametrize("option", ["--chrome", "--parquet"])
def test_a_file_is_replaced_only_with_force_and_never_what_is_read(
    run: Run, tmp_path: Path, option: str
) -> None:
    path, out = trace(tmp_path / "t", line()), trace(tmp_path / "out", b"precious")
    run("trace", "export", path, option, out).refused("is there already", "--force")
    assert out.read_bytes() == b"precious"
    run("trace", "export", path, option, path, "--force").refused("is also read")
    assert path.read_bytes() == line()
    assert run("trace", "export", path, option, out, "--force").code == 0
    assert out.read_bytes() != b"precious"
    assert not (tmp_path / "out.part").exists()


def test_wrong_use_is_one_line(run: Run, tmp_path: Path) -> None:
    path, out = trace(tmp_path / "t", line()), tmp_path / "out"
    run("trace", "export", path).refused("--chrome", "--parquet")
    run("trace", "export", path, "--chrome", out, "--parquet", out).refused("the same file")
    run("trace", "export", "-", "--chrome", out, "--parquet", tmp_path / "p").refused("once")
    run("trace", "export", tmp_path / "none", "--chrome", out).refused("none", "No such file")
    run("trace", "export", path, "--chrome", tmp_path).refused("is a folder")
    run("trace", "export", path, "--chrome", tmp_path / "no" / "out").refused("there is no folder")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["t"]


def test_standard_input_is_exported(tmp_path: Path) -> None:
    for option in ("--chrome", "--parquet"):
        ended = command("export", "-", option, tmp_path / option, stdin=line() * 3)
        assert (ended.returncode, "3 events" in ended.stderr) == (0, True), ended.stderr


@pytest.mark.parametrize("option", ["--chrome", "--parquet"])
def test_a_full_disk_ends_the_export_and_leaves_nothing(tmp_path: Path, option: str) -> None:
    lines = [line(float(n), view_id=f"{n * 7919 % 10_007:x}") for n in range(5_000)]
    path = trace(tmp_path / "t", *lines)
    ended = command("export", path, option, tmp_path / "out", limit=8_000)
    assert ended.returncode == 3, ended.stderr
    assert "out.part" in ended.stderr
    assert ended.stderr.count("\n") == 1
    assert [each.name for each in tmp_path.iterdir()] == ["t"]


def test_memory_does_not_grow_with_the_trace(run: Run, tmp_path: Path) -> None:
    def peak(events: int) -> int:
        batch = {"run": "r", "thread": 0, "batch_size": 10}
        lines = (line(1.0 + n / 100, batch=n // 10, **batch) for n in range(events))
        path = trace(tmp_path / f"{events}", *lines)
        tracemalloc.start()
        try:
            assert run("trace", "export", path, "--chrome", tmp_path / f"{events}.json").code == 0
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    # What a first run imports is no trace's.
    peak(10)
    assert peak(20_000) < 1.5 * peak(5_000) + 1_000_000


def test_chrome_needs_no_numbers_and_no_model(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl", line())
    script = (
        "import sys; from forwardcache.__main__ import main\n"
        f"assert main(['trace', 'export', {str(path)!r}, '--chrome', {str(path) + '2'!r}]) == 0\n"
        "assert not {'torch', 'numpy', 'transformers', 'polars'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=PATIENCE_S, capture_output=True
    )
