"""Claims: ``score`` says how far base is from itself in other batches, where that matters or was
asked for, what that doesn't measure, and which difference is no larger.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwardcache.cli import tables
from forwardcache.hf.scoring.noise import NoiseFloor
from forwardcache.jobs.differences import Comparison, differences
from forwardcache.jobs.job import Totals
from forwardcache.jobs.views import parse_views
from forwardcache.operations import operation
from tests.cli.conftest import Run

LINE = "other batches move base by"


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


def test_the_line_says_what_is_not_measured(score: Run, prompts: Path) -> None:
    ended = score("--prompts", prompts, "--views", "base,ft", "--noise-floor")
    assert "rounding that is the same in every batch is not in it" in ended.err
    assert "noise floor" not in ended.err


def labels(op: str, values: dict[str, list[float]]) -> list[str]:
    totals = Totals(operation(op).figure)
    totals.differences.update(values)  # type: ignore[arg-type]
    views = parse_views("base,ft,scaled:0.5", has_adapter=True)
    found = differences(views, totals)
    floor = NoiseFloor(op, "bfloat16", 2, mean_nats=1e-5, max_nats=2e-5)
    without, *_ = tables.tables(Comparison(op, found))
    assert list(without.columns[0].cells) == ["ft", "scaled_0.50"]
    return list(map(str, tables.tables(Comparison(op, found, floor))[0].columns[0].cells))


def test_a_difference_no_larger_than_that_of_other_batches_says_so() -> None:
    values = {"ft": [0.5, 0.7], "scaled_0.50": [1e-6, 2e-6]}
    assert labels("next_token_dist", values) == ["ft", "scaled_0.50, as other batches"]


def test_differences_that_cancel_are_not_taken_for_other_batches() -> None:
    """The floor is a mean of absolute differences, so it is held to one of these."""
    values = {"ft": [0.5, -0.5], "scaled_0.50": [1e-6, -2e-6]}
    assert labels("logprob_of", values) == ["ft", "scaled_0.50, as other batches"]
