"""``forwardcache score``: rows that say what the backend says, on every way in and out."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forwardcache.hf import HFBackend
from forwardcache.jobs import planning
from tests.cli.conftest import ASSETS, Ended, Run, read_rows
from tests.tolerance import TOLERANCE

VOCABULARY = 1024


def inputs(prompts: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in prompts.read_text("utf-8").splitlines()]


def dense(backend: HFBackend, view: Any, prompt: str) -> np.ndarray:
    """float64[vocabulary]: log-probabilities by id."""
    with view as scorer:
        dist = scorer.next_token_dist(prompt, top_k=VOCABULARY)
    logprobs = np.empty(VOCABULARY)
    logprobs[dist.token_ids] = dist.logprobs.astype(np.float64)
    return logprobs


def test_distributions_are_the_backend_s(score: Run, prompts: Path, backend: HFBackend) -> None:
    ended = score("--prompts", prompts, "--views", "base,scaled:0.5,null:7", "--top-k", "16")
    assert ended.code == 0, ended.err
    rows = ended.rows
    lines = inputs(prompts)
    places = [(row["id"], row["view"]) for row in rows]
    assert places == [
        (i, v) for i in range(1, len(lines) + 1) for v in ("base", "scaled_0.50", "null_7")
    ]
    views: dict[str, Callable[[], Any]] = {
        "base": backend.as_base,
        "scaled_0.50": lambda: backend.as_scaled_adapter(0.5),
        "null_7": lambda: backend.as_null_adapter(7),
    }
    for row in rows:
        with views[row["view"]]() as view:
            dist = view.next_token_dist(lines[row["line"] - 1]["prompt"], top_k=16)
        assert row["token_ids"] == dist.token_ids.tolist()
        np.testing.assert_allclose(row["logprobs"], dist.logprobs, atol=TOLERANCE)
        assert row["tail_logprob"] == pytest.approx(dist.tail_logprob, abs=TOLERANCE)
        assert (row["top_k"], row["vocab_size"], row["op"]) == (16, VOCABULARY, "next_token_dist")
        assert row["hit"] is False


def test_the_fields_stand_in_their_order(score: Run, prompts: Path) -> None:
    rows = score("--prompts", prompts, "--top-k", "4").rows
    head, dist = (
        ["id", "line", "view", "op", "hit"],
        ["top_k", "token_ids", "logprobs", "tail_logprob"],
    )
    assert list(rows[0]) == [*head, *dist, "vocab_size", "input"]
    assert list(rows[1]) == [*head, *dist, "vocab_size", "kl_base_nats", "input"]
    carried = {key: value for key, value in inputs(prompts)[0].items() if "prompt" not in key}
    del carried["completion"]
    assert rows[0]["input"] == rows[1]["input"] == carried


@pytest.mark.parametrize("wide", [4096, 0])
@pytest.mark.parametrize("top_k", [8, VOCABULARY])
def test_kl_is_that_of_float64_over_the_whole_vocabulary(  # noqa: PLR0917 - fixtures
    score: Run,
    prompts: Path,
    backend: HFBackend,
    monkeypatch: pytest.MonkeyPatch,
    top_k: int,
    wide: int,
) -> None:
    """Of the values where they have the whole vocabulary, else of both views' logits."""
    monkeypatch.setattr(planning, "WIDE", wide)
    ended = score("--prompts", prompts, "--views", "base,ft", "--top-k", top_k)
    for row in ended.rows[::2]:
        assert not {"kl_base_nats", "kl_lower_bound"} & row.keys()
    for row in ended.rows[1::2]:
        prompt = inputs(prompts)[row["line"] - 1]["prompt"]
        p, q = (
            np.exp(dense(backend, v, prompt)) for v in (backend.as_base(), backend.as_finetuned())
        )
        assert row["kl_base_nats"] == pytest.approx(float(np.sum(p * np.log(p / q))), abs=2e-4)
        assert not {"kl_lower_bound", "mass_outside", "compared_tokens"} & row.keys()


def test_without_base_the_reason_for_no_table_is_said(score: Run, prompts: Path) -> None:
    ended = score("--prompts", prompts, "--views", "ft,null:1")
    assert ended.code == 0
    assert "no table: differences are from base, which isn't among --views" in ended.err


def test_where_no_null_is_asked_for_it_is_said_how(
    score: Run, prompts: Path, tmp_path: Path
) -> None:
    told = score("--prompts", prompts, "--out", tmp_path / "rows.jsonl")
    assert "null:1:matched to null:19:matched" in told.out


def test_comparing_costs_no_second_pass(score: Run, prompts: Path) -> None:
    ended = score("--prompts", prompts, "--views", "base,ft,null:1", "--top-k", "4")
    assert "36 values computed, 0 hits" in ended.err


