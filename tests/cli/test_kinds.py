"""Claim: a command that is given a file of another kind says what it is and what takes it, whatever
the file is called, and leaves it as it was; a file that tells nothing is left to its reader.
"""

from __future__ import annotations

import gzip
import json
import sqlite3
from contextlib import closing
from pathlib import Path

import polars as pl
import pytest

from forwardcache.jobs.kinds import FileKind, kind_of
from tests.cli.conftest import ASSETS, Run

ROW = {"id": 1, "line": 1, "view": "base", "op": "logprob_of", "hit": False, "logprob": -1.0}
DIFFERENCE = {"id": 1, "line": 1, "view": "ft", "reference": "base", "kl": []}
EVENT = {"ts": 1.0, "probe": None, "view_id": "base", "prompt_hash": "aa", "top_k": 5,
         "op": "next_token_dist", "wall_ms": 0.1, "hit": False}  # fmt: skip
PNG = b"\x89PNG\r\n\x1a\n" + b"\0" * 50


def made(path: Path, kind: str) -> Path:
    """A file of a kind."""
    if kind == "store":
        with closing(sqlite3.connect(path)) as database:
            database.execute("create table any (x)")
    elif kind == "table":
        pl.DataFrame({"x": [1]}).write_parquet(path)
    else:
        lines = {"rows": ROW, "differences": DIFFERENCE, "trace": EVENT, "prompts": {"prompt": "a"}}
        line = json.dumps(lines.get(kind)).encode() + b"\n"
        path.write_bytes({"gzip": gzip.compress(line), "image": PNG}.get(kind, line * 2))
    return path


TOLD = {
    "differences": "a file of diff's rows, which verify takes",
    "rows": "a file of score's rows, which report --scores takes",
    "trace": "a trace, which report and trace take",
    "prompts": "a file of prompts, which score --prompts and diff --texts take",
    "store": "a store, or another database of SQLite",
    "table": "a Parquet table",
    "gzip": "compressed",
    "image": "an image",
}
SCORE = f"score --model {ASSETS / 'model'} --adapter {ASSETS / 'adapter'} --prompts"
TAKES = {
    "report FILE": {"trace"},
    "report compare FILE FILE": {"trace"},
    "report --scores FILE": {"rows", "table"},
    "trace summary FILE": {"trace"},
    "trace merge FILE --out merged.jsonl": {"trace"},
    "trace export FILE --chrome chrome.json": {"trace"},
    "trace recover FILE": {"trace"},
    "trace watch --once FILE": {"trace"},
    "store info FILE": {"store"},
    "store verify FILE": {"store"},
    "store prune --max-bytes 0 FILE": {"store"},
    "store export FILE out.parquet": {"store"},
    "store import new.db FILE": {"table"},
    f"{SCORE} FILE": {"prompts"},
    f"{SCORE} good.txt --store FILE": {"store"},
    f"{SCORE} good.txt --trace FILE": {"trace"},
    f"diff --model {ASSETS / 'model'} --adapter {ASSETS / 'adapter'} --texts FILE": {"prompts"},
    "score --model FILE --prompts good.txt": set(),
    f"score --model {ASSETS / 'model'} --adapter FILE --prompts good.txt": set(),
}  # fmt: skip
CASES = [(command, kind) for command, taken in TAKES.items() for kind in TOLD if kind not in taken]


@pytest.mark.parametrize(("command", "kind"), CASES)
def test_another_kind_is_named_and_left_as_it_was(
    command: str, kind: str, run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("good.txt").write_text("one\n")
    file = made(tmp_path / "file.jsonl", kind)
    before = file.read_bytes()
    words = [str(file) if word == "FILE" else word for word in command.split()]
    run(*words).refused(f"{file} is {TOLD[kind]}")
    assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file.jsonl", "good.txt"]


def test_folders_are_told_apart(run: Run, tmp_path: Path) -> None:
    prompts = tmp_path / "good.txt"
    prompts.write_text("one\n")
    model, adapter = ASSETS / "model", ASSETS / "adapter"
    ended = run("score", "--model", model, "--adapter", model, "--prompts", prompts)
    ended.refused("holds a model, which --model takes")
    run("score", "--model", adapter, "--prompts", prompts).refused("which --adapter takes")
    run("score", "--model", model, "--prompts", model).refused("the folder of a model")
    run("report", adapter).refused("the folder of an adapter")


@pytest.mark.parametrize(
    "content", [b"", b"\n\n", b"plain\n", b"[1]\n", b'{"x": 1}\n', b"\xff\xfe", b'{"prompt": 1}\n']
)
def test_what_tells_nothing_has_no_kind(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file"
    path.write_bytes(content)
    assert kind_of(path) is None
    assert kind_of(tmp_path / "nowhere") is kind_of(tmp_path) is None


def test_a_line_of_text_may_look_like_anything(run: Run, tmp_path: Path) -> None:
    text = made(tmp_path / "prompts.txt", "trace")
    assert kind_of(text) is FileKind.TRACE
    ended = run("score", "--model", ASSETS / "model", "--prompts", text, "--limit", 1)
    assert ended.code == 0, ended.err
