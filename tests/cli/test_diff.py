"""``forwardcache diff``: figures, rows and exit codes that say what the backend's comparison says.

Claims: rows hold the arrays of ``HFBackend.compare``, the same in both formats; the JSON object has
the documented names; floor and nulls are those of the backend on the sampled texts; a bound that is
broken or can't be decided has its exit code and a line with its figure; equal texts are no new
evidence; completions alone count; a change that helps half of the texts and hurts the other half is
seen.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import polars as pl
import pytest

from forwardcache.hf import HFBackend
from forwardcache.jobs.diff.rows import ARRAYS, rows_of
from forwardcache.jobs.metadata import meta_of
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import encoded
from forwardcache.scoring import PositionDifferences
from tests.cli.conftest import ASSETS, Run, first, read_rows
from tests.tolerance import TOLERANCE


def inputs(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_are_what_the_backend_finds(  # noqa: PLR0917 - fixtures
    name: str, diff: Run, run: Run, prompts: Path, backend: HFBackend, tmp_path: Path
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
        checked = run("verify", out, "--share", 1)
        assert checked.code == 0, checked.out


OF_A_VIEW = {
    *("kl", "kl_reverse", "js", "correlation", "buckets", "same_top", "top_k_agreement", "ppl"),
    *("ppl_reference", "ppl_ratio", "ppl_ratio_interval", "delta_p", "floor", "nulls"),
    *("visible_from_lambda", "groups", "outcomes"),
}
OF_A_SPREAD = {
    *("mean", "interval", "p1", "p5", "p10", "p25", "median", "p75", "p90", "p95", "p99", "p999"),
    "max",
}
OF_THE_FLOOR = {
    *("mean", "p99", "share_above", "distinguishable", "would_have_seen", "same_top"),
    "mean_abs_delta_logprob",
}
OF_NULLS = {
    *("n", "mean", "sd", "max", "rank", "p", "p_adjusted", "p_smallest", "compared"),
    *("ratio_to_mean", "texts", "significant"),
}


def test_json_has_the_documented_names(diff: Run, prompts: Path) -> None:
    ended = diff("--texts", prompts, "--nulls", 2, "--format", "json", "--group-by", "style")
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert {"reference", "texts", "positions", "views"} <= found.keys()
    assert (found["reference"], found["texts"], list(found["views"])) == ("base", 12, ["ft"])
    view = found["views"]["ft"]
    assert view.keys() >= OF_A_VIEW
    assert all(view[name].keys() >= OF_A_SPREAD for name in ("kl", "kl_reverse", "js"))
    assert view["delta_p"].keys() >= {"mean", "rms"}
    assert view["floor"].keys() >= OF_THE_FLOOR
    assert view["nulls"].keys() >= OF_NULLS
    assert (view["visible_from_lambda"], view["kl"]["interval"]) == (None, None)
    styles = {line["style"] for line in inputs(prompts)}
    assert view["groups"].keys() == styles
    assert {one["nulls"]["compared"] for one in view["groups"].values()} == {1 + len(styles)}


def test_what_was_not_asked_for_is_null(diff: Run, prompts: Path) -> None:
    found = json.loads(diff("--texts", prompts, "--format", "json").out)
    view = found["views"]["ft"]
    assert (view["nulls"], view["visible_from_lambda"], view["groups"]) == (None, None, None)


def test_floor_and_nulls_are_the_backend_s(diff: Run, prompts: Path, backend: HFBackend) -> None:
    ended = diff("--texts", prompts, "--nulls", 3, "--views", "ft,scaled:0.5", "--format", "json")
    views = json.loads(ended.out)["views"]
    lines = inputs(prompts)
    texts, ends = [line["prompt"] for line in lines], [line["completion"] for line in lines]
    floor = backend.rounding_floor(texts, completions=ends)
    assert views["ft"]["floor"]["mean"] == pytest.approx(floor.mean, rel=0.5)
    for name, lam in (("ft", 1.0), ("scaled_0.50", 0.5)):
        nulls = [backend.as_null_adapter(seed, matched=True, lam=lam) for seed in range(3)]
        found = backend.compare(texts, [*nulls, "ft", "scaled:0.5"], completions=ends)
        means = {
            view: np.concatenate([one.kl[one.counts] for one in items]).mean()
            for view, items in found.items()
        }
        of_nulls = [means[null.view_id] for null in nulls]
        told = views[name]["nulls"]
        assert told["mean"] == pytest.approx(np.mean(of_nulls), abs=TOLERANCE)
        assert told["max"] == pytest.approx(max(of_nulls), abs=TOLERANCE)
        assert told["rank"] == 1 + sum(one >= means[name] for one in of_nulls)
        assert (told["n"], told["compared"]) == (3, 2)
        assert views[name]["kl"]["mean"] == pytest.approx(means[name], abs=TOLERANCE)


def test_both_formats_have_the_same_rows(diff: Run, prompts: Path, tmp_path: Path) -> None:
    outs = tmp_path / "rows.jsonl", tmp_path / "rows.parquet"
    for out in outs:
        assert diff("--texts", prompts, "--out", out).code == 0
    lines, table = read_rows(outs[0]), pl.read_parquet(outs[1]).to_dicts()
    for line, row in zip(lines, table, strict=True):
        assert list(line) == list(row)
        for field, kind in ARRAYS.items():
            if kind == "float32[]":
                np.testing.assert_allclose(line[field], row[field], rtol=1e-6)
        same = [name for name in line if name != "input" and ARRAYS.get(name) != "float32[]"]
        assert [line[name] for name in same] == [row[name] for name in same]


def test_copies_are_no_new_evidence(diff: Run, prompts: Path, tmp_path: Path) -> None:
    twice = tmp_path / "twice.jsonl"
    twice.write_text(prompts.read_text("utf-8") * 2, "utf-8")
    ended = diff("--texts", twice, "--format", "json", "--out", tmp_path / "rows.jsonl")
    found = json.loads(ended.out)
    assert (found["texts"], found["views"]["ft"]["floor"]["texts"]) == (12, 12)
    assert found["views"]["ft"]["kl"]["interval"] is None
    assert (
        "Equal texts count as one in an interval, and each of them in a mean: of 24 there are 12 "
        "different ones."
    ) in found["notes"]
    assert len(read_rows(tmp_path / "rows.jsonl")) == 24


def test_whole_texts_count_but_their_first_positions(
    diff: Run, tmp_path: Path, backend: HFBackend
) -> None:
    said = ["The first argument is a callable", "Exception chaining", "A list of strings"]
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": one}) + "\n" for one in said))
    whole = [len(one.kl) for one in backend.compare(said, ["ft"])["ft"]]
    for skip in (0, 2):
        ended = diff("--texts", texts, "--skip-first", skip, "--format", "json")
        assert json.loads(ended.out)["positions"] == sum(max(n - skip, 0) for n in whole)


def test_standard_input_is_lines_of_text(diff: Run) -> None:
    ended = diff("--texts", "-", "--format", "json", stdin=b"Exception chaining\nA list\n")
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["texts"] == 2
    assert "comparing ft with base over standard input" in ended.err


def test_the_estimate_comes_before_the_run_and_alone_in_a_dry_one(
    diff: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    options = ["--texts", prompts, "--nulls", 5, "--out", out]
    ended = diff(*options, "--dry-run", "--format", "json")
    expected = json.loads(ended.out)["estimate"]
    assert expected["forwards"] == 12 * (2 + 4 + 6)
    assert expected["seconds"] > 0.0
    assert not out.exists()
    told = diff(*options, "--dry-run").out
    assert told.startswith("12 texts are read 2 times, 12 of them 4 times for the floor, 6 times")
    assert "144 forwards" in diff(*options).err.splitlines()[1]


@pytest.mark.parametrize(
    ("bounds", "code", "words"),
    [
        (["--max-kl", 100, "--max-ppl-ratio", 50, "--min-same-top", 0.01], 0, []),
        (["--max-kl", 0.01], 1, ["ft: mean KL ", "above --max-kl 0.01", "there are 12"]),
        (["--max-ppl-ratio", 1e-9], 1, ["perplexity ratio", "above --max-ppl-ratio"]),
        (["--min-same-top", 1], 1, ["share of same top", "below --min-same-top 1"]),
        (["--expect", "unchanged"], 2, ["expected unchanged", "there are 12"]),
        (["--expect", "changed"], 2, ["expected changed", "there are 12"]),
        (["--expect", "unchanged", "--max-kl", 0.01], 1, ["above --max-kl 0.01"]),
    ],
)
def test_bounds_have_exit_codes(
    bounds: list[object], code: int, words: list[str], diff: Run, prompts: Path
) -> None:
    ended = diff("--texts", prompts, *bounds)
    assert ended.code == code, ended.err
    said = [line for line in ended.err.splitlines() if "forwardcache: ft: " in line]
    assert len(said) >= bool(words)
    for word in words:
        assert any(word in line for line in said), ended.err


def test_a_view_is_expected_to_be_told_from_rounding_or_not(diff: Run, prompts: Path) -> None:
    texts = first(prompts, 24)
    options = ["--texts", texts, "--format", "json"]
    assert diff(*options, "--expect", "changed").code == 0
    broken = diff(*options, "--expect", "unchanged")
    assert broken.code == 1
    assert "ft: expected unchanged; distinguishable from rounding" in broken.err
    same = ["--views", "scaled:0"]
    assert diff(*options, *same, "--expect", "unchanged", "--max-kl", 1e-6).code == 0
    assert diff(*options, *same, "--expect", "changed").code == 1
    far = diff(*options, "--views", "scaled:0.1", "--expect", "unchanged", "--max-kl", 0.005)
    assert far.code == 1


def test_a_random_view_is_not_held_to_bounds_beside_others(diff: Run, prompts: Path) -> None:
    ended = diff("--texts", prompts, "--views", "scaled:0,null:7", "--max-kl", 1e-6)
    assert ended.code == 0, ended.err
    assert "null_7 is a random adapter of deviation 0.02" in ended.out
    assert diff("--texts", prompts, "--views", "null:7", "--max-kl", 1e-6).code == 1


def test_what_helps_half_and_hurts_half_is_seen(
    diff: Run, backend: HFBackend, tmp_path: Path
) -> None:
    lines = inputs(ASSETS / "prompts.jsonl")
    lines = [line for line in lines if line["style"] == "documentation"]
    pairs = [(line["prompt"], line["completion"]) for line in lines]
    with backend.as_base() as base:
        before = np.array(base.logprob_of_batch(pairs))
    with backend.as_finetuned() as tuned:
        moved = np.array(tuned.logprob_of_batch(pairs)) - before
    worse = np.flatnonzero(moved < 0.0)[:15].tolist()
    better = np.flatnonzero(moved > 0.0).tolist()
    # Each that got worse beside one that got better by about as much: the mean is near 0.
    matched = []
    for at in worse:
        matched.append(min(better, key=lambda other: abs(moved[other] + moved[at])))
        better.remove(matched[-1])
    path = tmp_path / "halves.jsonl"
    chosen = [(at, "worse") for at in worse] + [(at, "better") for at in matched]
    path.write_text("".join(json.dumps({**lines[at], "half": half}) + "\n" for at, half in chosen))
    ended = diff("--texts", path, "--group-by", "half", "--format", "json", "--expect", "changed")
    assert ended.code == 0, ended.err
    view = json.loads(ended.out)["views"]["ft"]
    low, high = view["ppl_ratio_interval"]
    assert low < 1.0 < high
    assert view["groups"]["better"]["ppl_ratio"] < 1.0 < view["groups"]["worse"]["ppl_ratio"]
    assert view["kl"]["interval"][0] > 100 * view["floor"]["mean"]


def test_a_text_that_cannot_be_compared_is_skipped_and_told(
    diff: Run, prompts: Path, tmp_path: Path
) -> None:
    long = json.dumps({"prompt": "word " * 5000, "completion": " end"})
    prompts.write_text(f"{long}\nno text\n{prompts.read_text('utf-8')}", "utf-8")
    out = tmp_path / "rows.jsonl"
    diff("--texts", prompts, "--out", out).refused("line 2", "not JSON")
    options = ["--texts", prompts, "--out", out, "--on-error", "skip", "--format", "json"]
    ended = diff(*options)
    assert ended.code == 0, ended.err
    assert json.loads(ended.out)["skipped"] == 2
    assert "2 texts skipped; the first, line 1: " in ended.err
    assert {row["line"] for row in read_rows(out)} == set(range(3, 15))
    assert json.loads(meta_of(out).read_text("ascii"))["counts"]["skipped"] == 2
    assert diff(*options, "--force", "--strict").code == 1


def test_a_row_has_null_for_what_is_no_finite_number() -> None:
    bad = np.array([np.inf, np.nan])
    none = np.zeros(2, dtype=bool)
    one = PositionDifferences(
        token_ids=np.arange(3), kl=bad, kl_reverse=bad, js=bad, logprob_reference=bad, logprob=-bad,
        entropy_reference=bad, same_top=none, top_k_agreement=bad, counts=none,
    )  # fmt: skip
    [row] = rows_of(Prompt(1, "abc"), "base", {"ft": one}, ["a", "b", "c"])
    found = json.loads(encoded([row]))
    for field in ("kl", "js", "logprob", "entropy_reference"):
        assert found[field] == [None, None]


def test_a_page_and_junit_are_made_of_the_result(diff: Run, prompts: Path, tmp_path: Path) -> None:
    page, junit = tmp_path / "page.html", tmp_path / "junit.xml"
    options = ["--texts", prompts, "--report", page, "--junit", junit, "--max-kl", 0.01]
    ended = diff(*options, "--format", "json")
    assert ended.code == 1
    told, html = json.loads(ended.out), page.read_text("utf-8")
    assert "forwardcache diff" in html
    said = ElementTree.fromstring(junit.read_text("utf-8"))
    assert (said.get("tests"), said.get("failures")) == ("1", "1")
    mean = told["views"]["ft"]["kl"]["mean"]
    assert f"mean KL {mean:.4g} nats is above --max-kl 0.01" in junit.read_text("utf-8")
    # Both take the place of what is there only if that is asked for.
    assert diff(*options).code == 2
    assert diff(*options, "--force").code == 1


def test_the_smallest_visible_scale_is_told_where_it_is_asked_for(diff: Run, prompts: Path) -> None:
    ended = diff("--texts", first(prompts, 20), "--detect", "--format", "json")
    assert ended.code == 0, ended.err
    assert 2**-10 <= json.loads(ended.out)["views"]["ft"]["visible_from_lambda"] < 0.1


def test_completions_alone_count_behind_a_chat_template(run: Run, tmp_path: Path) -> None:
    model = tmp_path / "chatty"
    model.mkdir()
    for path in (ASSETS / "model").iterdir():
        (model / path.name).symlink_to(path)
    turns = "{% for m in messages %}{{ m['content'] }}; {% endfor %}Log:"
    (model / "chat_template.jinja").write_text(turns, "utf-8")
    texts, out = tmp_path / "texts.jsonl", tmp_path / "rows.jsonl"
    messages = [{"role": "user", "content": "the sails"}]
    lines = [{"messages": messages, "completion": " we"}, {"prompt": "day", "completion": " 3"}]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["--model", model, "--adapter", ASSETS / "adapter", "--dtype", "float32", "--nulls", 0]
    ended = run("diff", *given, "--chat-template", "--texts", texts, "--out", out)
    assert ended.code == 0, ended.err
    for row, said in zip(read_rows(out), ("the sails; Log: we", "day; Log: 3"), strict=True):
        assert "".join(row["tokens"]).endswith(said)
        scored = [token for token, counts in zip(row["tokens"][1:], row["counts"], strict=True)
                  if counts]  # fmt: skip
        assert "".join(scored).strip() in said.split(":")[1]
    texts.write_text('{"prompt": "day"}\n')
    run("diff", *given, "--chat-template", "--texts", texts).refused("line 1: a prompt without")


def test_a_text_beyond_the_context_is_compared_in_windows(diff: Run, tmp_path: Path) -> None:
    texts, out = tmp_path / "texts.jsonl", tmp_path / "rows.jsonl"
    long = "the sails are set and the log is kept; " * 40
    lines = [{"text": long}, {"prompt": long, "completion": " at sea"}]
    texts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    diff("--texts", texts).refused("line 1: ")
    ended = diff("--texts", texts, "--windows", "--out", out, "--format", "json")
    assert ended.code == 0, ended.err
    whole, ending = read_rows(out)
    assert len(whole["kl"]) == len(whole["token_ids"]) - 1 > 256
    assert (all(whole["counts"]), 0 < sum(ending["counts"]) < 10) == (True, True)
    assert json.loads(ended.out)["positions"] == len(whole["kl"]) + sum(ending["counts"])


@pytest.fixture(scope="module")
def dora(tmp_path_factory: pytest.TempPathFactory) -> list[object]:
    """The demo's model and an adapter that can be scaled by nothing, as options."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("adapter")
    model = AutoModelForCausalLM.from_pretrained(ASSETS / "model", dtype="float32")
    config = LoraConfig(r=2, use_dora=True, target_modules=["q_proj"], init_lora_weights=False)
    get_peft_model(model, config).save_pretrained(str(folder))
    return ["--model", ASSETS / "model", "--adapter", folder, "--dtype", "float32"]