def test_texts_are_the_backend_s(score: Run, prompts: Path, backend: HFBackend) -> None:
    rows = score("--prompts", prompts, "--op", "rolling_logprob").rows
    totals: dict[tuple[int, str], float] = {}
    for row in rows:
        with backend.as_base() if row["view"] == "base" else backend.as_finetuned() as view:
            rolling = view.rolling_logprob(inputs(prompts)[row["line"] - 1]["prompt"])
        assert row["token_ids"] == rolling.token_ids.tolist()
        assert row["num_tokens"] == len(row["token_ids"]) == len(row["logprobs"]) + 1
        np.testing.assert_allclose(row["logprobs"], rolling.logprobs, atol=TOLERANCE)
        assert row["total_logprob"] == pytest.approx(rolling.total_logprob, abs=1e-3)
        totals[row["id"], row["view"]] = row["total_logprob"]
    for row in rows[1::2]:
        base, tuned = totals[row["id"], "base"], totals[row["id"], "ft"]
        assert row["delta_nats"] == pytest.approx(tuned - base)


def test_completions_are_the_backend_s(score: Run, prompts: Path, backend: HFBackend) -> None:
    rows = score("--prompts", prompts, "--op", "logprob_of").rows
    head, counted = ["id", "line", "view", "op", "hit"], ["num_tokens", "spans_boundary"]
    assert list(rows[1]) == [*head, "logprob", *counted, "delta_nats", "input"]
    for base, tuned in zip(rows[::2], rows[1::2], strict=True):
        line = inputs(prompts)[base["line"] - 1]
        with backend.as_base() as view:
            direct = view.logprob_of(line["prompt"], line["completion"])
        assert base["logprob"] == pytest.approx(direct, abs=1e-3)
        assert tuned["delta_nats"] == pytest.approx(tuned["logprob"] - base["logprob"])


def test_hits_are_told_row_by_row(score: Run) -> None:
    ended = score("--prompts", "-", "--views", "base,scaled:0,ft", stdin=b"one\ntwo\none\n")
    hits = {(row["id"], row["view"]): row["hit"] for row in ended.rows}
    assert [hits[i, "base"] for i in (1, 2, 3)] == [False, False, True]
    assert [hits[i, "scaled_0.00"] for i in (1, 2, 3)] == [True, True, True]
    assert "4 values computed, 5 hits, hit rate 55.6%" in ended.err


def test_base_may_stand_anywhere_among_the_views(score: Run, prompts: Path) -> None:
    last = score("--prompts", prompts, "--views", "ft,base").rows
    first = score("--prompts", prompts, "--views", "base,ft").rows
    assert [row["view"] for row in last[:2]] == ["ft", "base"]
    assert [last[1::2], last[::2]] == [first[::2], first[1::2]]


def test_a_blank_line_is_counted_and_not_scored(score: Run) -> None:
    ended = score("--prompts", "-", "--views", "base", stdin=b"one\n\ntwo\n")
    assert [(row["id"], row["line"]) for row in ended.rows] == [(1, 1), (3, 3)]


@pytest.mark.parametrize("own", ["a-7", 40, 2.5, True, "7", ""])
def test_a_row_has_the_id_that_its_line_had(score: Run, own: Any) -> None:
    lines = [{"prompt": "one", "id": own}, {"prompt": "two"}, {"prompt": "three", "id": None}]
    stdin = "".join(json.dumps(each) + "\n" for each in lines).encode()
    rows = score("--prompts", "-", "--views", "base", stdin=stdin).rows
    assert [(row["id"], row["line"]) for row in rows] == [(own, 1), (2, 2), (3, 3)]
    assert type(rows[0]["id"]) is type(own)
    assert rows[0]["input"] == {"id": own}


def test_a_file_holds_what_standard_output_would(score: Run, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / "rows.jsonl"
    streamed = score("--prompts", prompts, "--views", "base,ft,null:7")
    filed = score("--prompts", prompts, "--views", "base,ft,null:7", "--out", out)
    assert read_rows(out) == streamed.rows
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "prompts.jsonl",
        "rows.jsonl",
        "rows.jsonl.meta.json",
    ]
    for text in (streamed.err, filed.out):
        assert re.search(r"null_7 \(random\) │ +[0-9.]+ │ +0\.02 ", text)
    assert "values computed" in filed.err
    assert "values computed" not in filed.out


def test_parquet_holds_the_same_rows(score: Run, prompts: Path, tmp_path: Path) -> None:
    rows = score("--prompts", prompts, "--top-k", "5").rows
    ended = score("--prompts", prompts, "--top-k", "5", "--out", tmp_path / "rows.parquet")
    assert ended.code == 0, ended.err
    table = pl.read_parquet(tmp_path / "rows.parquet")
    assert table.schema["logprobs"] == pl.List(pl.Float32)
    for row, read in zip(rows, table.to_dicts(), strict=True):
        assert read.pop("kl_base_nats") == row.pop("kl_base_nats", None)
        np.testing.assert_array_equal(
            np.float32(read.pop("logprobs")), np.float32(row.pop("logprobs"))
        )
        # A field that another prompt has is null.
        read["input"] = {name: value for name, value in read["input"].items() if value is not None}
        assert read == row
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "prompts.jsonl",
        "rows.parquet",
        "rows.parquet.meta.json",
    ]


