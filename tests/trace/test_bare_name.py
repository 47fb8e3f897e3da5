"""Claims: a trace that is opened by a bare name, as ``trace.jsonl``, keeps every promise of one
that is opened by its whole path, wherever its process goes.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from forwardcache.instrumentation import BackendInstrumentation, TraceWriter
from tests.trace import events

KILLED = """
import os
from forwardcache.instrumentation import BackendInstrumentation, TraceWriter

trace = TraceWriter("trace.jsonl", interval_s=60)
inst = BackendInstrumentation()
inst.trace = trace
for number in range(5):
    inst.cached("op", "base", f"prompt {number}", 8, lambda: number)
os._exit(9)
"""


def test_its_journal_lies_beside_it_and_goes_with_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    writer = TraceWriter("trace.jsonl")
    assert [Path(name).suffix for name in events.companions(tmp_path / "trace.jsonl")] == [
        ".journal"
    ]
    writer.close()
    assert os.listdir() == ["trace.jsonl"]


def test_what_a_killed_process_left_is_completed_when_it_is_opened_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ended = subprocess.run([sys.executable, "-c", KILLED], check=False)
    assert ended.returncode == 9
    assert not Path("trace.jsonl").read_text()
    TraceWriter("trace.jsonl").close()
    assert len(events.read_whole_lines(Path("trace.jsonl"))) == 5
    assert os.listdir() == ["trace.jsonl"]


def test_it_stays_where_it_is_when_its_process_goes_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    with BackendInstrumentation(trace_path="trace.jsonl") as inst:
        for number, folder in enumerate((tmp_path, elsewhere)):
            os.chdir(folder)
            inst.cached("op", "base", f"prompt {number}", 8, lambda: 1)
            inst.trace.flush()
    assert len(events.read_whole_lines(tmp_path / "trace.jsonl")) == 2
    assert os.listdir(elsewhere) == []
