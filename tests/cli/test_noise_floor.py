"""Claims: ``score`` says how far base is from itself in other batches, where that matters or was
asked for, and calls a difference that is no larger noise.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwardcache.cli import summary
from forwardcache.cli.job import Tally
from forwardcache.cli.views import parse_views
from forwardcache.hf.noise import NoiseFloor
from tests.cli.conftest import Run

LINE = "noise floor: base in other batches is"


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_comes_with_its_noise_floor(
    dtype: str, score: Run, prompts: Path, tmp_path: Path
) -> None:
    ended = score(
        "--prompts", prompts, "--views", "base,ft", "--dtype", dtype, "--format", "json",
        "--out", tmp_path / "rows.jsonl",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    floor = json.loads(ended.out)["noise_floor"]
    assert floor["dtype"] == dtype
    assert 0 <= floor["mean_nats"] <= floor["max_nats"] < 0.1
    assert 0 < floor["prompts"] <= 32
    assert LINE in ended.err


def test_float32_has_none_unless_asked(score: Run, prompts: Path) -> None:
    asked = ("--prompts", prompts, "--views", "base,ft", "--dtype", "float32")
    assert LINE not in score(*asked).err
    ended = score(*asked, "--noise-floor")
    assert LINE in ended.err
    assert "float32" in ended.err


def test_no_floor_where_nothing_is_compared_or_it_was_declined(score: Run, prompts: Path) -> None:
    half = ("--prompts", prompts, "--dtype", "bfloat16")
    assert LINE not in score(*half, "--views", "base").err
    assert LINE not in score(*half, "--views", "base,ft", "--no-noise-floor").err


@pytest.mark.parametrize("op", ["rolling_logprob", "logprob_of"])
def test_the_other_operations_have_theirs(op: str, score: Run, tmp_path: Path) -> None:
    lines = tmp_path / "lines.jsonl"
    rows = [{"prompt": f"Once {n}", "completion": " upon", "text": f"Once {n}"} for n in range(3)]
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    ended = score(
        "--prompts", lines, "--op", op, "--views", "base,ft", "--dtype", "bfloat16",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert "(bfloat16, 3 prompts)" in ended.err


def test_a_difference_within_the_floor_is_called_noise() -> None:
    views = parse_views("base,ft,scaled:0.5", has_adapter=True)
    tally = Tally()
    tally.differences.update({"ft": [0.5, 0.7], "scaled_0.50": [1e-6, 2e-6]})
    found = summary.differences(views, tally)
    floor = NoiseFloor("next_token_dist", "bfloat16", 2, mean_nats=1e-5, max_nats=2e-5)
    labels = list(summary.table(found, "next_token_dist", floor).columns[0].cells)
    assert labels == ["ft", "scaled_0.50, within noise"]
    assert list(summary.table(found, "next_token_dist").columns[0].cells) == ["ft", "scaled_0.50"]
