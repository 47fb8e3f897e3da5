"""Claims: workers that a cluster has no room for are told of with what they ask for and what is
free, soon and then now and then; paths are those of the folder in which a run begins.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from forwardcache.distributed import scoring, team
from forwardcache.distributed.team import Member, Team
from forwardcache.distributed.wire import options_of
from forwardcache.jobs.options import ModelOptions, NamedAdapter


def test_who_waits_for_the_cluster_is_told(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    waiting = Team.__new__(Team)
    waiting.members = [Member(0, None, "begun"), Member(1, None, "pending")]
    waiting._running = {"load": (waiting.members[0], None)}
    waiting._asks, waiting._next_word_s = {"CPU": 2, "GPU": 0.0}, time.monotonic() + 0.05
    answers = iter([*[False] * 8, True])

    def wait(refs: list[str], *, num_returns: int, timeout: float) -> tuple[list[str], list[str]]:
        if refs == ["load"]:
            time.sleep(0.02)
            return (refs, []) if next(answers) else ([], refs)
        return ["begun"], ["pending"]

    monkeypatch.setattr("ray.wait", wait)
    monkeypatch.setattr(team, "_resources", lambda: {"CPU": 4.0})
    monkeypatch.setattr(team, "_free", lambda: {"CPU": 1.0})
    assert waiting._first_done() == "load"
    [said] = [each.getMessage() for each in caplog.records]
    assert said == "1 of 2 workers wait for the cluster: each asks for 2 CPU; free are 1 of 4 CPU"


def test_relative_paths_are_those_of_the_folder_where_a_run_begins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[bytes] = []

    def made(workers: int, options: Any, **_: Any) -> None:
        given.append(options(3))

    monkeypatch.setattr(team, "Team", made)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m").mkdir()
    relative = ModelOptions(
        "m",
        adapters=(NamedAdapter(None, "../a"),),
        trace=Path("t.jsonl"),
        tokenizer="tok",
        store="s.db,redis://host/0",
    )
    scoring.team_for(relative, workers=1, address="local")
    found = asdict(options_of(given[0]))
    assert found["model"] == str(tmp_path / "m")
    assert found["adapters"] == ({"name": None, "folder": str(tmp_path.parent / "a")},)
    assert found["tokenizer"] == str(tmp_path / "tok")
    assert found["trace"] == tmp_path / "t.3.jsonl"
    assert found["store"] == f"{tmp_path}/s.db,redis://host/0"
    on_hub = ModelOptions("org/name", allow_download=True, store="redis://host")
    scoring.team_for(on_hub, workers=1, address="local")
    found = asdict(options_of(given[1]))
    assert (found["model"], found["store"], found["trace"]) == ("org/name", "redis://host", None)
