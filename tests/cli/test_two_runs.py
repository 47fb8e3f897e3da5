"""Two runs with one ``--out``: only one writes, and nothing finished is lost.

Checked: what the second is told while the first writes, and after it has ended; a file that comes
while a run is going on; a run that ends between the other's open and lock; what a run leaves of
its own and of the next one's; a kill and a failing disk at the moment of publishing. Not checked:
file systems without locks, on which two runs can't be told apart.
"""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs import results as output
from forwardcache.jobs.outfile import part_of
from forwardcache.jobs.results import PartFile, job_of
from tests.cli.conftest import ASSETS, Run, read_rows, without_first_line
from tests.patience import PATIENCE_S
from tests.warm import WarmPython

ROWS = [{"id": 0, "view": "base", "op": "logprob_of", "hit": False, "logprob": -1.0, "input": {}}]
VIEWS = ("--views", "base")


@pytest.fixture(params=["rows.jsonl", "rows.parquet"])
def out(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / str(request.param)


@pytest.fixture
def jsonl(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder / "rows.jsonl"


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.parent.iterdir())


def begun(out: Path, *, force: bool = False, resume: bool = False) -> PartFile:
    """A run that has written a row."""
    part = PartFile(out, {"op": "logprob_of"}, force=force, resume=resume)
    part.write(ROWS)
    return part


def on_write(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Lets something happen while a run is going on."""
    write = PartFile.write

    def writing(self: PartFile, rows: list[dict[str, Any]]) -> None:
        act()
        write(self, rows)

    monkeypatch.setattr(PartFile, "write", writing)


@pytest.mark.parametrize("options", [(), ("--resume",), ("--force",), ("--resume", "--force")])
@pytest.mark.parametrize("rows", [[], ROWS], ids=["no row yet", "a row"])
def test_while_one_writes_the_other_is_told_so(
    score: Run, prompts: Path, jsonl: Path, options: tuple[str, ...], rows: list[dict[str, Any]]
) -> None:
    first = PartFile(jsonl, {}, force=False, resume=False)
    try:
        first.write(rows)
        ended = score("--prompts", prompts, "--out", jsonl, *options)
    finally:
        first.close()
    ended.refused(f"another run is writing {part_of(jsonl)}")
    assert "--resume" not in ended.err


def test_two_processes_end_with_one_file(prompts: Path, jsonl: Path, warm: WarmPython) -> None:
    model = ["--model", ASSETS / "model", "--dtype", "float32"]
    options = ["--prompts", prompts, "--out", jsonl]
    command = [*map(str, [warm.python, "-m", "forwardcache", "score", *model, *options])]
    runs = [
        subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    told = {process.communicate(timeout=PATIENCE_S)[1]: process.returncode for process in runs}
    assert sorted(told.values()) == [0, 2], told
    (refusal,) = (err for err, code in told.items() if code == 2)
    assert without_first_line(refusal).count("\n") == 1
    assert "another run is writing" in refusal or "is there already" in refusal
    assert names(jsonl) == ["rows.jsonl", "rows.jsonl.meta.json"]
    assert len(read_rows(jsonl)) == 12


def test_a_file_that_came_during_the_run_is_not_replaced(
    score: Run, prompts: Path, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        on_write(patch, lambda: out.write_text("another's\n"))
        ended = score("--prompts", prompts, *VIEWS, "--out", out)
    ended.refused("has come while this run was going on", "--resume --force")
    assert out.read_text() == "another's\n"
    assert names(out) == [out.name, out.name + ".part", out.name + ".part.job"]
    ended = score("--prompts", prompts, *VIEWS, "--out", out, "--resume", "--force")
    assert "0 values computed" in ended.err
    assert names(out) == [out.name, out.name + ".meta.json"]


def test_a_file_that_came_while_the_model_was_loaded_is_not_replaced(out: Path) -> None:
    out.write_text("another's\n")
    with pytest.raises(InvalidInputError, match="is there already"):
        begun(out)
    assert names(out) == [out.name]


def test_a_part_that_came_while_the_model_was_loaded_is_not_replaced(out: Path) -> None:
    begun(out).close()
    before = part_of(out).read_bytes()
    with pytest.raises(InvalidInputError, match="unfinished run"):
        begun(out)
    assert part_of(out).read_bytes() == before


def test_a_run_that_ends_leaves_the_next_one_s_part_alone(out: Path) -> None:
    first = begun(out)
    first.publish()
    second = begun(out, force=True)
    first.close()
    assert names(out) == [out.name, out.name + ".part", out.name + ".part.job"]
    second.publish()
    second.close()
    assert names(out) == [out.name]


@pytest.mark.parametrize("force", [False, True])
def test_the_job_goes_before_the_part_s_name_is_free(
    jsonl: Path, monkeypatch: pytest.MonkeyPatch, force: bool
) -> None:
    def move(source: Path, out: Path, *, force: bool) -> None:
        assert not job_of(jsonl).exists()
        source.replace(out)

    monkeypatch.setattr(output, "move", move)
    part = begun(jsonl, force=force)
    part.publish()
    part.close()
    assert names(jsonl) == ["rows.jsonl"]


def test_a_run_that_ended_between_open_and_lock_is_not_written_into(
    out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = begun(out)
    lock = output._lock
    ended: list[bool] = []

    def locking(*arguments: Any) -> None:
        if not ended:
            ended.append(True)
            first.publish()
            first.close()
        lock(*arguments)

    monkeypatch.setattr(output, "_lock", locking)
    second = begun(out, force=True)
    whole = out.read_bytes()
    second.write(ROWS)
    assert out.read_bytes() == whole
    second.publish()
    second.close()
    assert names(out) == [out.name]


def test_a_kill_between_the_two_names_costs_nothing_that_is_finished(jsonl: Path) -> None:
    begun(jsonl).close()
    jsonl.hardlink_to(part_of(jsonl))
    job_of(jsonl).unlink()
    whole = jsonl.read_bytes()
    second = begun(jsonl, force=True)
    second.write(ROWS)
    assert jsonl.read_bytes() == whole
    second.publish()
    second.close()
    assert names(jsonl) == ["rows.jsonl"]
    assert len(read_rows(jsonl)) == 2


def test_a_rename_that_fails_keeps_part_and_job(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: object, target: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    part = begun(out)
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", link)
        with pytest.raises(MachineError, match="--resume goes on"):
            part.publish()
    part.close()
    assert names(out) == [out.name + ".part", out.name + ".part.job"]
    begun(out, resume=True).close()


@pytest.mark.parametrize("taken", [False, True])
def test_without_hard_links_a_file_is_not_replaced_either(
    out: Path, monkeypatch: pytest.MonkeyPatch, taken: bool
) -> None:
    def link(source: object, target: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", link)
    part = begun(out)
    if taken:
        out.write_text("another's\n")
        with pytest.raises(InvalidInputError, match="has come while"):
            part.publish()
        assert out.read_text() == "another's\n"
    else:
        part.publish()
        assert names(out) == [out.name]
    part.close()


def test_a_part_that_was_taken_away_is_told(out: Path) -> None:
    first = begun(out)
    part_of(out).unlink()
    job_of(out).unlink()
    second = begun(out)
    with pytest.raises(InvalidInputError, match="was removed while"):
        first.publish()
    first.close()
    second.publish()
    second.close()
    assert names(out) == [out.name]
