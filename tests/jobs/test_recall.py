"""Claims: a run whose values are all stored imports no torch, and gives the bytes that it gives
with the model; whatever may decide a value and is not what it was loads the model.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextvars import ContextVar
from dataclasses import dataclass, fields, make_dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import forwardcache
from forwardcache.__main__ import main
from forwardcache.hf.spec import BASE, FINETUNED
from forwardcache.hf.stored import Known, Place, StoredBackend, Tokens
from forwardcache.instrumentation import BackendInstrumentation
from forwardcache.jobs.options import ModelOptions, NamedAdapter, ScoreOptions
from forwardcache.jobs.recall import run, sources, surroundings
from forwardcache.jobs.recall.contents import Contents
from forwardcache.jobs.recall.heard import Heard
from forwardcache.jobs.recall.key import FREE_OF_LOADING, FREE_OF_SCORING, key_of_model
from forwardcache.jobs.recall.note import Note
from forwardcache.jobs.recall.sources import Sources
from forwardcache.jobs.session import load
from forwardcache.operations.logprob_of import LogprobOf
from forwardcache.store import Record, open_store
from forwardcache.store.notes import keep_note, read_note, takes_notes
from forwardcache.store.seal import seal
from tests.jobs.recalled import CHANGES, COMMAND, MODULE

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
    as_module: Ran


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
        "--store", str(folder / "values.db"), "--format", "json", "--noise-floor",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Folder:
    """Everything is stored by a first run; a second loads the model, a third needn't.

    The second is ``python -m forwardcache``, in which the main module has two names.
    """
    path = tmp_path_factory.mktemp("recall")
    for name in ("model", "adapter"):
        shutil.copytree(ASSETS / name, path / name)
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    # One twice: its second value is found in memory.
    (path / "prompts.jsonl").write_text("".join([*lines[:PROMPTS], lines[0]]), "utf-8")
    assert main(words(path)) == 0
    loaded = ran(path, "loaded", MODULE)
    return Folder(path, loaded, ran(path, "recalled"), ran(path, "as module", MODULE))


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


def test_the_floor_of_other_batches_is_kept_for_what_it_was_measured_for() -> None:
    asked = {"top_k": 8, "of_base": True}

    def recall(items: list[str], floors: dict[str, Any]) -> run.Recall:
        one = object.__new__(run.Recall)
        one._items, one._floors = items, {}
        one._note = SimpleNamespace(floors=floors)  # type: ignore[assignment]
        return one

    first = recall(["a", "b"], {})
    assert first.floor("logprob_of", lambda: {"mean_nats": 1.0}, **asked) == {"mean_nats": 1.0}
    known = first._floors

    def measured(items: list[str], op: str, **asked: Any) -> bool:
        return "new" in recall(items, known).floor(op, lambda: {"new": True}, **asked)

    assert not measured(["a", "b"], "logprob_of", **asked)
    assert measured(["a", "c"], "logprob_of", **asked)
    assert measured(["a", "b"], "rolling_logprob", **asked)
    assert measured(["a", "b"], "logprob_of", **{**asked, "top_k": 9})
    assert measured(["a", "b"], "logprob_of", **{**asked, "of_base": False})


def test_started_as_a_module_it_imports_no_torch_the_second_time(folder: Folder) -> None:
    # So was the one that loaded the model.
    assert folder.as_module.imported == ""
    assert folder.as_module.rows == folder.loaded.rows


def values_of(rows: str) -> list[dict[str, Any]]:
    """Rows without where their values came from."""
    found = [json.loads(line) for line in rows.splitlines()]
    return [{name: row[name] for name in row if name != "hit"} for row in found]


@pytest.fixture
def is_as_in_a_new_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs in this process keep notes and read them, as if each were a process of its own."""
    monkeypatch.setattr(run, "OWN_PROCESS", ContextVar("OWN_PROCESS", default=True))
    monkeypatch.setattr(run, "is_fresh", lambda: True)
    monkeypatch.setattr(run, "imported_sources", lambda: Sources({}, (), "", ""))
    monkeypatch.setattr(Sources, "hold", lambda self: True)


