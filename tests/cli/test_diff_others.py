"""``diff --other`` and ``--chain``.

Claims: other models are views of the table, the JSON, the rows, the page and JUnit; a merged
adapter has its view's figures and a copy is not distinguishable; rows are those of
``compare_models``; ``verify`` computes them again, and finds one that was changed; a chain holds
each stage against the first and the one before it; names that clash, folders that are none,
another vocabulary and a model that doesn't load are one line each; with ``--on-error skip`` the
others go on, and what is missing is told.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from forwardcache.hf import HFBackend
from forwardcache.hf.others import compare_models, head
from forwardcache.jobs.metadata import meta_of
from tests.cli.conftest import ASSETS, Run, read_rows, without_first_line
from tests.tolerance import TOLERANCE


@pytest.fixture(autouse=True)
def without_collecting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a second each in a process of many tests."""
    monkeypatch.setattr(head, "collect", lambda: None)


@pytest.fixture(scope="module")
def merged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo's adapter merged into its model, in float32."""
    folder = tmp_path_factory.mktemp("models") / "merged"
    load: Any = AutoModelForCausalLM.from_pretrained
    adapted: Any = PeftModel.from_pretrained(
        load(ASSETS / "model", dtype=torch.float32), ASSETS / "adapter"
    )
    adapted.merge_and_unload().save_pretrained(folder)
    AutoTokenizer.from_pretrained(ASSETS / "model").save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def eighths(merged: Path) -> Path:
    """The merged model with its body's weights rounded to 8 bits a row, as a quantiser does."""
    folder = merged.parent / "eighths"
    model: Any = AutoModelForCausalLM.from_pretrained(merged)
    with torch.no_grad():
        for parameter in model.model.layers.parameters():
            if parameter.ndim == 2:
                scale = parameter.abs().amax(1, keepdim=True) / 127
                parameter.copy_((parameter / scale).round() * scale)
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(merged).save_pretrained(folder)
    return folder