def test_carried_fields_of_any_kind_survive_parquet(score: Run, tmp_path: Path) -> None:
    carried: list[dict[str, Any]] = [
        {"x": 1},
        {"x": '\u2028 "q" \\'},
        {"x": {"y": [1.5, None, 10**30]}, "z": True},
        {},
    ]
    lines = "".join(json.dumps({"prompt": "p", **fields}) + "\n" for fields in carried)
    out = tmp_path / "rows.parquet"
    ended = score("--prompts", "-", "--views", "base", "--out", out, stdin=lines.encode())
    assert ended.code == 0, ended.err
    assert [json.loads(text) for text in pl.read_parquet(out)["input"]] == carried


def test_the_summary_as_json(score: Run, prompts: Path, tmp_path: Path) -> None:
    options = ("--prompts", prompts, "--views", "base,ft,null:7", "--format", "json")
    told = json.loads(score(*options, "--out", tmp_path / "rows.jsonl").out)
    rows = read_rows(tmp_path / "rows.jsonl")
    tuned, null = told["views"]
    kls = [row["kl_base_nats"] for row in rows if row["view"] == "ft"]
    assert tuned["kl_base_nats"]["mean"] == pytest.approx(np.mean(kls))
    assert tuned["kl_base_nats"]["median"] == pytest.approx(np.median(kls))
    assert tuned["kl_base_nats"]["interval"] is None
    assert tuned["update_norm"] > 5 * null["update_norm"] > 0
    assert (tuned["deviation"], null["deviation"]) == (None, 0.02)
    assert (tuned["is_null"], null["is_null"]) == (False, True)
    assert (tuned["nulls"], null["nulls"]) == (None, None)
    assert told["run"]["forward_passes"] == told["run"]["cache_misses"] == 36
    assert told["run"]["tokens_per_s"] > 0


def test_the_trace_has_an_event_for_every_row(score: Run, prompts: Path, tmp_path: Path) -> None:
    trace = tmp_path / "trace.jsonl"
    score("--prompts", prompts, "--views", "base,null:7", "--trace", trace)
    events = read_rows(trace)
    assert len(events) == 24
    assert {event["view_id"] for event in events} == {"base", "null_7"}
    score("--prompts", prompts, "--views", "base", "--trace", trace)
    assert len(read_rows(trace)) == 36


def test_special_tokens_and_chat_templates_change_the_prompt(
    run: Run, score: Run, tmp_path: Path
) -> None:
    def token_ids(ended: Ended) -> list[int]:
        assert ended.code == 0, ended.err
        ids: list[int] = ended.rows[0]["token_ids"]
        return ids

    rolling = ("--prompts", "-", "--views", "base", "--op", "rolling_logprob")
    with_bos = token_ids(score(*rolling, stdin=b"one two"))
    assert token_ids(score(*rolling, "--no-special-tokens", stdin=b"one two")) == with_bos[1:]

    chatty = tmp_path / "chatty"
    chatty.mkdir()
    for path in (ASSETS / "model").iterdir():
        (chatty / path.name).symlink_to(path)
    (chatty / "chat_template.jinja").write_text("<|bos|>Ship's log: {{ messages[0]['content'] }}")
    dist = ("score", "--prompts", "-", "--dtype", "float32")
    framed = run(*dist, "--model", chatty, "--chat-template", stdin=b"day 3")
    plain = run(*dist, "--model", ASSETS / "model", stdin=b"Ship's log: day 3")
    assert framed.rows[0]["logprobs"] == plain.rows[0]["logprobs"]


def test_values_that_are_not_finite_are_null_and_told(run: Run, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    broken = Path(shutil.copytree(ASSETS / "model", tmp_path / "broken"))
    weights = load_file(broken / "model.safetensors")
    weights["model.norm.weight"] *= float("nan")
    save_file(weights, broken / "model.safetensors", {"format": "pt"})
    options = ("--model", broken, "--adapter", ASSETS / "adapter", "--prompts", "-")
    ended = run("score", *options, stdin=b"one\n")
    assert ended.code == 0, ended.err
    base, tuned = ended.rows
    assert (base["logprobs"][0], tuned["kl_base_nats"]) == (None, None)
    assert "(1 not finite)" in ended.err
    assert "2 values are not finite" in ended.err


def test_a_trace_that_can_t_be_written_is_told_and_costs_no_row(score: Run) -> None:
    ended = score("--prompts", "-", "--trace", "/dev/full", stdin=b"one\n")
    assert (ended.code, len(ended.rows)) == (0, 2)
    assert "2 events are missing in the trace" in ended.err


def test_a_model_without_adapter_has_base(run: Run) -> None:
    ended = run("score", "--model", ASSETS / "model", "--prompts", "-", stdin=b"one")
    assert [row["view"] for row in ended.rows] == ["base"]


def test_prompts_are_scored_in_chunks_with_the_same_result(
    score: Run, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = score("--prompts", prompts, "--top-k", "5").rows
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 5)
    for row, chunked in zip(whole, score("--prompts", prompts, "--top-k", "5").rows, strict=True):
        assert chunked["token_ids"] == row["token_ids"]
        np.testing.assert_allclose(chunked["logprobs"], row["logprobs"], atol=TOLERANCE)
