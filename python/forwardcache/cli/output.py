"""Rows out: to standard output, or to a file that appears under its name only when it is whole.

Rows go to ``OUT.part`` as they are done. ``OUT.part.job`` beside it says which job they belong to,
so that ``--resume`` can't join two. At the end the part is flushed to disk and renamed, or turned
into parquet first. Torn lines at the part's end, of a kill or a full disk, are cut off on resuming.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from forwardcache.cli.exits import (
    BadInputError,
    ExitCode,
    MachineError,
    first_line,
    os_explained,
)
from forwardcache.cli.rows import Row, encoded

JSONL = ".jsonl"
PARQUET = ".parquet"


class RowSink(Protocol):
    """Where rows go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows; they are out of this process when it returns."""

    def publish(self) -> None:
        """All rows were written."""

    def close(self) -> None:
        """Keep what was written, as it is."""


class StdoutRows:
    """Rows as JSON lines on standard output."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write and flush."""
        sys.stdout.write(encoded(rows).decode("ascii"))
        sys.stdout.flush()

    def publish(self) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is open."""


def check_out(out: Path, *, force: bool, resume: bool) -> None:
    """Refuse an output file before any work is done for it.

    Raises:
        BadInputError: the suffix is unknown, there is no folder, or something stands in the way.
    """
    if out.suffix.lower() not in {JSONL, PARQUET}:
        raise BadInputError(f"--out {out} must end in {JSONL} or {PARQUET}")
    if not out.parent.is_dir():
        raise BadInputError(f"--out {out}: there is no folder {out.parent}")
    if out.is_dir():
        raise BadInputError(f"--out {out} is a folder")
    if out.exists() and not force:
        hint = "--force"
        if is_unfinished(out):
            hint = "--resume --force goes on with the unfinished run and"
        raise BadInputError(f"--out {out} is there already: {hint} replaces it")
    if is_unfinished(out) and not (force or resume):
        raise BadInputError(
            f"{part_of(out)} is there from an unfinished run: --resume goes on with it, "
            "--force begins again"
        )


def _is_parquet(out: Path) -> bool:
    return out.suffix.lower() == PARQUET


def part_of(out: Path) -> Path:
    """Where the rows of ``out`` go until it is whole."""
    return out.with_name(out.name + ".part")


def is_unfinished(out: Path) -> bool:
    """Whether there are rows of a run that didn't end."""
    part = part_of(out)
    return part.exists() and part.stat().st_size > 0


def job_of(out: Path) -> Path:
    """The file that says which job the part belongs to."""
    return out.with_name(out.name + ".part.job")


