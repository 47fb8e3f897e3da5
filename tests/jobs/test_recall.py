"""Claims: a run whose values are all stored imports no torch, and gives the bytes that it gives
with the model; whatever may decide a value and is not what it was loads the model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import forwardcache
from forwardcache.__main__ import main
from forwardcache.hf.spec import BASE, FINETUNED
from forwardcache.hf.stored import Known, Place, StoredBackend, Tokens
from forwardcache.instrumentation import BackendInstrumentation
from forwardcache.operations.logprob_of import LogprobOf
from forwardcache.store import Record, open_store
from forwardcache.store.notes import keep_note, read_note, takes_notes
from forwardcache.store.seal import seal
from tests.jobs.recalled import CHANGES, COMMAND

ASSETS = Path(forwardcache.__file__).parent / "demo"
PROMPTS = 12


@dataclass(frozen=True)
class Ran:
    """What one process of the command left."""

    rows: bytes
    err: str
    events: list[dict[str, Any]]

    @property
    def imported(self) -> str:
        return self.err.rpartition("imported:")[2].strip()

    @property
    def said(self) -> list[str]:
        """Standard error without what no two runs have in common."""
        lines = self.err.partition("imported:")[0].splitlines()
        timed = ("seconds", '_s"', '_ms"')
        kept = [line for line in lines if not any(word in line for word in timed)]
        return [line.partition(", hit rate")[0] for line in kept]


@dataclass(frozen=True)
class Folder:
    """A model with its adapter, prompts and a store, and the runs there so far."""

    path: Path
    loaded: Ran
    recalled: Ran


def ran(folder: Path, name: str, code: str = COMMAND) -> Ran:
    """``score`` in a process of its own."""
    trace = folder / f"{name}.jsonl"
    arguments = [*words(folder), "--trace", str(trace)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True, check=True, env=dict(os.environ), cwd=folder,
    )  # fmt: skip
    events = [json.loads(line) for line in trace.read_text("utf-8").splitlines()]
    return Ran(done.stdout, done.stderr.decode(), events)


def words(folder: Path) -> list[str]:
    return [
        "score", "--model", str(folder / "model"), "--adapter", str(folder / "adapter"),
        "--dtype", "float32", "--prompts", str(folder / "prompts.jsonl"), "--top-k", "8",
        "--store", str(folder / "values.db"), "--format", "json",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Everything is stored by a first run; a second loads the model, a third needn't."""
    path = tmp_path_factory.mktemp("recall")
    for name in ("model", "adapter"):
        shutil.copytree(ASSETS / name, path / name)
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    # One twice: its second value is found in memory.
    (path / "prompts.jsonl").write_text("".join([*lines[:PROMPTS], lines[0]]), "utf-8")
    assert main(words(path)) == 0
    loaded = ran(path, "loaded")
    return Folder(path, loaded, ran(path, "recalled"))


def test_a_run_whose_values_are_stored_imports_no_torch(folder: Folder) -> None:
    # Rows need no polars, and no model that scores text scipy.
    assert folder.loaded.imported == "peft torch transformers"
    assert folder.recalled.imported == ""


def test_its_rows_are_those_of_a_run_that_loads_the_model(folder: Folder) -> None:
    assert folder.recalled.rows == folder.loaded.rows
    rows = [json.loads(line) for line in folder.recalled.rows.splitlines()]
    assert len(rows) == 2 * (PROMPTS + 1)
    assert all(row["hit"] for row in rows)


def test_so_are_the_events_and_what_is_said(folder: Folder) -> None:
    def told(ran: Ran) -> list[dict[str, Any]]:
        ignored = {"ts", "wall_ms", "batch_wall_ms", "run", "key"}
        # A key is another one in each process: which events have the same one is compared.
        numbers = {key: at for at, key in enumerate(dict.fromkeys(e["key"] for e in ran.events))}
        return [
            {name: value for name, value in event.items() if name not in ignored}
            | {"key": numbers[event["key"]]}
            for event in ran.events
        ]

    assert told(folder.recalled) == told(folder.loaded)
    assert folder.recalled.said == folder.loaded.said


def test_whatever_may_decide_a_value_loads_the_model(folder: Folder) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHANGES, str(folder.path)],
        capture_output=True, text=True, check=True, env=dict(os.environ), cwd=folder.path,
    )  # fmt: skip
    found = json.loads(done.stdout)
    unchanged = {
        *("nothing", "everything is as it was again", "a link to the same weights"),
        *("another number of tokens", "another terminal", "the note is back"),
        "sources that look different and are the same",
    }
    assert {case for case, is_recalled in found.items() if is_recalled} == unchanged
    assert len(found) > 35


class Loaded:
    """Says that the model was loaded."""

    def __call__(self) -> Any:
        raise LookupError("the model is loaded")


def stored_backend(path: Path, *, are_there: bool) -> StoredBackend:
    """A backend whose store has the value of one pair, or a damaged one."""
    op, place, pair = LogprobOf(), Place(BASE, b"m" * 32), ("a", " b")
    store = open_store(path)
    known = Known(b"options", False, {BASE: place}, {pair: Tokens(2, 1)}, {})
    backend = StoredBackend(known, BackendInstrumentation(), store, Loaded())
    call = backend._call(BASE, op, [pair])
    assert call is not None
    [key] = call.key_space.keys([pair]).values()
    blob = seal(key, -1.5, op)
    store.put_many([Record(key, blob if are_there else blob[:-1] + b"?", "m", "base", op.name)])
    return backend


def test_a_value_that_is_there_is_given_with_its_tokens(tmp_path: Path) -> None:
    backend = stored_backend(tmp_path / "values.db", are_there=True)
    told: list[int] = []
    backend.progress = told.append
    with backend.as_base() as view:
        [found] = view.completion_logprob_batch([("a", " b")])
    assert (found.logprob, found.num_tokens, found.spans_boundary) == (-1.5, 1, False)
    assert (backend.store.hits, backend.stats.cache_hits, told) == (1, 1, [2])


def test_a_damaged_value_loads_the_model_and_counts_nothing(tmp_path: Path) -> None:
    backend = stored_backend(tmp_path / "values.db", are_there=False)
    with backend.as_base() as view, pytest.raises(LookupError):
        view.completion_logprob_batch([("a", " b")])
    assert (backend.store.hits, backend.store.misses, backend.stats.cache_misses) == (0, 0, 0)


def test_what_only_the_model_tells_loads_it(tmp_path: Path) -> None:
    backend = stored_backend(tmp_path / "values.db", are_there=True)
    for ask in (
        lambda: backend.token_lengths(["unknown"], op="next_token_dist"),
        lambda: backend.as_finetuned().values(LogprobOf(), [("a", " b")]),
        lambda: backend.as_base().values(LogprobOf(), [("other", " b")]),
        lambda: backend.as_base().update_norm(),
        lambda: backend.noise_floor(["a"], "next_token_dist"),
        lambda: backend.model,
    ):
        with pytest.raises(LookupError):
            ask()
    assert FINETUNED not in backend._known.places


def test_a_note_is_kept_and_read_and_the_oldest_go(tmp_path: Path) -> None:
    store = open_store(tmp_path / "values.db")
    keys = [bytes([number % 256, number // 256]) * 16 for number in range(300)]
    assert takes_notes(store)
    assert read_note(store, keys[0]) is None
    for key in keys:
        assert keep_note(store, key, b"of " + key)
    assert read_note(store, keys[-1]) == b"of " + keys[-1]
    assert read_note(store, keys[0]) is None
    assert store.info().entries == 0
    store.close()
    assert not keep_note(store, keys[0], b"")
