"""``--keep states`` of score and diff: the rows of ``--keep values``, and no forward for a second
question about the same texts; the facts say it, ``verify`` and ``--dry-run`` know it, and the
store's commands take what it keeps.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.cli.conftest import Run, read_rows
from tests.tolerance import TOLERANCE

VIEWS = ("--views", "base,ft", "--top-k", 8)
STATES = ("--keep", "states")


def same(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Asserts that rows agree, but for what may differ between batches."""
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        if name in ("hit", "token_ids", "tokens"):
            continue
        if isinstance(value, float | list) and value:
            np.testing.assert_allclose(found[name], value, atol=20 * TOLERANCE, err_msg=name)
        else:
            assert found[name] == value, name


@pytest.mark.parametrize("op", ["next_token_dist", "logprob_of"])
def test_score_has_the_rows_of_values_and_a_second_op_runs_nothing(
    op: str, score: Run, run: Run, prompts: Path, tmp_path: Path
) -> None:
    store = ("--store", tmp_path / "states.db")
    common = ("--prompts", prompts, *VIEWS)
    out = {keep: tmp_path / f"{keep}.jsonl" for keep in ("values", "states")}
    for keep, path in out.items():
        kept = store if keep == "states" else ()
        ended = score(*common, "--op", op, "--keep", keep, "--out", path, *kept)
        assert ended.code == 0, ended.err
    for found, expected in zip(*map(read_rows, (out["states"], out["values"])), strict=True):
        same(found, expected)
        assert found["hit"] == expected["hit"]
    facts = json.loads((tmp_path / "states.jsonl.meta.json").read_text())
    assert facts["options"]["keep"] == "states"
    asked = (*common, "--op", op, *STATES, *store)
    told = json.loads(score(*asked, "--dry-run", "--format", "json").out)
    assert [view["to_run"] for view in told["views"]] == [0, 0]
    again = score(*common, "--op", op, "--top-k", 3, *STATES, *store, "--out", tmp_path / "b.jsonl")
    assert again.code == 0, again.err
    assert all(row["hit"] for row in read_rows(tmp_path / "b.jsonl"))
    assert run("verify", out["states"], "--share", 1).code == 0


def test_the_stores_commands_take_states(
    score: Run, run: Run, prompts: Path, tmp_path: Path
) -> None:
    path, other = tmp_path / "states.db", tmp_path / "other.db"
    score("--prompts", prompts, *VIEWS, *STATES, "--store", path, "--out", tmp_path / "a.jsonl")
    info = run("store", "info", path)
    assert "hidden_states" in info.out
    assert run("store", "verify", path).code == 0
    exported = run("store", "export", path, tmp_path / "states.parquet")
    assert exported.code == 0, exported.err
    assert run("store", "import", other, tmp_path / "states.parquet").code == 0
    ended = score(
        "--prompts", prompts, *VIEWS, *STATES, "--store", other, "--out", tmp_path / "b.jsonl"
    )
    assert all(row["hit"] for row in read_rows(tmp_path / "b.jsonl")), ended.err
    assert run("store", "prune", other, "--view", "ft").code == 0
    assert "ft" not in run("store", "info", other).out


def test_diff_has_the_figures_of_values(diff: Run, run: Run, prompts: Path, tmp_path: Path) -> None:
    rows = {}
    for keep in ("values", "states"):
        out = tmp_path / f"{keep}.jsonl"
        ended = diff("--texts", prompts, "--keep", keep, "--out", out, "--nulls", 2)
        assert ended.code == 0, ended.err
        rows[keep] = read_rows(out)
        facts = json.loads((tmp_path / f"{keep}.jsonl.meta.json").read_text())
        assert facts["options"]["keep"] == keep
    for found, expected in zip(rows["states"], rows["values"], strict=True):
        same(found, expected)
    assert run("verify", tmp_path / "states.jsonl", "--share", 1).code == 0


def test_another_word_is_refused(score: Run, prompts: Path) -> None:
    score("--prompts", prompts, "--keep", "logits").refused("--keep", "values", "states")
