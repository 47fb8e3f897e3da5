"""``OUT.meta.json``: which run made the rows.

Claims: it says all that statistics need of a run, is there before ``OUT`` is, in a table too, knows
the skipped prompts of every part of a run, never has a password, and is neither lost nor left where
the rows get no name.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forwardcache import __version__
from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs import results as output
from forwardcache.jobs.facts import tokenizer_folder
from forwardcache.jobs.fingerprint import folder_fingerprint
from forwardcache.jobs.metadata import WORDS, command, meta_of, view_of
from forwardcache.jobs.results import PartFile
from tests.cli.conftest import ASSETS, Run, read_rows

ROW = {"id": 1, "line": 1, "view": "base", "op": "logprob_of", "hit": False, "input": {}}
FACTS = {"versions": {"forwardcache": "1"}, "command": "this run"}


def meta(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(meta_of(out).read_text("ascii"))
    return found


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_it_says_which_run_it_was(name: str, score: Run, prompts: Path, tmp_path: Path) -> None:
    out = tmp_path / name
    prompts.write_text(prompts.read_text("utf-8") + "no prompt\n", "utf-8")
    ended = score(
        "--prompts", prompts, "--views", "base,ft,scaled:1.001,null:7:0.1,null:8:matched",
        "--top-k", 8, "--out", out, "--on-error", "skip", "--noise-floor", "--token-budget", 512,
    )  # fmt: skip
    assert ended.code == 0, ended.err
    found = meta(out)
    assert found["command"].startswith("forwardcache score --model ")
    assert found["command"].endswith("--noise-floor --token-budget 512")
    assert found["date"].endswith("+00:00")
    assert found["versions"]["forwardcache"] == __version__
    assert found["versions"]["python"] == ".".join(map(str, sys.version_info[:3]))
    for package in ("torch", "transformers", "peft", "tokenizers"):
        assert found["versions"][package] == version(package)
    for kind in ("model", "adapter"):
        folder = ASSETS / kind
        assert found[kind] == {"folder": str(folder), "digest": folder_fingerprint(folder)}
    assert (found["dtype"], found["device"], found["token_budget"]) == ("float32", "cpu", 512)
    assert found["threads"] >= 1
    assert found["op"] == "next_token_dist"
    assert found["views"] == [
        {"view": "base", "kind": "base"},
        {"view": "ft", "kind": "ft"},
        {"view": "scaled_1.001", "kind": "scaled", "lambda": 1.001},
        {"view": "null_7_init0.1", "kind": "null", "seed": 7, "init_scale": 0.1, "rank_scale": 1.0},
        {"view": "null_8_matched", "kind": "null", "seed": 8, "matched": True},
    ]
    assert found["seeds"] == {"intervals": 0, "null_7_init0.1": 7, "null_8_matched": 8}
    assert [view_of(each).name for each in found["views"]] == [
        each["view"] for each in found["views"]
    ]
    assert found["options"]["top_k"] == 8
    digest = hashlib.sha256(prompts.read_bytes()).hexdigest()
    assert found["prompts"] == {"file": str(prompts), "sha256": digest}
    assert found["counts"] == {"prompts": 13, "rows": 60, "hits": 0, "skipped": 1}
    [skipped] = found["skipped"]
    assert (skipped["line"], skipped["id"]) == (13, 13)
    assert "not JSON" in skipped["reason"]
    assert found["noise_floor"]["prompts"] == 12
    if name == "rows.parquet":
        assert json.loads(pl.read_parquet_metadata(out)["forwardcache"]) == found
        assert pl.read_parquet(out).height == 60


def test_a_resumed_run_knows_the_skips_and_hits_of_its_first_part(
    score: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    lines = prompts.read_text("utf-8").splitlines()
    prompts.write_text("\n".join(["no prompt", *lines, lines[0], "none either"]), "utf-8")
    options = ["--prompts", prompts, "--views", "base", "--out", out, "--on-error", "skip"]
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)
    with monkeypatch.context() as patch:
        patch.setattr(PartFile, "write", interrupted_after(2))
        assert score(*options).code == 130
    assert not meta_of(out).exists()
    ended = score(*options, "--resume")
    assert ended.code == 0, ended.err
    assert [one["line"] for one in meta(out)["skipped"]] == [1, len(lines) + 3]
    rows = read_rows(out)
    hits = sum(row["hit"] for row in rows)
    assert meta(out)["counts"] == {"prompts": 15, "rows": len(rows), "hits": hits, "skipped": 2}


def interrupted_after(writes: int) -> Any:
    write, left = PartFile.write, [writes]

    def writing(self: PartFile, rows: Any) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        write(self, rows)

    return writing


def test_files_and_folders_are_told_wherever_the_reader_is(
    score: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tokenizer = tmp_path / "tokenizer"
    shutil.copytree(ASSETS / "model", tokenizer)
    monkeypatch.chdir(tmp_path)
    words = ["--prompts", prompts.name, "--tokenizer", "tokenizer", "--views", "base"]
    assert score(*words, "--top-k", 8, "--out", "rows.jsonl").code == 0
    found = meta(tmp_path / "rows.jsonl")
    assert found["prompts"]["file"] == str(prompts)
    digest = folder_fingerprint(tokenizer)
    assert found["tokenizer"] == {"folder": str(tokenizer), "digest": digest}


def test_a_folder_that_is_called_as_the_models_own_tokenizer_is_not_told(
    score: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "base").mkdir()
    monkeypatch.chdir(tmp_path)
    words = ["--prompts", prompts, "--tokenizer", "base", "--views", "base"]
    assert score(*words, "--top-k", 8, "--out", "rows.jsonl").code == 0
    assert meta(tmp_path / "rows.jsonl")["tokenizer"] is None


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_a_page_of_the_rows_says_which_run_made_them(
    name: str, score: Run, run: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / name
    assert score("--prompts", prompts, "--top-k", 8, "--out", out).code == 0
    found = meta(out)
    if name == "rows.parquet":
        meta_of(out).unlink()
    ended = run("report", "--scores", out, "--format", "json")
    said = {one["fact"]: one["value"] for one in json.loads(ended.out)["scores"]["facts"]}
    assert said["command"] == found["command"]
    assert said["model digest"] == found["model"]["digest"]
    assert said["versions torch"] == version("torch")
    assert said["views"] == "view base kind base, view ft kind ft"
    assert said["options chat_template"] == "no"
    assert "noise_floor" not in said
    page = run("report", "--scores", out, "--format", "html").out
    assert "Which run made these rows" in page
    assert found["model"]["digest"] in page


def test_tokens_that_moved_are_read_with_the_runs_own_tokenizer(
    score: Run, run: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    assert score("--prompts", prompts, "--top-k", 8, "--out", out).code == 0

    def moved() -> Any:
        return json.loads(run("report", "--scores", out, "--format", "json").out)["scores"]["moved"]

    with_texts = moved()
    assert all(row["token"].startswith('"') for row in with_texts)
    given = run("report", "--scores", out, "--tokenizer", ASSETS / "model", "--format", "json")
    assert json.loads(given.out)["scores"]["moved"] == with_texts
    facts = meta(out)
    meta_of(out).write_text(json.dumps({**facts, "model": {"folder": str(tmp_path)}}))
    assert all("token" not in row for row in moved())
    (tmp_path / "tokenizer.json").write_text("no tokenizer")
    ended = run("report", "--scores", out)
    assert ended.code == 0
    assert "tokens are shown by their ids: --tokenizer" in ended.err


def test_the_tokenizer_of_a_run_is_the_one_that_it_read_with(tmp_path: Path) -> None:
    folders = {name: tmp_path / name for name in ("model", "adapter", "other")}
    for folder in folders.values():
        folder.mkdir()
        (folder / "tokenizer.json").touch()
    facts = {name: {"folder": str(folders[name])} for name in ("model", "adapter")}
    facts["tokenizer"] = {"folder": str(folders["other"])}

    def found(asked: Any) -> Path | None:
        return tokenizer_folder({**facts, "options": {"tokenizer": asked}})

    assert found(None) == folders["adapter"]
    assert found("adapter") == folders["adapter"]
    assert found("base") == folders["model"]
    assert found("some/where") == folders["other"]
    (folders["adapter"] / "tokenizer.json").unlink()
    assert (found(None), found("adapter")) == (folders["model"], None)
    assert tokenizer_folder({"options": [], "model": "m"}) is None
    assert tokenizer_folder({**facts, "options": {"tokenizer": []}}) is None


@pytest.mark.parametrize("text", ["no facts", "[1]", '{"versions": 1}', "[" * 9999])
def test_a_page_is_made_without_facts_that_nobody_can_read(
    text: str, score: Run, run: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    assert score("--prompts", prompts, "--top-k", 8, "--out", out).code == 0
    meta_of(out).write_text(text)
    ended = run("report", "--scores", out, "--format", "html")
    assert ended.code == 0
    assert "doesn't say which run made the rows: the facts in" in ended.err
    meta_of(out).unlink()
    ended = run("report", "--scores", out, "--format", "html")
    assert (ended.code, ended.err) == (0, "")
    assert "Which run made these rows" not in ended.out


@pytest.mark.parametrize(
    "facts",
    [
        {"view": "null_7", "kind": "null", "seed": 8},
        {"view": "other", "kind": "other"},
        {"view": "base", "kind": "base", "angle": 1},
        {"kind": "base"},
    ],
)
def test_a_view_that_no_parameters_give_is_refused(facts: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError, match="no view of this version"):
        view_of(facts)


def test_no_password_is_written() -> None:
    token = WORDS.set(
        [
            "--store",
            "a.db,redis://me:s3cr@t@host/0?a=1",
            "--store=rediss://host?ssl_password=s3&b=2",
        ]
    )
    try:
        told = command()
    finally:
        WORDS.reset(token)
    assert "s3" not in told
    assert "me" not in told
    assert "redis://***@host/0?a=1" in told
    assert "ssl_password=***&b=2" in told


@pytest.fixture(params=["rows.jsonl", "rows.parquet"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / str(request.param)


def part(out: Path, *, force: bool = False) -> PartFile:
    begun = PartFile(out, {}, force=force, resume=False)
    begun.write([ROW])
    return begun


def test_it_is_there_before_the_rows_have_their_name(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[object] = []

    def move(source: Path, target: Path, *, force: bool) -> None:
        seen.append((target.exists(), meta(target)))
        source.replace(target)

    monkeypatch.setattr(output, "move", move)
    begun = part(out)
    begun.publish(FACTS)
    begun.close()
    assert seen == [(False, FACTS)]
    assert sorted(os.listdir(out.parent)) == [out.name, meta_of(out).name]


@pytest.mark.parametrize("before", [False, True], ids=["nothing before", "rows before"])
def test_rows_that_get_no_name_leave_what_was_there(
    out: Path, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    if before:
        first = part(out)
        first.publish({**FACTS, "command": "the run before"})
        first.close()
    kept = {path.name: path.read_bytes() for path in out.parent.iterdir()}

    def move(source: Path, target: Path, *, force: bool) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(output, "move", move)
    begun = part(out, force=before)
    with pytest.raises(MachineError):
        begun.publish(FACTS)
    begun.close()
    now = {
        path.name: path.read_bytes() for path in out.parent.iterdir() if ".part" not in path.name
    }
    assert now == kept


def test_rows_that_came_meanwhile_keep_theirs(out: Path) -> None:
    begun = part(out)
    out.write_text("another's")
    meta_of(out).write_text("another's too")
    with pytest.raises(InvalidInputError, match="has come while"):
        begun.publish(FACTS)
    begun.close()
    assert (out.read_text(), meta_of(out).read_text()) == ("another's", "another's too")


def test_a_file_of_that_name_that_is_no_runs_is_not_replaced(
    score: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    options = ["--prompts", prompts, "--views", "base", "--top-k", 8, "--out", out]
    meta_of(out).write_text("a note")
    score(*options).refused("rows.jsonl.meta.json", "--force")
    assert meta_of(out).read_text() == "a note"
    assert score(*options, "--force").code == 0
    # What a run left is replaced with its rows.
    out.unlink()
    assert score(*options).code == 0


def test_prompts_and_traces_of_that_name_are_refused(
    score: Run, prompts: Path, tmp_path: Path
) -> None:
    out = tmp_path / "rows.jsonl"
    named = prompts.rename(meta_of(out))
    score("--prompts", named, "--out", out, "--force").refused("file of the prompts")
    score("--prompts", "-", "--out", out, "--trace", named).refused("file of the trace")
