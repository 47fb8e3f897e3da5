"""Claims: a run with --store that was killed, or is run again, computes only what is missing, with
the same rows; the store's commands tell and do what they say.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import polars
import pytest

from forwardcache.cli import store as store_commands
from forwardcache.store.sqlite import SQLiteStore
from tests.cli.conftest import ASSETS, Run

MODEL = ["--model", ASSETS / "model", "--adapter", ASSETS / "adapter"]


@dataclass(slots=True, weakref_slot=True)
class Lasting:
    """A record that says when it is gone."""

    key: bytes
    blob: bytes
    model: str
    view: str
    op: str


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.txt"
    path.write_text("".join(f"prompt number {n} of many\n" for n in range(40)))
    return path


def values(out: str) -> list[object]:
    """Rows without what a run may differ in."""
    rows = [json.loads(line) for line in out.splitlines()]
    return [{key: row[key] for key in row if key not in ("hit", "wall_ms")} for row in rows]


def test_a_second_run_computes_nothing(run: Run, prompts: Path, tmp_path: Path) -> None:
    command = ["score", *MODEL, "--prompts", prompts, "--store", tmp_path / "values.db"]
    first, second = run(*command), run(*command)
    assert first.code == second.code == 0, first.err + second.err
    assert "store: 0 values found, 80 computed and kept" in first.err
    assert "store: 80 values found, 0 computed and kept" in second.err
    assert values(first.out) == values(second.out)
    checked = run(*command, "--verify", "1")
    assert "verified: 0 of 80 values" in checked.err


def test_a_killed_run_goes_on_where_it_was(run: Run, tmp_path: Path) -> None:
    prompts, store = tmp_path / "many.txt", tmp_path / "values.db"
    prompts.write_text("".join(f"prompt number {n} of many\n" for n in range(3_000)))
    command = [*MODEL, "--prompts", prompts, "--store", store, "--views", "base"]
    process = subprocess.Popen(
        [sys.executable, "-m", "forwardcache", "score", *map(str, command)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=os.environ,
    )
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = json.loads(run("store", "info", store, "--format", "json").out)["entries"]
    assert 0 < kept < 3_000
    again = run("score", *command)
    assert f"store: {kept:,} values found, {3_000 - kept:,} computed and kept" in again.err


def test_info_verify_prune_export_and_import(run: Run, prompts: Path, tmp_path: Path) -> None:
    store, table, other = (tmp_path / name for name in ("a.db", "a.parquet", "b.db"))
    run("score", *MODEL, "--prompts", prompts, "--store", store)
    told = json.loads(run("store", "info", store, "--format", "json").out)
    assert {kind["view"]: kind["entries"] for kind in told["kinds"]} == {"base": 40, "ft": 40}
    assert "80 values" in run("store", "info", store).out
    assert run("store", "verify", store).out.startswith("80 values are whole, 0 were damaged")
    assert run("store", "export", store, table).code == 0
    run("store", "export", store, table).refused("is there already")
    assert run("store", "import", other, table).out == "80 of 80 values taken in\n"
    second = run("score", *MODEL, "--prompts", prompts, "--store", other)
    assert "store: 80 values found, 0 computed" in second.err
    assert run("store", "prune", store, "--view", "ft").out == "40 values removed\n"
    assert json.loads(run("store", "info", store, "--format", "json").out)["entries"] == 40


@pytest.mark.parametrize(
    ("column", "values"), [("model", ["m", None]), ("key", ["text", "text"]), ("op", [1, 2])]
)
def test_a_table_that_was_not_exported_is_refused_before_a_store_is_made(
    run: Run, tmp_path: Path, column: str, values: list[object]
) -> None:
    columns: dict[str, list[object]] = {name: [b"", b""] for name in ("key", "blob")}
    columns |= {name: ["a", "b"] for name in ("model", "view", "op")}
    polars.DataFrame(columns | {column: values}).write_parquet(tmp_path / "a.parquet")
    command = ("store", "import", tmp_path / "new.db", tmp_path / "a.parquet")
    run(*command).refused(f"column {column} has to be")
    assert not (tmp_path / "new.db").exists()


def test_an_export_holds_some_values_at_a_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_commands, "_ROWS_AT_ONCE", 8)
    held: list[weakref.ref[Lasting]] = []
    most = 0

    def records() -> Iterator[Lasting]:
        nonlocal most
        for number in range(400):
            record = Lasting(b"%032d" % number, b"blob", "m", "v", "op")
            held.append(weakref.ref(record))
            most = max(most, sum(each() is not None for each in held))
            yield record

    assert store_commands._write_table(tmp_path / "a.parquet", records()) == 400  # type: ignore[arg-type]
    assert most < 40
    table = polars.read_parquet(tmp_path / "a.parquet")
    assert table["key"].to_list() == [b"%032d" % number for number in range(400)]
    assert table.columns == ["key", "blob", "model", "view", "op"]


def test_an_export_of_nothing_is_an_empty_table(run: Run, tmp_path: Path) -> None:
    SQLiteStore(tmp_path / "a.db").close()
    table = tmp_path / "a.parquet"
    assert run("store", "export", tmp_path / "a.db", table).out.startswith("0 values written")
    assert run("store", "import", tmp_path / "b.db", table).out == "0 of 0 values taken in\n"
    assert not table.with_name("a.parquet.part").exists()


def test_what_is_no_store_is_refused(run: Run, tmp_path: Path) -> None:
    run("store", "info", tmp_path / "none.db").refused("there is no store", "none.db")
    (tmp_path / "a.db").touch()
    run("store", "prune", tmp_path / "a.db").refused("nothing to prune by")
    (tmp_path / "a.parquet").write_text("no table")
    run("store", "import", tmp_path / "a.db", tmp_path / "a.parquet").refused("no exported table")


def test_a_server_that_does_not_answer_is_not_an_empty_store(run: Run) -> None:
    for command in (["info"], ["prune", "--view", "ft"]):
        ended = run("store", command[0], "redis://127.0.0.1:1/0", *command[1:])
        assert ended.code == 3
        lines = ended.err.splitlines()
        assert all(line.startswith("forwardcache: ") for line in lines)
        assert "without an answer" in lines[-1]


def test_looking_at_several_stores_makes_none(run: Run, tmp_path: Path) -> None:
    near = tmp_path / "near.db"
    run("store", "info", f"{near},redis://127.0.0.1:1/0").refused(f"there is no store {near}")
    assert not near.exists()


def test_an_address_of_another_kind_is_no_path(run: Run, tmp_path: Path) -> None:
    address = "http://user:secret@host/0"
    refused = run("store", "info", address)
    refused.refused("redis://, rediss://, valkey://, valkeys://, not http://")
    assert "secret" not in refused.err


def test_a_table_is_written_under_a_name_that_says_so(run: Run, tmp_path: Path) -> None:
    store = tmp_path / "values.db"
    SQLiteStore(store).close()
    run("store", "export", store, tmp_path / "values.csv").refused("must end in .parquet")
    run("store", "export", store, tmp_path / "no" / "a.parquet").refused("there is no folder")
    run("store", "import", store, tmp_path / "none.parquet").refused(
        "none.parquet: No such file or directory\n"
    )
