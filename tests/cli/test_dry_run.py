"""``score --dry-run``.

Claims: it tells what the run then does (passes, tokens, what the store has, prompts that would be
skipped), an estimate that a forward was measured for, and writes nothing: no rows, no trace, no
store.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, read_rows

VIEWS = ("--views", "base,ft,null:7", "--top-k", 8)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize("op", ["next_token_dist", "rolling_logprob", "logprob_of"])
def test_it_tells_what_the_run_then_does(
    op: str, score: Run, prompts: Path, tmp_path: Path
) -> None:
    lines = prompts.read_text("utf-8").splitlines()
    prompts.write_text("\n".join([*lines, lines[0], "no prompt"]), "utf-8")
    few = tmp_path / "few.jsonl"
    few.write_text("\n".join(lines[:5]), "utf-8")
    store = ("--store", tmp_path / "values.db")
    common = ("--op", op, "--on-error", "skip", "--format", "json")
    # A view beside base is asked for what a comparison needs; a store keeps that.
    score("--prompts", few, *VIEWS, *common, *store, "--out", tmp_path / "few-rows.jsonl")
    options = ("--prompts", prompts, *VIEWS, *common, *store)

    before = files(tmp_path)
    ended = score(*options, "--dry-run", "--out", tmp_path / "out.jsonl", "--trace",
                  tmp_path / "trace.jsonl")  # fmt: skip
    assert ended.code == 0, ended.err
    assert {name for name in files(tmp_path) if not name.startswith("values.db-")} == {
        name for name in before if not name.startswith("values.db-")
    }
    told = json.loads(ended.out)
    assert (told["dry_run"], told["op"], told["prompts"]) == (True, op, 13)
    assert [one["line"] for one in told["skipped"]] == [14]
    assert told["estimate"]["seconds"] > 0
    assert told["estimate"]["measured_tokens"] > 0
    for view in told["views"]:
        assert (view["prompts"], view["kept"], view["to_run"]) == (13, 6, 7)

    ended = score(*options, "--out", tmp_path / "out.jsonl")
    run: dict[str, Any] = json.loads(ended.out)["run"]
    assert run["tokens_run"] == sum(view["tokens"] for view in told["views"])
    rows = read_rows(tmp_path / "out.jsonl")
    for view in told["views"]:
        hits = [row["hit"] for row in rows if row["view"] == view["view"]]
        assert (hits.count(True), hits.count(False)) == (view["kept"], view["to_run"])

    again = json.loads(score(*options, "--dry-run").out)
    assert [view["to_run"] for view in again["views"]] == [0, 0, 0]
    assert again["estimate"] == {"seconds": 0.0, "measured_tokens": 0}


def test_a_store_that_is_not_there_is_not_made(score: Run, prompts: Path, tmp_path: Path) -> None:
    before = files(tmp_path)
    ended = score("--prompts", prompts, *VIEWS, "--dry-run", "--store", tmp_path / "new.db")
    assert ended.code == 0, ended.err
    assert files(tmp_path) == before
    for word in ("to run", "base", "null_7", "12 prompts", "about 0:", "to tell"):
        assert word in ended.out


def test_what_it_can_t_look_into_is_refused(score: Run, prompts: Path, tmp_path: Path) -> None:
    options = ("--prompts", prompts, "--dry-run")
    score(*options, "--resume", "--out", tmp_path / "out.jsonl").refused("--resume")
    score(*options, "--ray", "local", "--workers", 1).refused("--dry-run", "--ray")
