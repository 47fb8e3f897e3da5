"""``forwardcache diff``: figures, rows and exit codes that say what the backend's comparison says.

Claims: rows hold the arrays of ``HFBackend.compare``, in both formats; the JSON object has the
documented names; a bound that is broken or can't be decided has its exit code and its line; copies
are no new evidence; completions alone count; a run that is interrupted leaves no file.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forwardcache.hf import HFBackend
from forwardcache.jobs.diff.rows import ARRAYS
from forwardcache.jobs.metadata import meta_of
from tests.cli.conftest import ASSETS, Run, last_of_each, read_rows
from tests.tolerance import TOLERANCE


@pytest.fixture
def diff(run: Run) -> Run:
    """``diff`` with the demo's model and adapter, in float32 and without nulls unless asked for."""

    def call(*arguments: object, **keywords: Any) -> Any:
        model = ["--model", ASSETS / "model", "--adapter", ASSETS / "adapter"]
        words = last_of_each([*model, "--dtype", "float32", "--nulls", 0, *arguments])
        return run("diff", *words, **keywords)

    return call


def inputs(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_are_what_the_backend_finds(
    name: str, diff: Run, prompts: Path, backend: HFBackend, tmp_path: Path
) -> None:
    out = tmp_path / name
    ended = diff("--texts", prompts, "--views", "ft,scaled:0.5", "--out", out)
    assert ended.code == 0, ended.err
    rows = read_rows(out) if name == "rows.jsonl" else pl.read_parquet(out).to_dicts()
    lines = inputs(prompts)
    places = [(row["line"], row["view"]) for row in rows]
    assert places == [(at, v) for at in range(1, len(lines) + 1) for v in ("ft", "scaled_0.50")]
    found = backend.compare(
        [line["prompt"] for line in lines],
        ["ft", "scaled:0.5"],
        completions=[line["completion"] for line in lines],
    )
    for row in rows:
        one = found[row["view"]][row["line"] - 1]
        assert list(row) == ["id", "line", "view", "reference", *ARRAYS, "tokens", "input"]
        assert row["reference"] == "base"
        for field in ARRAYS:
            expected = getattr(one, field)
            if expected.dtype.kind == "f":
                np.testing.assert_allclose(row[field], expected, atol=TOLERANCE)
            else:
                assert row[field] == expected.tolist()
        line = lines[row["line"] - 1]
        assert "".join(row["tokens"]).endswith(line["prompt"] + line["completion"])
        carried = {name: value for name, value in row["input"].items() if value is not None}
        assert carried == {key: line[key] for key in line if key not in {"prompt", "completion"}}
    meta = json.loads(meta_of(out).read_text("ascii"))
    assert meta["counts"] == {"prompts": 12, "rows": 24, "skipped": 0}
    assert meta["reference"] == {"view": "base", "kind": "base"}
    if name == "rows.parquet":
        assert json.loads(pl.read_parquet_metadata(out)["forwardcache"]) == meta