@pytest.mark.usefixtures("is_as_in_a_new_process")
def test_adapters_that_change_names_change_values(
    folder: Folder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = shutil.copytree(folder.path / "adapter", tmp_path / "other")
    config = json.loads((other / "adapter_config.json").read_text("utf-8"))
    config["lora_alpha"] *= 2
    (other / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    loads: list[Any] = []

    def counted(*args: Any, **options: Any) -> Any:
        loads.append(args)
        return load(*args, **options)

    monkeypatch.setattr(run, "load", counted)

    def rows(first: str, second: str, *more: str) -> list[dict[str, Any]]:
        adapters = f"{first}={folder.path / 'adapter'}", f"{second}={other}"
        named = [word for adapter in adapters for word in ("--adapter", adapter)]
        assert main([
            "score", "--model", str(folder.path / "model"), *named, "--dtype", "float32", "--limit",
            "3", "--prompts", str(folder.path / "prompts.jsonl"), "--views", "ft:a,ft:b", "--top-k",
            "8", "--format", "json", *more,
        ]) == 0  # fmt: skip
        return values_of(capsys.readouterr().out)

    store = "--store", str(tmp_path / "named.db")
    straight, swapped = rows("a", "b"), rows("b", "a")
    assert straight != swapped
    loads.clear()
    assert rows("a", "b", *store) == straight
    assert rows("b", "a", *store) == swapped
    assert len(loads) == 2
    # Each note still says what it said.
    assert rows("a", "b", *store) == straight
    assert rows("b", "a", *store) == swapped
    assert len(loads) == 2


LOADING = ModelOptions("model", (NamedAdapter("a", "one"), NamedAdapter("b", "two")))
OPTIONS = ScoreOptions(
    LOADING, "prompts", "ft:a,ft:b", "next_token_dist", 8, None, False, False, None, False
)
FOLDERS = [Path("/model"), Path("/one"), Path("/two")]


def _other(name: str) -> dict[str, Any]:
    """Another value of an option than any that is given."""
    return {name: ()}


def test_every_option_is_in_the_key_or_named_as_free() -> None:
    def is_free(options: ScoreOptions) -> bool:
        return key_of_model(options, FOLDERS) == key_of_model(OPTIONS, FOLDERS)

    loading = {
        each.name: is_free(replace(OPTIONS, loading=replace(LOADING, **_other(each.name))))
        for each in fields(ModelOptions)
    }
    assert {name for name in loading if loading[name]} == set(FREE_OF_LOADING)
    others = {each.name for each in fields(ScoreOptions)} - {"loading"}
    free = {name for name in others if is_free(replace(OPTIONS, **_other(name)))}
    assert free | {"loading"} == set(FREE_OF_SCORING)


@pytest.mark.parametrize(
    "adapters",
    [
        (NamedAdapter("b", "one"), NamedAdapter("a", "two")),
        (NamedAdapter("b", "two"), NamedAdapter("a", "one")),
        (NamedAdapter("a", "one"), NamedAdapter("c", "two")),
        (NamedAdapter(None, "one"),),
        (),
    ],
)
def test_so_are_the_names_of_the_adapters(adapters: tuple[NamedAdapter, ...]) -> None:
    asked = replace(OPTIONS, loading=replace(LOADING, adapters=adapters))
    assert key_of_model(asked, FOLDERS) != key_of_model(OPTIONS, FOLDERS)


@pytest.mark.parametrize("of", [ModelOptions, ScoreOptions])
def test_an_option_that_is_new_is_in_the_key(of: type[ModelOptions] | type[ScoreOptions]) -> None:
    wider: Any = make_dataclass("Wider", [("new", str, "")], bases=(of,), frozen=True)
    given = LOADING if of is ModelOptions else OPTIONS
    kept = {each.name: getattr(given, each.name) for each in fields(of)}
    keys = set()
    for new in ("this", "that"):
        made = wider(**kept, new=new)
        asked = replace(OPTIONS, loading=made) if of is ModelOptions else made
        keys.add(key_of_model(asked, FOLDERS))
    assert len(keys) == 2


def test_so_is_where_the_folders_are() -> None:
    for folders in ([Path("/other"), *FOLDERS[1:]], [FOLDERS[0], *FOLDERS[:0:-1]], FOLDERS[:2]):
        assert key_of_model(OPTIONS, folders) != key_of_model(OPTIONS, FOLDERS)


def test_a_tokenizer_of_its_own_folder_is_read_too() -> None:
    for tokenizer, more in ((None, []), ("base", []), ("adapter", []), ("/mine", ["/mine"])):
        folders = run._folders_of(replace(LOADING, tokenizer=tokenizer))
        named = [*map(os.path.abspath, ("model", "one", "two")), *more]
        assert list(map(str, folders)) == named


NOTE = Note("contents", {}, Sources({}, (), "", ""), b"options", {}, {}, {}, {}, [])


@pytest.mark.parametrize(
    "changes",
    [{"contents": "x"}, {"surroundings": {"x": 1}}, {"options": b"x"}, {"facts": {"x": 1}}],
)
def test_what_was_known_of_another_model_is_not_kept_with_this_ones(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Sources, "hold", lambda self: True)
    assert run._is_of_the_same(NOTE, replace(NOTE, norms={BASE: 1.0}))
    assert not run._is_of_the_same(NOTE, replace(NOTE, **changes))
    monkeypatch.setattr(Sources, "hold", lambda self: False)
    assert not run._is_of_the_same(NOTE, NOTE)


@pytest.mark.parametrize(
    ("what", "is_kept"),
    [
        ("nothing", True),
        ("somebody warned", False),
        ("a prompt was skipped", False),
        ("files were changed", False),
        ("modules were changed", False),
        ("a view has no lasting place", False),
    ],
)
def test_a_note_is_kept_of_what_can_be_vouched_for(
    what: str, is_kept: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = Contents("before", ())
    after = Contents("after", ()) if what == "files were changed" else before
    sources = None if what == "modules were changed" else NOTE.sources
    places: dict[Any, Any] | None = None if what == "a view has no lasting place" else {}
    monkeypatch.setattr(run, "contents_of", lambda _, *, anew: after)
    monkeypatch.setattr(run, "imported_sources", lambda: sources)
    monkeypatch.setattr(run, "places_of", lambda *_: places)
    monkeypatch.setattr(run, "options_of", lambda _: b"options")
    monkeypatch.setattr(run, "_facts_of", lambda _: {})
    one = object.__new__(run.Recall)
    one._options, one._loading, one._folders = OPTIONS, LOADING, FOLDERS
    one._store = store = open_store(tmp_path / "values.db")
    one._op, one._items, one._views, one._floors = LogprobOf(), ["a", "b"], (), {}
    one._said, one._note, one._heard = {}, None, Heard()
    one._heard.was_warned = what == "somebody warned"
    monkeypatch.setattr(one, "_contents", lambda: before)
    monkeypatch.setattr(one, "_tokens_of", lambda *_: [Tokens(1), Tokens(2)])
    left = ["a"] if what == "a prompt was skipped" else ["a", "b"]
    job: Any = SimpleNamespace(source=SimpleNamespace(prompts=left))
    session: Any = SimpleNamespace(backend=None)
    one.keep(session, job, {})
    assert (read_note(store, one._key()) is not None) == is_kept
    store.close()


def test_modules_that_are_newer_than_the_process_are_not_vouched_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "mine.py"
    path.write_text("")
    monkeypatch.setattr(sources, "_imported", lambda: iter([("mine", str(path))]))
    monkeypatch.setattr(sources, "_place_of", lambda _: str(path))
    written_s = path.stat().st_ctime
    monkeypatch.setattr(sources, "_began", lambda: written_s + 10)
    assert sources.imported_sources() is not None
    monkeypatch.setattr(sources, "_began", lambda: written_s + 1)
    assert sources.imported_sources() is None


def test_what_runs_when_python_starts_is_of_the_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    found = []
    for text in ("import one", "import two"):
        (tmp_path / "x.pth").write_text(text)
        found.append(list(surroundings._installed()))
    assert found[0] != found[1]


def test_what_was_said_when_the_model_was_loaded_is_said_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    one = object.__new__(run.Recall)
    one._loading, one._views = replace(LOADING, store=str(tmp_path / "values.db")), ()
    store = open_store(tmp_path / "values.db")
    one._without_model(replace(NOTE, said=["the head is new"]), {}, store)
    assert caplog.messages == ["the head is new"]
    store.close()


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


def test_values_of_which_one_is_missing_load_the_model(tmp_path: Path) -> None:
    backend = stored_backend(tmp_path / "values.db", are_there=True)
    pairs = [("a", " b"), ("c", " d")]
    known = dict.fromkeys(pairs, Tokens(2, 1))
    backend._known = replace(backend._known, tokens=known)
    with backend.as_base() as view, pytest.raises(LookupError):
        view.completion_logprob_batch(pairs)
    assert (backend.store.hits, backend.store.misses) == (0, 0)


def test_a_model_that_was_loaded_is_asked_and_tells_how_far_it_is(tmp_path: Path) -> None:
    backend = stored_backend(tmp_path / "values.db", are_there=True)
    model: Any = SimpleNamespace(progress=None, nonfinite_results=3)
    backend._load = lambda: model
    told: list[int] = []
    backend.progress = told.append
    assert backend.found(BASE, LogprobOf(), [("a", " b")]) is not None
    assert backend.loaded is backend.loaded is model
    assert model.progress == told.append
    assert backend.found(BASE, LogprobOf(), [("a", " b")]) is None
    assert backend.nonfinite_results == 3


def test_what_a_small_cache_has_lost_is_given_all_the_same(tmp_path: Path) -> None:
    backend = stored_backend(tmp_path / "values.db", are_there=True)
    call = backend._call(BASE, LogprobOf(), [("a", " b")])
    assert call is not None
    assert backend._fill(call)
    assert backend._again(BASE, call, [("a", " b")], [0]) == [-1.5]
    call.fetched.clear()
    with pytest.raises(LookupError):
        backend._again(BASE, call, [("a", " b")], [0])


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
