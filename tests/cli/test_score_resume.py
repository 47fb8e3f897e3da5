"""Interrupted runs: what they keep, how they go on, and what is never there."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.results import PartFile
from tests.cli.conftest import ASSETS, Ended, Run, read_rows

VIEWS = ("--views", "base,ft,null:7")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "rows.jsonl"


class DropsAnInterrupt:
    """Ctrl-C while it goes: Python prints the exception and forgets it."""

    def __del__(self) -> None:
        signal.raise_signal(signal.SIGINT)


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def interrupted(score: Run, prompts: Path, out: Path, *options: object, chunks: int = 2) -> Ended:
    """A run in which Ctrl-C comes when ``chunks`` chunks of four prompts are written."""
    written = 0
    write = PartFile.write

    def interrupting(self: PartFile, rows: Sequence[dict[str, Any]]) -> None:
        nonlocal written
        write(self, rows)
        written += 1
        if written == chunks:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "write", interrupting)
        return score("--prompts", prompts, *VIEWS, "--out", out, *options)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_an_interrupt_that_python_drops_is_heard_before_the_next_rows(
    score: Run, prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = PartFile.write

    def dropping(self: PartFile, rows: Sequence[dict[str, Any]]) -> None:
        write(self, rows)
        DropsAnInterrupt()

    monkeypatch.setattr(PartFile, "write", dropping)
    ended = score("--prompts", prompts, *VIEWS, "--out", out)
    ended.refused("interrupted", f"4 of 12 prompts are in {out}.part", code=130)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_an_interrupt_keeps_the_rows_and_says_how_to_go_on(
    score: Run, prompts: Path, out: Path, tmp_path: Path
) -> None:
    trace = tmp_path / "trace.jsonl"
    ended = interrupted(score, prompts, out, "--trace", trace)
    ended.refused("interrupted", f"8 of 12 prompts are in {out}.part", "--resume", code=130)
    assert names(out) == ["rows.jsonl.part", "rows.jsonl.part.job"]
    assert len(read_rows(out.with_name("rows.jsonl.part"))) == 24
    assert len(read_rows(trace)) == 24


@pytest.mark.parametrize(
    "tail",
    [b"", b'{"id": 8, "vi', b'{"id": 8, "view": "base"}\n{"id"', b"\0\0\0\n", b"[1]\n"],
    ids=["clean", "torn", "rows of an unfinished chunk", "zeros", "foreign"],
)
def test_a_resumed_run_ends_with_the_same_bytes(
    score: Run, prompts: Path, out: Path, tail: bytes
) -> None:
    whole = out.with_name("whole.jsonl")
    score("--prompts", prompts, *VIEWS, "--out", whole)
    interrupted(score, prompts, out)
    with out.with_name("rows.jsonl.part").open("ab") as part:
        part.write(tail)
    ended = score("--prompts", prompts, *VIEWS, "--out", out, "--resume", "--format", "json")
    assert ended.code == 0, ended.err
    assert "going on after 8 of 12 prompts" in ended.err
    assert out.read_bytes() == whole.read_bytes()
    assert names(out) == [
        "rows.jsonl",
        "rows.jsonl.meta.json",
        "whole.jsonl",
        "whole.jsonl.meta.json",
    ]
    told = json.loads(ended.out)
    assert told["run"]["forward_passes"] == 12
    assert [view["prompts"] for view in told["views"]] == [12, 12]


@pytest.mark.parametrize("cut", [0, 1, 2000, 100_000])
def test_a_part_cut_anywhere_is_taken_up(score: Run, prompts: Path, out: Path, cut: int) -> None:
    whole = out.with_name("whole.jsonl")
    score("--prompts", prompts, *VIEWS, "--out", whole)
    interrupted(score, prompts, out)
    part = out.with_name("rows.jsonl.part")
    part.write_bytes(part.read_bytes()[:cut])
    assert score("--prompts", prompts, *VIEWS, "--out", out, "--resume").code == 0
    assert out.read_bytes() == whole.read_bytes()


def test_a_part_with_every_row_only_needs_its_name(score: Run, prompts: Path, out: Path) -> None:
    interrupted(score, prompts, out, chunks=3)
    ended = score("--prompts", prompts, *VIEWS, "--out", out, "--resume")
    assert "0 values computed" in ended.err
    assert len(read_rows(out)) == 36


def test_parquet_is_resumed_too(score: Run, prompts: Path, out: Path) -> None:
    import polars as pl

    table = out.with_suffix(".parquet")
    interrupted(score, prompts, table)
    assert names(table) == ["rows.parquet.part", "rows.parquet.part.job"]
    assert score("--prompts", prompts, *VIEWS, "--out", table, "--resume").code == 0
    assert names(table) == ["rows.parquet", "rows.parquet.meta.json"]
    assert pl.read_parquet(table).height == 36


def test_an_interrupt_before_any_row_leaves_nothing(
    score: Run, prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(self: PartFile, rows: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(PartFile, "write", interrupt)
    score("--prompts", prompts, "--out", out).refused("interrupted", code=130)
    assert names(out) == []


def test_a_part_without_a_row_stands_in_nobody_s_way(score: Run, prompts: Path, out: Path) -> None:
    out.with_name("rows.jsonl.part").touch()
    assert score("--prompts", prompts, "--out", out).code == 0
    assert names(out) == ["rows.jsonl", "rows.jsonl.meta.json"]


def test_resuming_nothing_begins(score: Run, prompts: Path, out: Path) -> None:
    assert score("--prompts", prompts, "--out", out, "--resume").code == 0
    assert len(read_rows(out)) == 24


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (("--views", "base,ft"), "other views"),
        ((*VIEWS, "--top-k", "9"), "other top_k"),
        ((*VIEWS, "--op", "rolling_logprob"), "other op"),
        ((*VIEWS, "--no-special-tokens"), "other special_tokens"),
    ],
)
def test_the_rows_of_another_job_are_not_joined(
    score: Run, prompts: Path, out: Path, options: tuple[str, ...], word: str
) -> None:
    interrupted(score, prompts, out)
    before = out.with_name("rows.jsonl.part").read_bytes()
    ended = score("--prompts", prompts, *options, "--out", out, "--resume")
    ended.refused("another job", word)
    assert out.with_name("rows.jsonl.part").read_bytes() == before


def test_other_prompts_are_another_job(score: Run, prompts: Path, out: Path) -> None:
    interrupted(score, prompts, out)
    prompts.write_text(prompts.read_text("utf-8").replace("the", "The", 1), "utf-8")
    score("--prompts", prompts, *VIEWS, "--out", out, "--resume").refused("other prompts")


def test_a_part_of_unknown_origin_is_not_joined(score: Run, prompts: Path, out: Path) -> None:
    interrupted(score, prompts, out)
    out.with_name("rows.jsonl.part.job").unlink()
    score("--prompts", prompts, *VIEWS, "--out", out, "--resume").refused("can't tell which job")


def test_an_unfinished_run_is_not_begun_again_unasked(score: Run, prompts: Path, out: Path) -> None:
    interrupted(score, prompts, out)
    score("--prompts", prompts, *VIEWS, "--out", out).refused("--resume", "--force")
    assert score("--prompts", prompts, "--views", "base", "--out", out, "--force").code == 0
    assert names(out) == ["rows.jsonl", "rows.jsonl.meta.json"]
    assert len(read_rows(out)) == 12


def test_what_is_replaced_stays_until_the_new_is_whole(
    score: Run, prompts: Path, out: Path
) -> None:
    out.write_text("old\n")
    interrupted(score, prompts, out, "--force").refused("--resume --force", code=130)
    assert out.read_text() == "old\n"
    score("--prompts", prompts, *VIEWS, "--out", out, "--resume").refused("there already")
    assert score("--prompts", prompts, *VIEWS, "--out", out, "--resume", "--force").code == 0
    assert len(read_rows(out)) == 36


def test_a_part_is_checked_again_when_it_is_opened(out: Path) -> None:
    part = PartFile(out, {"op": "one"}, force=False, resume=False)
    part.write([{"id": 0, "view": "base"}])
    part.close()
    with pytest.raises(InvalidInputError, match="other op"):
        PartFile(out, {"op": "two"}, force=False, resume=True)


@contextmanager
def file_size_limit(limit_bytes: int) -> Iterator[None]:
    """Files can't grow beyond ``limit_bytes``: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_ends_the_run_and_keeps_the_rows(score: Run, prompts: Path, out: Path) -> None:
    with file_size_limit(100_000):
        ended = score("--prompts", prompts, *VIEWS, "--out", out)
    ended.refused("rows.jsonl.part", "--resume", code=3)
    assert names(out) == ["rows.jsonl.part", "rows.jsonl.part.job"]
    assert score("--prompts", prompts, *VIEWS, "--out", out, "--resume").code == 0
    assert len(read_rows(out)) == 36


