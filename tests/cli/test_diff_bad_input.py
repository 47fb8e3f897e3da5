"""Claim: what ``diff`` can't do ends in one clear line and exit 2, before the model is loaded where
that can be told without it, and nothing is left under the names that were asked for.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import ASSETS, Run, last_of_each

MODEL, ADAPTER = ASSETS / "model", ASSETS / "adapter"


@pytest.fixture
def no_load(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails a test that gets as far as loading a model."""

    def load(options: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr("forwardcache.cli.diff.load", load)


def words(*options: object) -> list[object]:
    given = ["diff", "--model", MODEL, "--adapter", ADAPTER, "--texts", "good.txt", *options]
    return last_of_each(given)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text("one line of text\n")


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--views", "tuned"), "unknown view 'tuned'"),
        (("--views", "base"), "nothing to hold against base: --views names no other view"),
        (("--views", "ft,ft"), "ft twice"),
        (("--reference", "old"), "unknown view 'old'"),
        (("--reference", "ft"), "nothing to hold against ft: without --views that is ft alone"),
        (("--nulls", "-1"), "--nulls is -1, allowed is a number 0 or more"),
        (("--skip-first", "-1"), "--skip-first is -1, allowed"),
        (("--limit", "0"), "--limit is 0, allowed is a number 1 or more"),
        (("--max-kl", "-1"), "--max-kl is -1, allowed"),
        (("--max-kl", "inf"), "--max-kl is inf, allowed"),
        (("--max-ppl-ratio", "nan"), "--max-ppl-ratio is nan, allowed"),
        (("--min-same-top", "2"), "--min-same-top is 2, allowed is a number from 0 to 1"),
        (("--expect", "same"), "--expect"),
        (("--format", "yaml"), "yaml"),
        (("--detect", "--views", "null:1"), "--detect is about the adapter"),
        (("--detect", "--views", "scaled:0.5"), "--detect is about the adapter at its full"),
        (("--detect", "--views", "base", "--reference", "ft"), "against base"),
        (("--chat-template-args", "{}"), "--chat-template-args needs --chat-template"),
        (("--identity", "labels"), "--identity"),
        (("--adapter", "nowhere"), "--adapter nowhere: there is no such folder"),
        (("--model", "nowhere"), "--allow-download"),
        (("--texts", "nowhere.txt"), "can't read the texts 'nowhere.txt'"),
        (("--texts", str(MODEL)), "the folder of a model"),
        (("--out", "rows.csv"), ".parquet"),
        (("--out", "no/rows.jsonl"), "no folder no"),
        (("--report", "page.txt"), "must end in .html"),
        (("--report", "no/page.html"), "no folder no"),
        (("--junit", "."), "is a folder"),
        (("--out", "good.jsonl", "--texts", "good.jsonl"), "is also the file of the texts"),
        (("--out", "a.jsonl", "--junit", "a.jsonl.meta.json"), "is also the file of the rows"),
        (("--report", "a.html", "--junit", "a.html"), "is also the file of the report"),
        (("--other", "b=DIR"), "--other"),
    ],
)
def test_it_is_refused_before_the_model_is_loaded(
    options: tuple[str, ...], word: str, run: Run, tmp_path: Path
) -> None:
    Path("good.jsonl").write_text('{"text": "one"}\n')
    run(*words(*options)).refused(word)
    assert {path.name for path in tmp_path.iterdir()} == {"good.txt", "good.jsonl"}


@pytest.mark.usefixtures("no_load")
def test_without_an_adapter_it_says_what_to_give(run: Run) -> None:
    ended = run("diff", "--model", MODEL, "--texts", "good.txt")
    ended.refused("nothing to hold against the model itself: give --adapter DIR, whose view is ft")
    run("diff", "--model", MODEL, "--texts", "good.txt", "--views", "ft").refused("--adapter DIR")


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("option", "file"),
    [("--out", "a.jsonl"), ("--report", "a.html"), ("--junit", "a.xml"), ("--out", "b.jsonl")],
)
def test_a_file_that_is_there_is_kept(option: str, file: str, run: Run) -> None:
    there = Path(f"{file}.part" if file == "b.jsonl" else file)
    there.write_text("before")
    ended = run(*words(option, file))
    ended.refused(str(there), "--force")
    assert ("--resume" in ended.err) == (file == "b.jsonl")
    assert there.read_text() == "before"


@pytest.mark.usefixtures("no_load")
@pytest.mark.parametrize(
    ("option", "file"), [("--out", "a.jsonl"), ("--report", "b/a.html"), ("--junit", "config.json")]
)
@pytest.mark.parametrize("read", ["--model", "--adapter"])
def test_nothing_is_written_into_what_is_read(
    option: str, file: str, read: str, run: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "read"
    shutil.copytree(MODEL if read == "--model" else ADAPTER, folder)
    (folder / "b").mkdir()
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    ended = run(*words(read, folder, option, folder / "b" / ".." / file, "--force"))
    ended.refused(option, f"is in the folder of the {read[2:]}")
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("lines", "options", "word"),
    [
        (['{"text": 1}'], (), 'line 1: "text" is not a string'),
        (['{"said": "a"}'], (), 'line 1: no "prompt" or "text" (or "messages")'),
        ([""], (), "holds no text"),
        (['{"text": "a"}', '{"messages": []}'], (), "line 2: a list of messages without"),
    ],
)
@pytest.mark.usefixtures("no_load")
def test_texts_that_cannot_be_read_are_named(
    lines: list[str], options: tuple[str, ...], word: str, run: Run
) -> None:
    Path("texts.jsonl").write_text("\n".join(lines))
    run(*words("--texts", "texts.jsonl", *options)).refused(word)


@pytest.mark.parametrize(
    ("line", "options", "word"),
    [
        ({"text": "a b"}, ("--group-by", "style"), "--group-by 'style': no text of texts.jsonl"),
        ({"text": "a b"}, ("--skip-first", 500), "--skip-first 500 leaves no position"),
        ({"text": "word " * 5000}, (), "line 1: "),
        ({"text": "a b"}, ("--chat-template",), "line 1: a prompt without a completion"),
    ],
)
def test_texts_that_cannot_be_compared_are_named(
    line: dict[str, str], options: tuple[object, ...], word: str, run: Run, tmp_path: Path
) -> None:
    Path("texts.jsonl").write_text(json.dumps(line) + "\n")
    ended = run(*words("--texts", "texts.jsonl", "--out", "rows.jsonl", *options))
    ended.refused(word)
    assert {path.name for path in tmp_path.iterdir()} == {"good.txt", "texts.jsonl"}


@pytest.mark.usefixtures("no_load")
def test_its_own_rows_are_no_texts(run: Run) -> None:
    row = {"id": 1, "line": 1, "view": "ft", "reference": "base", "kl": []}
    Path("rows.jsonl").write_text(json.dumps(row) + "\n")
    run(*words("--texts", "rows.jsonl")).refused("is a file of diff's rows, which verify takes")
    run("report", "--scores", "rows.jsonl").refused("a file of diff's rows")