def test_a_chain_of_models_is_told_everywhere(  # noqa: PLR0917 - fixtures
    diff: Run, run: Run, prompts: Path, merged: Path, eighths: Path, tmp_path: Path
) -> None:
    out, page, junit = (tmp_path / name for name in ("rows.jsonl", "page.html", "junit.xml"))
    ended = diff(
        "--texts", prompts, f"--other=merged={merged}", f"--other=q8={eighths}", "--chain",
        "--out", out, "--report", page, "--junit", junit, "--format", "json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    views = found["views"]
    assert list(views) == ["ft", "merged", "q8"]
    for field in ("kl", "kl_reverse", "js"):
        assert views["merged"][field]["mean"] == pytest.approx(views["ft"][field]["mean"], 1e-4)
    assert [views[name]["nulls"] for name in ("merged", "q8")] == [None, None]
    of_chain(found["chain"], views)
    of_rows(read_rows(out), prompts)
    of_facts(json.loads(meta_of(out).read_text("ascii")), merged)
    cases = [case.get("name") for case in ElementTree.parse(junit).iter("testcase")]
    assert cases == ["ft measured", "merged measured", "q8 measured"]
    html = page.read_text("utf-8")
    assert "A chain" in html
    assert '"chain":[{"view":"ft"' in html
    checked = run("verify", out, "--share", 1)
    assert checked.code == 0, checked.out + checked.err
    assert "36 of 36 rows scored again" in checked.out


def of_chain(chain: list[dict[str, Any]], views: dict[str, Any]) -> None:
    assert [(one["view"], one["neighbour"]) for one in chain] == [
        ("ft", "base"), ("merged", "ft"), ("q8", "merged")
    ]  # fmt: skip
    for one in chain:
        assert one["against_first"]["kl"]["mean"] == views[one["view"]]["kl"]["mean"]
    assert chain[0]["against_neighbour"] == chain[0]["against_first"]
    merging, rounding = (one["against_neighbour"]["kl"]["mean"] for one in chain[1:])
    assert abs(merging) < 1e-6 < rounding < 0.1
    assert chain[2]["against_neighbour"]["same_top"] > chain[2]["against_first"]["same_top"]


def of_rows(rows: list[dict[str, Any]], prompts: Path) -> None:
    assert [row["view"] for row in rows] == ["ft"] * 12 + ["merged"] * 12 + ["q8"] * 12
    lines = [json.loads(line) for line in prompts.read_text("utf-8").splitlines()]
    for row in rows:
        line = lines[row["line"] - 1]
        assert "".join(row["tokens"]).endswith(line["prompt"] + line["completion"])
    by_view = {
        view: {row["line"]: row for row in rows if row["view"] == view} for view in ("ft", "merged")
    }
    for line, row in by_view["ft"].items():
        np.testing.assert_allclose(by_view["merged"][line]["kl"], row["kl"], atol=TOLERANCE)


def of_facts(facts: dict[str, Any], merged: Path) -> None:
    assert [one["view"] for one in facts["others"]] == ["merged", "q8"]
    first = facts["others"][0]
    assert first["folder"] == str(merged)
    assert (first["dtype"], len(first["digest"]), first["skipped"]) == ("float32", 64, [])
    assert [one["view"] for one in facts["views"]] == ["ft"]


def test_rows_are_what_compare_models_finds(
    run: Run, prompts: Path, eighths: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.parquet"
    words = ("--model", ASSETS / "model", "--dtype", "float32", "--texts", prompts, "--out", out)
    ended = run("diff", *words, "--other", f"q8={eighths}")
    assert ended.code == 0, ended.err
    lines = [json.loads(line) for line in prompts.read_text("utf-8").splitlines()]
    expected = compare_models(
        HFBackend.load(ASSETS / "model", dtype="float32"),
        {"q8": eighths},
        [line["prompt"] for line in lines],
        completions=[line["completion"] for line in lines],
    )["q8"]
    rows = read_table(out)
    assert [(row["line"], row["view"]) for row in rows] == [(at, "q8") for at in range(1, 13)]
    for row, one in zip(rows, expected, strict=True):
        np.testing.assert_allclose(row["kl"], one.kl, atol=TOLERANCE)
        assert row["counts"] == one.counts.tolist()
    checked = run("verify", out, "--share", 1)
    assert checked.code == 0, checked.out + checked.err


def read_table(path: Path) -> list[dict[str, Any]]:
    import polars as pl

    return pl.read_parquet(path).to_dicts()


def test_verify_finds_a_row_of_another_model_that_was_changed(
    diff: Run, run: Run, prompts: Path, eighths: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    assert diff("--texts", prompts, "--other", f"q8={eighths}", "--out", out).code == 0
    rows = read_rows(out)
    rows[-1]["kl"][0] += 0.01
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))
    checked = run("verify", out, "--share", 1)
    assert checked.code == 1, checked.out + checked.err
    assert "q8" in checked.out
    facts = json.loads(meta_of(out).read_text("ascii"))
    facts["others"][0]["digest"] = "0" * 64
    meta_of(out).write_text(json.dumps(facts))
    refused = run("verify", out, "--share", 1)
    assert refused.code == 2
    assert "the model q8 in" in refused.err


def test_a_copy_is_not_distinguishable_and_bounds_hold_for_it(
    diff: Run, prompts: Path, tmp_path: Path
) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(ASSETS / "model", copy)
    words: list[object] = ["--texts", ASSETS / "prompts.jsonl", "--limit", 20, "--views", "base"]
    words += ["--other", f"copy={copy}", "--format", "json"]
    ended = diff(*words, "--expect", "unchanged", "--max-kl", 1e-9)
    assert ended.code == 0, ended.err
    copied = json.loads(ended.out)["views"]["copy"]
    assert (copied["kl"]["mean"], copied["floor"]["distinguishable"]) == (0.0, False)
    assert diff(*words, "--expect", "changed").code == 1


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--other", "nowhere"], "give a name and a folder, NAME=DIR"),
        (["--other", "a=/nowhere"], "--other a=/nowhere: there is no such folder"),
        (["--other", "ft=/nowhere"], "model name 'ft': a view is called so"),
        (["--other", f"a={ASSETS / 'adapter'}"], "it holds an adapter, which --adapter takes"),
        (["--chain"], "--chain holds each stage against the one before it, and there is one"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    words: list[str], said: str, diff: Run, prompts: Path
) -> None:
    diff("--texts", prompts, *words).refused(said)


def test_names_may_stand_once(diff: Run, prompts: Path, merged: Path) -> None:
    twice = ["--other", f"a={merged}", f"--other=a={merged}"]
    diff("--texts", prompts, *twice).refused("two models are called 'a'")


def broken(merged: Path, folder: Path) -> Path:
    """A model without one of its weights."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(merged, folder)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    return folder


def test_models_that_cannot_be_compared(
    diff: Run, prompts: Path, merged: Path, tmp_path: Path
) -> None:
    strange = tmp_path / "strange"
    shutil.copytree(merged, strange)
    words = json.loads((strange / "tokenizer.json").read_text("utf-8"))
    words["added_tokens"].append({
        "id": 1024, "content": "<|new|>", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True,
    })  # fmt: skip
    (strange / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    lacking = broken(merged, tmp_path / "lacking")
    told = {"strange": "another vocabulary: token 1024 is '<|new|>'", "lacking": "lacks 1 weights"}
    for name, why in told.items():
        ended = diff("--texts", prompts, "--other", f"{name}={tmp_path / name}")
        assert ended.code == 2
        assert why in without_first_line(ended.err)
        assert not ended.out
    out = tmp_path / "rows.jsonl"
    ended = diff(
        "--texts", prompts, "--other", f"strange={strange}", f"--other=lacking={lacking}",
        f"--other=merged={merged}", "--on-error", "skip", "--chain", "--format", "json",
        "--out", out,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = json.loads(ended.out)
    assert list(found["views"]) == ["ft", "merged"]
    assert [(one["view"], one["neighbour"]) for one in found["chain"]][1] == ("merged", "ft")
    for name, why in told.items():
        assert why in found["not_compared"][name]
        assert any(why in note for note in found["notes"])
    assert {row["view"] for row in read_rows(out)} == {"ft", "merged"}
    assert "lacking was not compared: " in ended.err
    lacked = ["--texts", prompts, f"--other=lacking={lacking}", "--on-error=skip", "--limit=2"]
    assert diff(*lacked, "--strict").code == 1
    report = tmp_path / "report.xml"
    for bound, code, tag in (
        (["--skip-first", "0"], 0, "skipped"),
        (["--max-kl", "100"], 2, "error"),
    ):
        ended = diff(*lacked, *bound, "--junit", report, "--force")
        assert ended.code == code, ended.err
        cases = ElementTree.parse(report).getroot().iter("testcase")
        (mark,) = next(one for one in cases if one.get("name") == "lacking compared")
        assert mark.tag == tag
        assert "lacks 1 weights" in str(mark.get("message"))
    only = diff(
        "--texts", prompts, "--views", "base", "--other", f"lacking={lacking}", "--on-error", "skip"
    )
    assert only.code == 2
    assert "no other model can be compared" in only.err


def test_a_text_that_another_tokenizer_reads_otherwise_has_no_row_of_it(
    diff: Run, run: Run, prompts: Path, merged: Path, tmp_path: Path
) -> None:
    lower = tmp_path / "lower"
    shutil.copytree(merged, lower)
    words = json.loads((lower / "tokenizer.json").read_text("utf-8"))
    words["normalizer"] = {"type": "Replace", "pattern": {"String": "Paris"}, "content": "Rome"}
    (lower / "tokenizer.json").write_text(json.dumps(words), "utf-8")
    texts = tmp_path / "texts.jsonl"
    lines = [f"Tell me of {name}." for name in ("Paris", "Berlin", "Madrid", "Paris again")]
    texts.write_text("".join(json.dumps({"prompt": line}) + "\n" for line in lines))
    words = ["--texts", texts, "--other", f"lower={lower}"]
    ended = diff(*words)
    assert ended.code == 2
    assert "line 1: lower: its tokenizer reads the text as other tokens" in ended.err
    out = tmp_path / "rows.jsonl"
    ended = diff(*words, "--on-error", "skip", "--out", out, "--format", "json")
    assert ended.code == 0, ended.err
    assert [(row["line"], row["view"]) for row in read_rows(out)] == [
        *((at, "ft") for at in (1, 2, 3, 4)), (2, "lower"), (3, "lower")
    ]  # fmt: skip
    assert any("lower has nothing of 2 texts" in note for note in json.loads(ended.out)["notes"])
    checked = run("verify", out, "--share", 1)
    assert checked.code == 0, checked.out + checked.err