def test_a_disk_too_full_for_parquet_keeps_the_rows(score: Run, prompts: Path, out: Path) -> None:
    table = out.with_suffix(".parquet")
    interrupted(score, prompts, table, chunks=3)
    with file_size_limit(1000):
        ended = score("--prompts", prompts, *VIEWS, "--out", table, "--resume")
    ended_words = ended.err.splitlines()[-1]
    assert (ended.code, "--resume" in ended_words) == (3, True), ended.err
    assert names(table) == ["rows.parquet.part", "rows.parquet.part.job"]
    assert score("--prompts", prompts, *VIEWS, "--out", table, "--resume").code == 0
    assert names(table) == ["rows.parquet", "rows.parquet.meta.json"]


def test_a_template_that_writes_another_day_is_another_job(
    run: Run, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.utils import chat_template_utils

    compiled, days = chat_template_utils._compile_jinja_template, ["Monday"]

    def compile_with_day(template: str) -> Any:
        found = compiled(template)
        found.globals["strftime_now"] = lambda _: days[0]
        return found

    monkeypatch.setattr(chat_template_utils, "_compile_jinja_template", compile_with_day)
    folder = tmp_path / "model"
    shutil.copytree(ASSETS / "model", folder)
    template = "{{ strftime_now('%A') }}: {{ messages[0]['content'] }}"
    (folder / "chat_template.jinja").write_text(template)
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"day {number}\n" for number in range(12)))

    def score(*options: object) -> Ended:
        asked = ("--model", folder, "--chat-template", "--views", "base")
        return run("score", *asked, *options, "--prompts", prompts, "--out", out)

    write = PartFile.write

    def interrupting(self: PartFile, rows: Sequence[dict[str, Any]]) -> None:
        write(self, rows)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "write", interrupting)
        assert score().code == 130
    days[0] = "Tuesday"
    ended = score("--resume")
    ended.refused("belongs to another job (other text of the chat template)")
    days[0] = "Monday"
    ended = score("--resume")
    assert ended.code == 0, ended.err
    assert len(read_rows(out)) == 12