class PartFile:
    """Rows on their way to a file; see the module."""

    def __init__(self, out: Path, job: dict[str, Any], *, resume: bool) -> None:
        """Open the part, empty unless ``resume`` goes on with one.

        Args:
            out: The final name.
            job: What decides the rows; JSON values.
            resume: Whether to keep the rows of an unfinished run of the same job.

        Raises:
            BadInputError: another process writes it, or the part belongs to another job.
        """
        self._out = out
        self._part: BinaryIO = part_of(out).open("a+b")
        try:
            self._lock()
            if resume and self._part.seek(0, os.SEEK_END):
                check_same_job(out, job)
            else:
                self._part.truncate(0)
                job_of(out).write_text(json.dumps(job, indent=1) + "\n", "utf-8")
        except BaseException:
            self._part.close()
            raise

    def _lock(self) -> None:
        # A file system without locks is no reason to refuse the work.
        with suppress(OSError):
            try:
                fcntl.flock(self._part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise BadInputError(f"another run is writing {part_of(self._out)}") from error

    def whole_rows(self, expected: Iterable[tuple[int, str]]) -> Iterator[tuple[Row, int]]:
        """The rows already there, as far as they are whole and in place.

        Args:
            expected: Id and view of every row of the job, in order.

        Yields:
            Each row with the offset of its end in the file, in bytes.
        """
        self._part.seek(0)
        end = 0
        for line, place in zip(self._part, expected, strict=False):
            row = _whole_row(line)
            if row is None or (row.get("id"), row.get("view")) != place:
                return
            end += len(line)
            yield row, end

    def cut(self, end: int) -> None:
        """Drop everything behind ``end``, an offset in bytes."""
        self._part.truncate(end)

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; they are with the operating system when it returns.

        Raises:
            MachineError: the disk is full or fails; the rows before stay.
        """
        try:
            self._part.write(encoded(rows, input_as_text=_is_parquet(self._out)))
            self._part.flush()
        except OSError as error:
            raise _write_failed(self._out, error) from error

    def publish(self) -> None:
        """Bring the rows to disk and give them their final name.

        Raises:
            MachineError: the disk is full or fails; the part stays.
        """
        try:
            os.fsync(self._part.fileno())
            if _is_parquet(self._out):
                _publish_parquet(self._out)
            else:
                part_of(self._out).replace(self._out)
            _sync_folder(self._out.parent)
        except OSError as error:
            raise _write_failed(self._out, error) from error
        job_of(self._out).unlink(missing_ok=True)

    def close(self) -> None:
        """Close the part; rows that were written stay, a part without any goes."""
        # What a full disk refused is refused again here, and was reported then.
        with suppress(OSError):
            self._part.close()
        if not is_unfinished(self._out):
            part_of(self._out).unlink(missing_ok=True)
            job_of(self._out).unlink(missing_ok=True)


def _whole_row(line: bytes) -> Row | None:
    if not line.endswith(b"\n"):
        return None
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) else None


def check_same_job(out: Path, job: dict[str, Any]) -> None:
    """Refuse to go on with the rows of another job.

    Raises:
        BadInputError: naming what differs.
    """
    try:
        begun = json.loads(job_of(out).read_text("utf-8"))
        differing = [name for name in {**begun, **job} if begun.get(name) != job.get(name)]
    except (OSError, ValueError, TypeError) as error:
        raise BadInputError(
            f"can't tell which job {part_of(out)} belongs to: {job_of(out).name} is missing or "
            "broken; --force without --resume begins again"
        ) from error
    if differing:
        raise BadInputError(
            f"{part_of(out)} belongs to another job (other {', '.join(differing)}); "
            "--force without --resume begins again"
        )


def _write_failed(out: Path, error: OSError) -> Exception:
    code, reason = os_explained(error)
    message = f"writing {part_of(out)}: {reason}; --resume goes on with the rows that are in it"
    return MachineError(message) if code == ExitCode.MACHINE_FAILED else BadInputError(message)


def _publish_parquet(out: Path) -> None:
    """Turn the part into parquet under a passing name, then give it its own."""
    passing = out.with_name(out.name + ".tmp")
    try:
        _write_parquet(part_of(out), passing)
        with passing.open("rb") as file:
            os.fsync(file.fileno())
        passing.replace(out)
    finally:
        passing.unlink(missing_ok=True)
    part_of(out).unlink()


def _write_parquet(part: Path, target: Path) -> None:
    """Stream JSON lines into parquet.

    Raises:
        OSError: it could not be written.
    """
    import polars as pl

    types: dict[str, Any] = {
        "id": pl.Int64, "view": pl.String, "op": pl.String, "hit": pl.Boolean, "top_k": pl.Int64,
        "token_ids": pl.List(pl.Int64), "logprobs": pl.List(pl.Float32), "tail_logprob": pl.Float64,
        "vocab_size": pl.Int64, "num_tokens": pl.Int64, "total_logprob": pl.Float64,
        "logprob": pl.Float64, "kl_base_nats": pl.Float64, "delta_nats": pl.Float64,
        "input": pl.String,
    }  # fmt: skip
    columns = _columns(part)
    schema = {name: kind for name, kind in types.items() if name in columns}
    try:
        pl.scan_ndjson(part, schema=schema).sink_parquet(target)
    except pl.exceptions.PolarsError as error:
        raise OSError(errno.EIO, first_line(error)) from error


def _columns(part: Path) -> set[str]:
    """The fields of the first prompt's rows; a view beside base has one that base hasn't."""
    columns: set[str] = set()
    first_id = None
    with part.open("rb") as lines:
        for row in map(json.loads, lines):
            first_id = row["id"] if first_id is None else first_id
            if row["id"] != first_id:
                break
            columns.update(row)
    return columns


def _sync_folder(folder: Path) -> None:
    """Bring the rename itself to disk, where the file system can."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
