"""Claims: ``export teacher`` writes, at each position of a text, what the view expects there, with
offsets, tails and the completion's mask; ``--mass`` keeps the fewest tokens that hold it; a run
that was cut short goes on to the same file; what can't be exported is one clear line.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.cli.conftest import ASSETS, Ended, Run, first, last_of_each, read_rows

COLUMNS = {
    "id": pl.Int64, "line": pl.Int64, "view": pl.String, "input_ids": pl.List(pl.Int64),
    "completion_mask": pl.List(pl.Int64), "token_ids": pl.List(pl.Int64),
    "logprobs": pl.List(pl.Float32), "offsets": pl.List(pl.Int64),
    "tail_logprobs": pl.List(pl.Float32),
}  # fmt: skip


@pytest.fixture
def teacher(run: Run) -> Run:
    """``export teacher`` of the demo's model and adapter."""

    def call(*arguments: object, **keywords: Any) -> Ended:
        model = ["--model", ASSETS / "model", "--adapter", ASSETS / "adapter", "--top-k", 4]
        words = last_of_each([*model, "--dtype", "float32", *arguments])
        return run("export", "teacher", *words, **keywords)

    return call


def test_a_row_has_what_the_view_expects_at_each_position(
    teacher: Run, prompts: Path, tmp_path: Path, backend: Any
) -> None:
    out = tmp_path / "teacher.parquet"
    ended = teacher("--texts", first(prompts, 3), "--out", out, "--format", "json")
    assert ended.code == 0, ended.err
    frame = pl.read_parquet(out)
    assert dict(list(frame.schema.items())[: len(COLUMNS)]) == COLUMNS
    lines = [json.loads(line) for line in first(prompts, 3).read_text("utf-8").splitlines()]
    encoded = backend.encoded([(one["prompt"], one["completion"]) for one in lines], form="pair")
    for row, tokens, line in zip(frame.rows(named=True), encoded, lines, strict=True):
        ids = list(tokens.token_ids)
        assert (row["view"], row["input_ids"]) == ("ft", ids)
        mask = [int(at >= tokens.first_scored) for at in range(len(ids))]
        assert row["completion_mask"] == mask
        assert row["offsets"] == list(range(0, 4 * len(ids), 4))
        assert row["input"] == {name: line[name] for name in ("style", "topic")}
        [value] = backend.values("top_k_at_each_position", [(ids[:1], ids[1:])], top_k=4)
        assert row["token_ids"] == value.token_ids.tolist()
        assert row["logprobs"] == pytest.approx(value.logprobs.tolist(), abs=1e-4)
        assert row["tail_logprobs"] == pytest.approx(value.tail_logprobs.tolist(), abs=1e-4)
    told = json.loads(ended.out)
    assert (told["view"], told["texts"], told["tokens_a_position"]) == ("ft", 3, 4.0)
    facts = json.loads(pl.read_parquet_metadata(out)["forwardcache"])
    assert facts == json.loads(out.with_name(out.name + ".meta.json").read_text())
    assert facts["figures"]["mass_outside"] == pytest.approx(told["mass_outside"])
    assert (facts["op"], facts["options"]["top_k"]) == ("top_k_at_each_position", 4)
    assert facts["counts"] == {"prompts": 3, "rows": 3, "skipped": 0}


def test_mass_keeps_the_fewest_tokens_that_hold_it(
    teacher: Run, prompts: Path, tmp_path: Path
) -> None:
    texts = first(prompts, 2)
    whole, cut = tmp_path / "whole.jsonl", tmp_path / "cut.jsonl"
    assert teacher("--texts", texts, "-o", whole, "--top-k", 6).code == 0
    assert teacher("--texts", texts, "-o", cut, "--top-k", 6, "--mass", 0.5).code == 0
    for row, kept in zip(read_rows(whole), read_rows(cut), strict=True):
        begins = [0]
        for at, tail in enumerate(row["tail_logprobs"]):
            own = slice(6 * at, 6 * at + 6)
            ids, probabilities = row["token_ids"][own], np.exp(row["logprobs"][own])
            count = min(6, 1 + int((probabilities.cumsum() < 0.5).sum()))
            place = slice(kept["offsets"][at], kept["offsets"][at + 1])
            assert kept["token_ids"][place] == ids[:count]
            outside = np.exp(tail) + probabilities[count:].sum()
            assert np.exp(kept["tail_logprobs"][at]) == pytest.approx(outside, abs=1e-5)
            begins.append(begins[-1] + count)
        assert kept["offsets"] == begins
        assert begins[-1] < 6 * len(row["tail_logprobs"])


