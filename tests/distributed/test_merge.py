"""Claims: the parts of a job merged are the file that one process writes, byte for byte but for
``hit``, as JSON lines and as a table, whatever the operation gives, the prompts carry or the model
fails on; memory holds some parts, not all. A part that is missing, cut, of another job or chunk,
or other than the manifest says, and a folder that is none, are each one line that names it, and no
file is written.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import polars as pl
import pytest

from forwardcache.distributed.parts import lines, table
from forwardcache.distributed.parts import merge as merging
from forwardcache.distributed.parts.folder import SUCCESS, LocalFolder
from forwardcache.distributed.parts.merge import merge
from forwardcache.distributed.parts.naming import content_digest, part_file
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.jobs.job import Scoring
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.jobs.planning import make_job
from forwardcache.jobs.prompts import Prompt, read_prompts
from forwardcache.jobs.rows import RawRow
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.views import parse_views
from forwardcache.operation import Column, Operation
from tests.cli.conftest import ASSETS, Run, run
from tests.distributed.part_jobs import (
    JOB,
    META,
    Chunk,
    facts_beside,
    without_hits,
    write_parts,
    write_rows,
)

__all__ = ["run"]

VIEWS = ("base", "ft")
CARRIED: list[dict[str, Any]] = [
    {},
    {"id": "own \u20ac", "of": {"deep": [1, {"x": None}]}},
    {"id": 7, "note": "100 %s of \ud83d half"},
    {"id": 2.5},
    {"id": False},
    {"id": ["no id"], "n": 1},
    {"id": None},
    {"of": {"deep": [2]}, "text": '"id"'},
]
ALIKE: list[dict[str, Any]] = [{"id": f"p{at}", "of": {"deep": [at / 2]}} for at in range(8)]


def dist(seed: int, *, is_broken: bool = False) -> dict[str, Any]:
    """A row's fields of a distribution."""
    chance = np.random.default_rng(seed)
    logprobs = np.sort(-chance.exponential(4, 8).astype(np.float32))[::-1]
    if is_broken:
        logprobs = np.array([np.nan, np.inf, -np.inf, -0.0, 1e-45, 1e16, -1e-5, 3.4e38], np.float32)
    return {
        "top_k": 8,
        "token_ids": chance.choice(50_000, 8, replace=False),
        "logprobs": logprobs,
        "tail_logprob": math.nan if is_broken else None if seed % 3 == 0 else -1e-7 * seed,
        "vocab_size": 50_000,
    }


def rows_of(prompts: Sequence[Prompt], skipped: Sequence[int] = ()) -> list[Chunk]:
    """Rows of two views in chunks of three prompts; divergences are exact, bounds or missing."""
    found: list[Chunk] = []
    for start in range(0, len(prompts), 3):
        positions = range(start, min(start + 3, len(prompts)))
        raw: list[RawRow] = []
        for at in (at for at in positions if at not in skipped):
            against: dict[str, Any] = {"kl_base_nats": math.inf if at == 4 else at * 1e-9}
            if at % 2:
                against = {"kl_lower_bound": 0.1, "mass_outside": 0.0, "compared_tokens": 8}
            raw.append(RawRow(at, "base", False, dist(at)))
            raw.append(RawRow(at, "ft", at == 1, dist(at + 50, is_broken=at == 2) | against))
        found.append((positions, raw))
    return found


def prompts_with(carried: Sequence[dict[str, Any]]) -> list[Prompt]:
    """With a blank line before the fifth."""
    return [Prompt(at + 1 + (at > 3), "text", None, own) for at, own in enumerate(carried)]


@pytest.mark.parametrize("carried", [CARRIED, ALIKE], ids=["of all kinds", "alike"])
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
@pytest.mark.parametrize("skipped", [(), (1, 3, 4, 5)], ids=["", "skipped"])
def test_parts_merged_are_the_file_of_one_process(
    tmp_path: Path, carried: list[dict[str, Any]], ending: str, skipped: tuple[int, ...]
) -> None:
    prompts, out, one = prompts_with(carried), tmp_path / f"m.{ending}", tmp_path / f"o.{ending}"
    chunks = rows_of(prompts, skipped)
    write_rows(one, "next_token_dist", prompts, chunks)
    folder = write_parts(tmp_path / "parts", "next_token_dist", prompts, chunks, VIEWS)
    merged = merge(folder, out)
    assert (merged.parts, merged.rows) == (3, 2 * (8 - len(skipped)))
    assert facts_beside(out) == facts_beside(one) == META
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["parts", *(f"{name}.{ending}{more}" for name in "mo" for more in ("", ".meta.json"))]
    )
    if ending == "jsonl":
        assert out.read_bytes() == one.read_bytes()
    else:
        assert pl.read_parquet_schema(out) == pl.read_parquet_schema(one)
        assert pl.read_parquet(out).equals(pl.read_parquet(one))
        assert pl.read_parquet_metadata(out) == pl.read_parquet_metadata(one)


