"""``forwardcache verify``: folders, digests and facts that a table names, none of them trusted.

Checked: folders and prompts elsewhere are taken where their contents are equal; another model,
adapter or file of prompts is refused by its name; facts that are missing or not whole give one
line; nothing that a table names is read but plain files, and none of its words is markup.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forwardcache.jobs.metadata import meta_of
from forwardcache.jobs.prompt_source import open_source
from tests.cli.conftest import ASSETS, Run
from tests.cli.verify_tables import (
    Made,
    Verify,
    facts_of,
    other,
    rewrite,
    set_facts,
    table_maker,
    verifier,
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return table_maker(tmp_path_factory)


@pytest.fixture
def verify(run: Run) -> Verify:
    return verifier(run)


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with copies of the model and the adapter."""
    for kind in ("model", "adapter"):
        shutil.copytree(ASSETS / kind, tmp_path / "copies" / kind)
    return tmp_path / "copies"


def test_folders_and_prompts_elsewhere_are_taken_where_their_contents_are_equal(
    made: Made, verify: Verify, run: Run, elsewhere: Path
) -> None:
    out = made()
    facts = facts_of(out)
    for kind in ("model", "adapter"):
        facts[kind]["folder"] = f"/nowhere/{kind}"
    moved = Path(facts["prompts"]["file"]).rename(elsewhere / "moved.jsonl")
    set_facts(out, facts)
    run("verify", out).refused("there is no folder /nowhere/model", "give --model DIR")
    words = ["--model", elsewhere / "model"]
    run("verify", out, *words).refused("/nowhere/adapter", "give --adapter DIR")
    words += ["--adapter", elsewhere / "adapter"]
    run("verify", out, *words).refused("there is no file", "give --prompts FILE")
    ended, said = verify(out, *words, "--prompts", moved)
    assert (ended.code, said["notes"]) == (0, [])


