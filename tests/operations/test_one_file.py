"""Claims: an operation is one file. A new one in ``forwardcache/operations`` is an operation of the
backend, the store, ``score``, its tables, the report and Ray, and nothing else is edited for it.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

import forwardcache
from tests.warm import WarmPython

HERE = Path(__file__).parent
PACKAGE = Path(forwardcache.__file__).parent
DEMO = PACKAGE / "demo"
OP = "next_token_entropy"
PROMPTS = ["A list is", "The value of", "Python"]

Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, warm: WarmPython) -> Run:
    """Runs Python where the package has one operation more."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(PACKAGE, folder / "forwardcache", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(HERE / f"{OP}.py", folder / "forwardcache" / "operations")
    variables = {"PYTHONPATH": str(folder), "OMP_NUM_THREADS": "1"}
    environment = {**os.environ, **variables}

    def of(*words: str | Path) -> subprocess.CompletedProcess[str]:
        command = [str(warm.python), *map(str, words)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done

    return of


@pytest.fixture
def score(run: Run, tmp_path: Path) -> Run:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{prompt}\n" for prompt in PROMPTS))

    def of(*words: str | Path) -> subprocess.CompletedProcess[str]:
        model = ("--model", DEMO / "model", "--adapter", DEMO / "adapter", "--device", "cpu")
        views = ("--views", "base,ft", "--op", OP, "--prompts", prompts)
        return run("-m", "forwardcache", "score", *model, *views, *words)

    return of


BACKEND = """
import json, sys
from pathlib import Path
import torch
from forwardcache.hf import HFBackend

demo, store = sys.argv[1:3]
prompts = json.loads(sys.argv[3])

def load():
    return HFBackend.load(
        f"{demo}/model", adapter=f"{demo}/adapter", device="cpu", identity="strict", store=store
    )

with load() as backend:
    views = [backend.as_base(), backend.as_finetuned()]
    found = backend.score(prompts, views, "next_token_entropy")
    forwards = backend.stats.forward_passes
    with backend.as_base() as base:
        again = base.values("next_token_entropy", prompts)
        dist = base.next_token_dist(prompts[0], top_k=base.next_token_dist("x").vocab_size)
    hits = backend.stats.cache_hits
    floor = backend.noise_floor(prompts, "next_token_entropy").max_nats
logprobs = torch.tensor(dist.logprobs).double()
plain = float(-(logprobs.exp() * logprobs).sum())
with load() as later:
    kept = later.score(prompts, [later.as_base(), later.as_finetuned()], "next_token_entropy")
    print(json.dumps({
        "found": found, "again": again, "kept": kept, "plain": plain, "floor": floor,
        "forwards": forwards, "hits": hits, "run later": later.stats.forward_passes,
        "from store": later.store.hits,
    }))
"""


def test_backend_and_store(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "values.sqlite"
    told = json.loads(run("-c", BACKEND, DEMO, store, json.dumps(PROMPTS)).stdout)
    assert told["found"]["base"] == told["again"]
    assert told["found"] == told["kept"]
    assert told["again"][0] == pytest.approx(told["plain"], abs=1e-4)
    assert told["found"]["base"] != told["found"]["ft"]
    assert (told["forwards"], told["run later"], told["from store"]) == (6, 0, 6)
    assert told["hits"] >= 3
    assert 0.0 <= told["floor"] < 1e-4


def test_score_and_its_tables(score: Run, run: Run, tmp_path: Path) -> None:
    lines, table = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    told = score("-o", lines, "--format", "json").stdout
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    fields = ["id", "line", "view", "op", "hit", "entropy_nats", "is_sure"]
    assert list(rows[0]) == [*fields, "input"]
    assert list(rows[1]) == [*fields, "entropy_change_nats", "input"]
    changes = [after["entropy_nats"] - before["entropy_nats"]
               for before, after in zip(rows[::2], rows[1::2], strict=True)]  # fmt: skip
    assert [row["entropy_change_nats"] for row in rows[1::2]] == pytest.approx(changes)
    [tuned] = json.loads(told)["views"]
    assert tuned["entropy_change_nats"]["mean"] == pytest.approx(sum(changes) / len(changes))
    shown = score("-o", table).stdout
    assert "change of entropy" in shown
    frame = pl.read_parquet(table)
    assert frame["entropy_change_nats"].to_list()[1::2] == pytest.approx(changes)
    assert frame.schema["is_sure"] == pl.Boolean
    assert "to run" in score("--dry-run").stdout
    for rows_file in (lines, table):
        figures = json.loads(
            run("-m", "forwardcache", "report", "--scores", rows_file, "--format", "json").stdout
        )["scores"]
        assert figures["measure"] == "change of entropy, nats"
        assert figures["views"][0]["mean_nats"] == pytest.approx(sum(changes) / len(changes))
        assert "better_rate" in figures["views"][0]


def test_its_name_is_offered(run: Run) -> None:
    assert OP in run("-m", "forwardcache", "score", "--help").stdout


RAY = """
import json, sys
from forwardcache.distributed import score

demo = sys.argv[1]
sys.path.append(sys.argv[3])
from tests.patient_ray import make_patient

make_patient()
rows = score(
    json.loads(sys.argv[2]), model=f"{demo}/model", adapter=f"{demo}/adapter", workers=1,
    op="next_token_entropy", device="cpu",
)
print("rows", json.dumps(rows))
"""


def test_ray(run: Run) -> None:
    told = run("-c", RAY, DEMO, json.dumps(PROMPTS), HERE.parents[1]).stdout
    [line] = [line for line in told.splitlines() if line.startswith("rows ")]
    rows: list[dict[str, Any]] = json.loads(line.removeprefix("rows "))
    assert [row["view"] for row in rows] == ["base", "ft"] * len(PROMPTS)
    for before, after in zip(rows[::2], rows[1::2], strict=True):
        change = after["entropy_nats"] - before["entropy_nats"]
        assert after["entropy_change_nats"] == pytest.approx(change)