class Everything(Operation):
    """An operation whose rows have a field of each kind."""

    name = "everything"
    form = "prompt"
    columns: ClassVar[Mapping[str, Column]] = {
        "word": "text", "is_sure": "bool", "count": "int64", "nats": "float64", "words": "text[]",
        "are_sure": "bool[]", "counts": "int64[]", "all_nats": "float64[]", "short": "float32[]",
    }  # fmt: skip


FULL: dict[str, Any] = {
    "word": "100 %s \u20ac\n",
    "is_sure": True,
    "count": -(2**63),
    "nats": 1e-7,
    "words": ["a", "\u20ac"],
    "are_sure": np.array([True, False]),
    "counts": np.array([-(2**63), 7]),
    "all_nats": np.array([0.1, 1e16]),
    "short": np.array([0.1, np.nan], np.float32),
}
EMPTY: dict[str, Any] = {
    "words": [],
    "are_sure": [],
    "counts": [],
    "all_nats": np.empty(0),
    "short": np.empty(0, np.float32),
}


def test_fields_of_every_kind_are_written_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (table, lines):
        monkeypatch.setattr(module, "operation", lambda _: Everything)
    none = dict.fromkeys(FULL)
    rows = [FULL, none, {**FULL, "delta_nats": 0.1}, {**none, **EMPTY}, {"count": 1}]
    raw = [RawRow(at, "base", False, fields) for at, fields in enumerate(rows)]
    prompts = prompts_with([{} for _ in rows])
    write_rows(tmp_path / "one.jsonl", "everything", prompts, [(range(5), raw)])
    folder = write_parts(tmp_path / "parts", "everything", prompts, [(range(5), raw)], ["base"])
    merge(folder, tmp_path / "merged.jsonl")
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "one.jsonl").read_bytes()


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    adapters = (NamedAdapter(None, str(ASSETS / "adapter")),)
    session = load(ModelOptions(str(ASSETS / "model"), adapters=adapters, dtype="float32"))
    yield session
    session.close()


@pytest.mark.parametrize("op", ["next_token_dist", "rolling_logprob", "logprob_of"])
def test_what_a_model_gives_is_the_same_as_parts(
    session: Session, op: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)
    given = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines()[:6]
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join([*given[:2], "", *given[2:], '{"prompt": "a", "completion": " b"}']))
    views = parse_views("base,ft,null:7", has_adapter=True)
    job = make_job(session, read_prompts(str(path)), op, views, top_k=8)
    scoring = Scoring(session.backend, session.recorder, job)
    chunks = [(chunk, scoring.raw_rows_of(chunk)[0]) for chunk in job.chunks()]
    prompts = job.source.prompts
    folder = write_parts(tmp_path / "parts", op, prompts, chunks, [view.name for view in views])
    merge(folder, tmp_path / "merged.jsonl")
    # What the second look finds in the cache are the same values.
    again = [(chunk, scoring.raw_rows_of(chunk)[0]) for chunk in job.chunks()]
    write_rows(tmp_path / "one.jsonl", op, prompts, again)
    assert without_hits(tmp_path / "merged.jsonl") == without_hits(tmp_path / "one.jsonl")


def test_parts_may_stand_wherever_fsspec_reaches(parts: LocalFolder, run: Run) -> None:
    there = open_folder("memory://merged")
    for name in [SUCCESS, *files(parts)]:
        there.put(name, parts.read(name))
    out, other = parts.root.parent / "one.jsonl", parts.root.parent / "other.jsonl"
    assert run("merge", parts.root, "-o", out).code == 0
    assert run("merge", "memory://merged", "-o", other).code == 0
    assert out.read_bytes() == other.read_bytes()
    there.remove(name)
    run("merge", "memory://merged", "-o", out, "--force").refused(f"memory://merged/{name}")
    # What was there stays.
    assert out.read_bytes() == other.read_bytes()