@pytest.mark.parametrize("words", [["--detect"], ["--views", "ft,scaled:0.5"]])
@pytest.mark.parametrize("dry", [[], ["--dry-run"]])
def test_a_view_that_cannot_be_had_is_refused_before_others_are_run(  # noqa: PLR0917 - fixtures
    words: list[str], dry: list[str], dora: list[object], run: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    ended = run("diff", *dora, "--texts", prompts, "--out", out, *words, *dry)
    # One line: the estimate would stand before what is run.
    ended.refused("can't be exact", "DoRA")
    assert not list(tmp_path.glob("rows*"))


def test_why_there_are_no_nulls_is_told(dora: list[object], run: Run, prompts: Path) -> None:
    ended = run("diff", *dora, "--texts", prompts, "--format", "json")
    assert ended.code == 0, ended.err
    # Before it is run, and without a view that nobody asked for.
    plan = ended.err.splitlines()[1]
    assert "12 texts are read 2 times, 12 of them 4 times for the floor: 72 forwards" in plan
    assert "; no matched nulls: " in plan
    assert "null_0" not in ended.err + ended.out
    found = json.loads(ended.out)
    assert found["views"]["ft"]["nulls"] is None
    assert found["views"]["ft"]["floor"]["mean"] > 0.0
    assert any("There are no matched nulls: " in note and "DoRA" in note for note in found["notes"])


def test_nulls_are_of_base_alone(diff: Run, prompts: Path) -> None:
    ended = diff("--texts", prompts, "--views", "base", "--reference", "ft", "--nulls", 2)
    assert ended.code == 0, ended.err
    assert "There are no matched nulls: they are changes of base" in ended.out
    ended = diff("--texts", prompts, "--views", "null:1:matched", "--nulls", 2)
    assert "There are no matched nulls: --views names neither ft nor scaled" in ended.out
