"""Tables of ``score`` that the tests of ``verify`` check, and what somebody may edit in one."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forwardcache.__main__ import main
from forwardcache.jobs.metadata import meta_of
from tests.cli.conftest import ASSETS, Ended, Run, read_rows

VIEWS = "base,ft,scaled:0.5,null:7,null:7:matched"
LINES = 12

Rows = list[dict[str, Any]]


def table_maker(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes files of rows with their facts, each in a folder of its own; scored once an option."""
    done: dict[tuple[str, ...], Path] = {}
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)[:LINES]

    def of(name: str = "rows.jsonl", *options: str, dtype: str = "float32") -> Path:
        folder = tmp_path_factory.mktemp("made")
        key = (name, *options, dtype)
        if key not in done:
            scored = tmp_path_factory.mktemp("scored")
            (scored / "prompts.jsonl").write_text("".join(lines), "utf-8")
            words = ["score", "--model", ASSETS / "model", "--adapter", ASSETS / "adapter",
                     "--prompts", scored / "prompts.jsonl", "--out", scored / name,
                     "--dtype", dtype, "--top-k", "16", "--no-noise-floor"]  # fmt: skip
            views = () if "--views" in options else ("--views", VIEWS)
            assert main([*map(str, words), *views, *options]) == 0
            done[key] = scored / name
        shutil.copytree(done[key].parent, folder, dirs_exist_ok=True)
        facts = json.loads(meta_of(folder / name).read_text())
        facts["prompts"]["file"] = str(folder / "prompts.jsonl")
        set_facts(folder / name, facts)
        return folder / name

    return of


def set_facts(out: Path, facts: dict[str, Any]) -> None:
    meta_of(out).write_text(json.dumps(facts))
    if out.suffix == ".parquet":
        pl.read_parquet(out).write_parquet(out, metadata={"forwardcache": json.dumps(facts)})


def facts_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(meta_of(out).read_text())
    return found


def rewrite(out: Path, edit: Callable[[Rows], object]) -> None:
    """Edits the rows in place, as somebody would who has the file."""
    if out.suffix == ".parquet":
        frame = pl.read_parquet(out)
        rows = frame.to_dicts()
        edit(rows)
        facts = {"forwardcache": json.dumps(facts_of(out))}
        pl.DataFrame(rows, schema=frame.schema).write_parquet(out, metadata=facts)
        return
    rows = read_rows(out)
    edit(rows)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


def verifier(run: Run) -> Callable[..., tuple[Ended, dict[str, Any]]]:
    """Runs the command on all rows, unless told otherwise; how it ended, and its JSON."""

    def call(out: Path, *words: object) -> tuple[Ended, dict[str, Any]]:
        share = () if "--share" in words else ("--share", "1")
        ended = run("verify", out, *share, *words, "--format", "json")
        return ended, json.loads(ended.out) if ended.out else {}

    return call


Verify = Callable[..., tuple[Ended, dict[str, Any]]]
Made = Callable[..., Path]


def row(rows: Rows, line: int, view: str) -> dict[str, Any]:
    return next(each for each in rows if (each["line"], each["view"]) == (line, view))


def add(field: str, nats: float, *, line: int = 3, view: str = "ft") -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        edited = row(rows, line, view)
        if isinstance(edited[field], list):
            edited[field][4] += nats
        else:
            edited[field] += nats

    return edit


def other(field: str, value: Any) -> Callable[[Rows], None]:
    return lambda rows: row(rows, 3, "ft").__setitem__(field, value)