class Watched(LocalFolder):
    """A folder that counts the parts that are read and not written yet."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.read_parts = 0

    def read(self, name: str) -> bytes:
        self.read_parts += name.startswith("parts/")
        return super().read(name)


def test_only_some_parts_are_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(merging, "_MOST_THREADS", 2)
    prompts = prompts_with([{} for _ in range(120)])
    write_parts(tmp_path / "parts", "next_token_dist", prompts, rows_of(prompts), VIEWS)
    folder = Watched(tmp_path / "parts")
    most = [
        folder.read_parts - at
        for at, _ in enumerate(merging._Parts(folder).each(lambda *_: None), start=1)
    ]
    assert len(most) == folder.read_parts == 40
    assert max(most) <= 5


@pytest.fixture
def parts(tmp_path: Path) -> LocalFolder:
    prompts = prompts_with(ALIKE)
    return write_parts(tmp_path / "parts", "next_token_dist", prompts, rows_of(prompts), VIEWS)


def files(folder: LocalFolder) -> list[str]:
    """The parts in the order of their chunks."""
    found = json.loads(folder.read(SUCCESS))["chunks"]
    return [file for _, file, _ in found]


def damage(folder: LocalFolder, how: str) -> str:
    """Spoil a folder; the file that is spoilt."""
    name = files(folder)[1]
    content, manifest = folder.read(name), folder.read(SUCCESS)
    if how == "missing":
        folder.remove(name)
    elif how == "cut":
        folder.put(name, content[:-100])
    elif how == "another's bytes":
        folder.put(name, folder.read(files(folder)[0]))
    elif how == "a bit":
        folder.put(name, bytes([*content[:99], content[99] ^ 1, *content[100:]]))
    elif how == "no part":
        folder.put(SUCCESS, manifest.replace(name.encode(), (name := "parts/x.parquet").encode()))
        folder.put(name, content)
    elif how == "no table":
        digest = content_digest(b"{}")
        other = part_file(name.split("/")[-1][:64], digest)
        folder.put(other, b"{}")
        folder.put(SUCCESS, manifest.replace(name.encode(), (name := other).encode()))
    elif how == "another chunk's name":
        other = part_file("ff" * 32, content_digest(content))
        folder.put(other, content)
        folder.put(SUCCESS, manifest.replace(name.encode(), (name := other).encode()))
    elif how == "fewer lines":
        folder.put(SUCCESS, manifest.replace(b"[5, 3]", b"[5, 2]").replace(b"[6, 2]", b"[6, 1]"))
    elif how == "fewer rows":
        folder.put(SUCCESS, manifest.replace(b'.parquet", 6]', b'.parquet", 4]'))
        name = files(folder)[0]
    return name


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("missing", "is missing"),
        ("cut", "cut or damaged"),
        ("another's bytes", "cut or damaged"),
        ("a bit", "cut or damaged"),
        ("no part", "no name of a part"),
        ("no table", "can't be read"),
        ("another chunk's name", "another chunk"),
        ("fewer lines", "the manifest says"),
        ("fewer rows", "the manifest says"),
    ],
)
@pytest.mark.parametrize("ending", ["jsonl", "parquet"])
def test_a_part_that_is_not_right_is_named_and_nothing_is_written(
    parts: LocalFolder, run: Run, how: str, why: str, ending: str
) -> None:
    name = damage(parts, how)
    out = parts.root.parent / f"merged.{ending}"
    run("merge", parts.root, "-o", out).refused(name, why, "--resume")
    assert [path.name for path in out.parent.iterdir()] == ["parts"]


def test_rows_that_are_not_all_there_once_and_in_order_are_seen() -> None:
    def is_in_order(positions: list[int], views: list[int]) -> bool:
        rows: Any = SimpleNamespace(
            facts=SimpleNamespace(views=VIEWS),
            unscored={1: "{}"},
            positions=np.array(positions),
            views=np.array(views),
        )
        return merging._is_in_order(rows, 3)

    assert is_in_order([0, 0, 2, 2], [0, 1, 0, 1])
    assert not is_in_order([0, 0, 2, 2], [0, 1, 1, 0])
    assert not is_in_order([0, 0, 2, 2], [0, 0, 1, 1])
    assert not is_in_order([2, 2, 0, 0], [0, 1, 0, 1])
    assert not is_in_order([0, 0, 0, 0], [0, 1, 0, 1])
    assert not is_in_order([0, 0, 1, 1], [0, 1, 0, 1])
    assert not is_in_order([0, 0, 2], [0, 1, 0])


def test_parts_of_other_weights_and_folders_of_none_are_refused(
    parts: LocalFolder, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "merged.jsonl"
    parts.put(SUCCESS, parts.read(SUCCESS).replace(JOB.encode(), b"ef" * 32))
    run("merge", parts.root, "-o", out).refused(files(parts)[0], "other weights")
    parts.put(SUCCESS, parts.read(SUCCESS)[:-20])
    run("merge", parts.root, "-o", out).refused(SUCCESS, "cut or damaged")
    parts.remove(SUCCESS)
    run("merge", parts.root, "-o", out).refused(SUCCESS, "isn't done")
    run("merge", tmp_path / "nothing", "-o", out).refused(SUCCESS)
    run("merge", __file__, "-o", out).refused(f"{__file__} is a file, and no folder of parts")
    assert [path.name for path in tmp_path.iterdir()] == ["parts"]


def test_a_file_that_is_there_is_kept_without_force(
    parts: LocalFolder, run: Run, tmp_path: Path
) -> None:
    out = tmp_path / "merged.jsonl"
    out.write_text("mine")
    run("merge", parts.root, "-o", out).refused(str(out), "--force")
    assert out.read_text() == "mine"
    done = run("merge", parts.root, "-o", out, "--force")
    assert (done.code, done.out) == (0, "")
    assert "16 rows of 3 parts" in done.err
    assert len(out.read_text().splitlines()) == 16
    run("merge", parts.root, "-o", parts.root / "m.jsonl").refused("in the folder of the parts")
    run("merge", parts.root, "-o", tmp_path / "m.txt").refused("must end in")
    foreign = tmp_path / "n.jsonl.meta.json"
    foreign.write_text("mine")
    run("merge", parts.root, "-o", tmp_path / "n.jsonl").refused(foreign.name, "--force")