def test_the_prompts_may_be_a_folder(made: Made, verify: Verify, tmp_path: Path) -> None:
    out = made()
    facts = facts_of(out)
    (tmp_path / "folder").mkdir()
    Path(facts["prompts"]["file"]).rename(tmp_path / "folder" / "prompts.jsonl")
    folder = str(tmp_path / "folder")
    facts["prompts"] = {"file": folder, "sha256": open_source(folder).digest()}
    set_facts(out, facts)
    ended, said = verify(out)
    assert (ended.code, said["notes"]) == (0, [])


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_another_model_or_adapter_is_refused_by_its_name(
    kind: str, made: Made, run: Run, elsewhere: Path
) -> None:
    out = made()
    weights = next((elsewhere / kind).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    run("verify", out, f"--{kind}", elsewhere / kind).refused(
        f"the {kind} in {elsewhere / kind} is not the one that made the rows", "digest"
    )
    facts = facts_of(out)
    facts[kind]["folder"] = str(elsewhere / kind)
    set_facts(out, facts)
    run("verify", out).refused(f"the {kind} in {elsewhere / kind} is not the one")


def test_changed_prompts_are_refused_and_their_rows_found_where_the_facts_were_changed_too(
    made: Made, run: Run, verify: Verify
) -> None:
    import hashlib

    out = made()
    path = Path(facts_of(out)["prompts"]["file"])
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lines[2]["prompt"] += " and"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("verify", out).refused(f"the prompts in {path} are not those of the rows", "--prompts")
    facts = facts_of(out)
    facts["prompts"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    set_facts(out, facts)
    ended, said = verify(out)
    assert ended.code == 1
    assert {each["line"] for each in said["findings"]} == {3}


def test_what_no_digest_vouches_for_is_said(made: Made, verify: Verify, run: Run) -> None:
    out = made()
    facts = facts_of(out)
    facts["model"] = {"folder": "org/name", "digest": None}
    set_facts(out, facts)
    run("verify", out).refused("the model org/name, which was no folder: give --model DIR")
    ended, said = verify(out, "--model", ASSETS / "model")
    assert ended.code == 0
    assert "no digest of the model is recorded" in said["notes"][0]
    assert said["notes"][0] in ended.err


def test_facts_that_lack_a_folder_or_the_prompts_name_the_option(made: Made, run: Run) -> None:
    for name, option in {"model": "--model DIR", "prompts": "--prompts FILE"}.items():
        out = made()
        facts = facts_of(out)
        del facts[name]
        set_facts(out, facts)
        run("verify", out).refused("nothing says which", f"give {option}")


def test_prompts_of_standard_input_have_to_be_given_again(
    made: Made, run: Run, verify: Verify
) -> None:
    out = made()
    facts = facts_of(out)
    file, facts["prompts"]["file"] = facts["prompts"]["file"], "-"
    set_facts(out, facts)
    run("verify", out).refused("came from standard input", "give --prompts FILE")
    assert verify(out, "--prompts", file)[0].code == 0


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_without_facts_are_refused(name: str, made: Made, run: Run) -> None:
    out = made(name)
    meta_of(out).unlink()
    if name == "rows.parquet":
        pl.read_parquet(out).write_parquet(out)
    run("verify", out).refused(f"there is no {name}.meta.json", "views", "options")


NESTED = "[" * 9999
BROKEN: dict[str, Any] = {
    "no JSON": "{",
    "too deep": NESTED,
    "a list": "[]",
    "no versions": {"versions": None},
    "no op": {"op": None},
    "an op that nobody has": {"op": "x"},
    "no views": {"views": []},
    "a view that nobody has": {"views": [{"view": "x", "kind": "x"}]},
    "views of no kind": {"views": [1]},
    "another format": {"options": {"row format": 1}},
    "no counts": {"counts": 1},
    "a count of half a row": {"counts": {"rows": 1.5}},
    "a truth for a count": {"counts": {"rows": True}},
    "an option of another type": {"options": {"row format": 4, "windows": "yes"}},
    "a folder that is a list": {"model": []},
    "a dtype that is none": {"dtype": 1},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_facts_that_are_not_whole_give_one_line(broken: str, made: Made, run: Run) -> None:
    out, change = made(), BROKEN[broken]
    if isinstance(change, str):
        meta_of(out).write_text(change)
    else:
        set_facts(out, {**facts_of(out), **change})
    run("verify", out).refused()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no rows\n", ["line 1 is not JSON"]),
        (b"[1]\n", ["not a JSON object"]),
        (b'{"line": 1}\n', ["a row has a line and a view"]),
        (b'{"line": NaN, "view": "ft"}\n', ["NaN is no JSON value"]),
        (pickle.dumps(print), ["is not JSON"]),
        (b"", []),
    ],
)
def test_a_file_of_something_else_is_no_table(
    content: bytes, words: list[str], made: Made, run: Run, verify: Verify
) -> None:
    out = made()
    out.write_bytes(content)
    if not content:
        assert verify(out)[0].code == 1
        return
    run("verify", out).refused(*words)


def test_a_table_that_is_missing_is_refused(run: Run, tmp_path: Path) -> None:
    run("verify", tmp_path / "rows.jsonl").refused("rows.jsonl")
    run("verify", tmp_path / "rows.parquet").refused("rows.parquet")


def test_no_pipe_or_device_is_read_because_a_table_names_it(
    made: Made, run: Run, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for file in (tmp_path / "pipe.jsonl", "/dev/zero"):
        out = made()
        facts = facts_of(out)
        facts["prompts"]["file"] = str(file)
        set_facts(out, facts)
        run("verify", out).refused(f"there is no file {file}")


def test_what_a_table_says_is_no_markup_and_no_escape_of_a_terminal(made: Made, run: Run) -> None:
    out = made()
    rewrite(out, other("\x1b[31m[red]x", "[bold]\x1b[2J"))
    ended = run("verify", out, "--share", 1)
    assert ended.code == 1
    assert "\x1b" not in ended.out
    assert "[bold]" in ended.out


def test_a_tokenizer_of_its_own_is_held_to_its_digest_too(
    made: Made, run: Run, verify: Verify, elsewhere: Path
) -> None:
    folder = elsewhere / "model"
    template = folder / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %} A:")
    words = ("--tokenizer", str(folder), "--chat-template", "--views", "base")
    out = made("rows.jsonl", *words)
    assert facts_of(out)["options"]["text of the chat template"]
    assert verify(out)[0].code == 0
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %} B:")
    run("verify", out).refused(f"the tokenizer in {folder} is not the one", "--tokenizer DIR")