def test_whole_texts_views_and_an_end_in_a_file_that_is_not_verified(
    teacher: Run, run: Run, tmp_path: Path
) -> None:
    texts, out = tmp_path / "texts.txt", tmp_path / "out.jsonl"
    texts.write_text("A list is\nPython\n")
    ended = teacher("--texts", texts, "-o", out, "--append-eos", "--view", "base", "--limit", 1)
    assert ended.code == 0, ended.err
    [row] = read_rows(out)
    assert (row["view"], row["id"]) == ("base", 1)
    assert row["input_ids"][-1] == 2
    assert row["completion_mask"] == [1] * len(row["input_ids"])
    assert len(row["tail_logprobs"]) == len(row["input_ids"]) - 1
    run("verify", out).refused("it is an export, which isn't verified", "the same command again")


def test_a_run_that_was_cut_short_goes_on_to_the_same_file(
    teacher: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)
    out, whole = tmp_path / "out.parquet", tmp_path / "whole.parquet"
    assert teacher("--texts", prompts, "-o", whole).code == 0
    written = "forwardcache.jobs.results.PartFile.write"
    real, calls = __import__("forwardcache.jobs.results").jobs.results.PartFile.write, []

    def write(part: Any, rows: Any) -> None:
        calls.append(len(rows))
        if len(calls) == 3:
            raise KeyboardInterrupt
        real(part, rows)

    with monkeypatch.context() as patched:
        patched.setattr(written, write)
        ended = teacher("--texts", prompts, "-o", out)
    assert ended.code == 130
    assert "the rows of 8 of 12 texts are in" in ended.err
    teacher("--texts", prompts, "-o", out, "--resume", "--top-k", 5).refused("other top_k")
    ended = teacher("--texts", prompts, "-o", out, "--resume", "--format", "json")
    assert "going on after 8 of 12 texts" in ended.err
    assert (json.loads(ended.out)["texts"], json.loads(ended.out)["run"]["cache_misses"]) == (12, 4)
    assert pl.read_parquet(out).equals(pl.read_parquet(whole))


def test_a_store_spares_the_second_run_its_forwards(
    teacher: Run, prompts: Path, tmp_path: Path
) -> None:
    store, texts = tmp_path / "values.sqlite", first(prompts, 3)
    assert teacher("--texts", texts, "-o", tmp_path / "one.jsonl", "--store", store).code == 0
    ended = teacher("--texts", texts, "-o", tmp_path / "two.jsonl", "--store", store)
    assert "0 values computed, 3 hits" in ended.err
    assert read_rows(tmp_path / "one.jsonl") == read_rows(tmp_path / "two.jsonl")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--mass", 0], "--mass is 0, allowed is above 0, up to 1"),
        (["--view", "base,ft"], "--view base,ft: one view is exported, got 2"),
        (["--view", "other"], "unknown view"),
        (["--chat-template-args", "{}"], "--chat-template-args needs --chat-template"),
        (["--out", "teacher.csv"], "must end in .jsonl or .parquet"),
        (["--chat-template"], 'line 1: a prompt without a "completion"'),
    ],
)
def test_what_cannot_be_meant_is_refused(
    teacher: Run, tmp_path: Path, words: list[Any], said: str
) -> None:
    texts = tmp_path / "texts.txt"
    texts.write_text("A list is\n")
    teacher("--texts", texts, "--out", tmp_path / "out.jsonl", *words).refused(said)
    assert not (tmp_path / "out.jsonl").exists()


def test_texts_that_cannot_be_exported_are_told_and_left_out(teacher: Run, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "out.jsonl"
    lines = [
        {"prompt": "A list is", "id": "good"},
        {"text": "is it a set? " * 400},
        {"prompt": "A list is", "completion": ""},
        {"prompt": [{"role": "user", "content": "hello"}]},
        {"other": 1},
    ]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    ended = teacher("--texts", texts, "-o", out, "--on-error", "skip", "--strict",
                    "--format", "json")  # fmt: skip
    assert ended.code == 1
    reasons = {one["line"]: one["reason"] for one in json.loads(ended.out)["skipped"]}
    assert [row["id"] for row in read_rows(out)] == ["good"]
    assert "more than the model's context length of" in reasons[2]
    assert "--windows" not in reasons[2]
    assert reasons[3] == "the completion is empty; there is no token to score"
    assert reasons[4].startswith('a list of messages without a "completion"')
    assert reasons[5] == 'no "prompt" or "text" (or "messages")'
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines[:2]))
    teacher("--texts", texts, "-o", tmp_path / "two.jsonl").refused("line 2: ", "context length")
