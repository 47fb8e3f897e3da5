"""Rows out: to standard output, or to a file that appears under its name only when it is whole.

Rows go to ``OUT.part`` as they are done. ``OUT.part.job`` next to it says which job they belong to,
so that ``--resume`` can't join two. At the end the part is flushed to disk and renamed, or turned
into parquet first. Torn lines at the part's end, of a kill or a full disk, are cut off on resuming.

``OUT.part.measured`` holds what ``diff`` keeps for ``--resume`` beside its rows (``diff.kept``).

``OUT.meta.json``, which says which run it was, gets its name before ``OUT`` gets its own: rows are
never there without it.

Who holds the lock of the file that is named ``OUT.part`` may touch the six names (``OUT``, its
meta, the part, its job and what it measured, ``OUT.tmp``). Giving the part's name away is therefore
the last thing a run does: from then on the job next to it may be another run's. Without
``--force``, ``OUT`` is looked at again under the lock, and is taken only if nobody has it
(``move``).
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.columns import InputColumns, TableColumns
from forwardcache.jobs.durable import sync_folder, to_disk
from forwardcache.jobs.meta_file import check_meta, meta_beside, passing_of
from forwardcache.jobs.metadata import PARQUET_KEY, Facts, meta_of
from forwardcache.jobs.outfile import check_target, is_name_of, part_of, write_failed
from forwardcache.jobs.parquet import write_parquet
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.rows import Row, encoded
from forwardcache.jobs.skips import Skipped
from forwardcache.operation import Column

TEMPLATE = "text of the chat template"
"""The fact of a job that is known once its tokenizer is there."""

# In the file of the job, in addition to what decides the rows.
_SKIPPED = "skipped"

JSONL = ".jsonl"
PARQUET = ".parquet"

# What ``link`` says on a file system that has none.
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK})


class RowSink(Protocol):
    """Where rows go."""

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows; they are out of this process when it returns."""

    def publish(self, meta: Facts | None = None) -> None:
        """All rows were written; ``meta`` says which run it was."""

    def close(self) -> None:
        """Keep what was written, as it is."""


class StdoutRows:
    """Rows as JSON lines on standard output."""

    def write(self, rows: Sequence[Row]) -> None:
        """Write and flush."""
        sys.stdout.write(encoded(rows).decode("ascii"))
        sys.stdout.flush()

    def publish(self, meta: Facts | None = None) -> None:
        """Nothing is left to do."""

    def close(self) -> None:
        """Nothing is open."""


def check_out(out: Path, *, force: bool, resume: bool) -> None:
    """Refuse an output file before any work is done for it.

    Args:
        out: The final name.
        force: Whether a file under that name is replaced.
        resume: Whether an unfinished run is gone on with.

    Raises:
        InvalidInputError: the suffix is unknown, there is no folder, or something stands in the
            way.
    """
    if out.suffix.lower() not in {JSONL, PARQUET}:
        raise InvalidInputError(f"--out {out} must end in {JSONL} or {PARQUET}")
    check_target(out, f"--out {out}")
    _check_nobody_writes(out)
    _check_free(out, force=force, resume=resume)


def _check_nobody_writes(out: Path) -> None:
    with suppress(OSError), part_of(out).open("r+b") as part:
        _lock(part, out)


def _check_free(out: Path, *, force: bool, resume: bool) -> None:
    if os.path.lexists(out) and not force:
        hint = "--force"
        if is_unfinished(out):
            hint = "--resume --force goes on with the unfinished run and"
        raise InvalidInputError(f"--out {out} is there already: {hint} replaces it")
    if is_unfinished(out) and not (force or resume):
        raise InvalidInputError(
            f"{part_of(out)} is there from an unfinished run: --resume goes on with it, --force "
            "begins again"
        )
    check_meta(out, f"--out {out}", force=force)


def _is_parquet(out: Path) -> bool:
    return out.suffix.lower() == PARQUET


def is_unfinished(out: Path) -> bool:
    """Whether there is something of a run that didn't end: rows, or what it measured."""
    return any(_has_content(path) for path in (part_of(out), measured_of(out)))


def _has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def rows_kept(out: Path) -> int:
    """How many whole rows stand in the part; 0 without one."""
    try:
        with part_of(out).open("rb") as part:
            return sum(line.endswith(b"\n") for line in part)
    except FileNotFoundError:
        return 0


def job_of(out: Path) -> Path:
    """The file that says which job the part belongs to."""
    return out.with_name(out.name + ".part.job")


def measured_of(out: Path) -> Path:
    """The file of what was found beside the rows."""
    return out.with_name(out.name + ".part.measured")


def names_of(out: Path) -> tuple[Path, ...]:
    """Every file that a run with ``--out`` writes or removes."""
    return out, meta_of(out), part_of(out), job_of(out), measured_of(out), passing_of(out)


def _lock(part: BinaryIO, out: Path) -> None:
    # A file system without locks is no reason to refuse the work.
    with suppress(OSError):
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidInputError(f"another run is writing {part_of(out)}") from error


def _open_alone(out: Path) -> BinaryIO:
    """The part, locked, and still the part once it is: a run may have ended before the lock."""
    path = part_of(out)
    while True:
        part = path.open("a+b")
        try:
            _lock(part, out)
            if is_name_of(path, part):
                if not is_name_of(out, part):
                    return part
                # Of a run that was killed while it published: these rows have their name.
                path.unlink()
        except BaseException:
            part.close()
            raise
        part.close()


def move(source: Path, out: Path, *, force: bool) -> None:
    """Rename ``source``, over a file only with ``force``.

    Raises:
        FileExistsError: ``out`` is there; ``source`` stays.
        OSError: it can't be renamed; ``source`` stays.
    """
    if not force:
        try:
            os.link(source, out)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            if os.path.lexists(out):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(out)) from None
        else:
            source.unlink()
            return
    source.replace(out)


class PartFile:
    """Rows on their way to a file; see the module."""

    def __init__(
        self,
        out: Path,
        job: dict[str, Any],
        *,
        force: bool,
        resume: bool,
        prompts: Sequence[Prompt] = (),
        columns: Mapping[str, Column] | None = None,
        input_columns: Callable[[], TableColumns] | None = None,
    ) -> None:
        """Open the part, empty unless ``resume`` goes on with one.

        Args:
            out: The final name.
            job: What decides the rows; JSON values.
            force: Whether a file under the final name is replaced.
            resume: Whether to keep the rows of an unfinished run of the same job.
            prompts: Those of the job; what they hold decides the columns of a table.
            columns: The other columns of a table; None for those of score's rows.
            input_columns: Gives the columns of a table for what comes from the input; None for
                ``id`` and ``input`` of ``prompts``.

        Raises:
            InvalidInputError: another process writes it or has finished it meanwhile, or the part
                belongs to another job.
        """
        self._out, self._job, self._force = out, job, force
        self._table = columns
        made = input_columns or (lambda: InputColumns.of(prompts))
        self._columns = made() if _is_parquet(out) else None
        self._part = _open_alone(out)
        try:
            _check_free(out, force=force, resume=resume)
            if resume and is_unfinished(out):
                check_same_job(out, job)
            else:
                self._part.truncate(0)
                measured_of(out).unlink(missing_ok=True)
                self._note_job()
        except BaseException:
            self.close()
            raise

    def _note_job(self) -> None:
        job_of(self._out).write_text(json.dumps(self._job, indent=1) + "\n", "utf-8")

    def skipped(self) -> list[Skipped]:
        """The prompts without rows that were noted so far, also by the run that left the part."""
        try:
            noted = json.loads(job_of(self._out).read_text("utf-8")).get(_SKIPPED, [])
            return [Skipped(**each) for each in noted]
        except (OSError, ValueError, TypeError, AttributeError):
            return []

    def set_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Note which prompts have no rows, instead of those noted before.

        Raises:
            MachineError: the disk is full or fails.
        """
        if skipped == self.skipped():
            return
        facts = {**self._job, _SKIPPED: [one.as_json() for one in skipped]}
        passing = passing_of(self._out)
        try:
            passing.write_text(json.dumps(facts, indent=1) + "\n", "utf-8")
            passing.replace(job_of(self._out))
        except OSError as error:
            raise self._failed(error) from error

    def add_skipped(self, skipped: Sequence[Skipped]) -> None:
        """Note prompts that have no rows, before the rows of their chunk are written.

        Raises:
            MachineError: the disk is full or fails.
        """
        self.set_skipped([*self.skipped(), *skipped])

    def whole_rows(
        self,
        expected: Iterable[Any],
        name_of: Callable[[Row], Any] = lambda row: (row.get("line"), row.get("view")),
    ) -> Iterator[tuple[Row, int]]:
        """The rows already there, as far as they are whole and in place.

        Args:
            expected: The name of every row of the job, in order.
            name_of: Tells the name of a row; by default its line and view.

        Yields:
            Each row with the offset of its end in the file, in bytes.
        """
        self._part.seek(0)
        end = 0
        for line, name in zip(self._part, expected, strict=False):
            row = _whole_row(line)
            if row is None or name_of(row) != name:
                return
            end += len(line)
            yield row, end

    def fitted(self, row: Row) -> Row:
        """A row, or some fields of it, as the part holds it."""
        return row if self._columns is None else self._columns.fitted(row)

    def cut(self, end: int) -> None:
        """Drop everything behind ``end``, an offset in bytes."""
        self._part.truncate(end)

    def write(self, rows: Sequence[Row]) -> None:
        """Append rows; they are with the operating system when it returns.

        Raises:
            MachineError: the disk is full or fails; the rows before stay.
        """
        try:
            self._part.write(encoded(list(map(self.fitted, rows))))
            self._part.flush()
        except OSError as error:
            raise self._failed(error) from error

    def publish(self, meta: Facts | None = None) -> None:
        """Bring the rows to disk and give them their final name.

        Args:
            meta: Which run it was, to be kept with them; None to keep nothing.

        Raises:
            InvalidInputError: a file of that name has come meanwhile and isn't to be replaced, or
                the part was taken away.
            MachineError: the disk is full or fails; the part stays.
        """
        if not is_name_of(part_of(self._out), self._part):
            raise InvalidInputError(
                f"{part_of(self._out)} was removed while this run was writing it"
            )
        try:
            to_disk(self._part.fileno())
            with meta_beside(self._out, meta, force=self._force):
                if self._columns is not None:
                    self._publish_table(self._columns, meta)
                else:
                    self._publish_rows()
            sync_folder(self._out.parent)
        except FileExistsError as error:
            raise InvalidInputError(
                f"--out {self._out} has come while this run was going on; its rows are in "
                f"{part_of(self._out)}, the same command with --resume --force replaces the file"
            ) from error
        except OSError as error:
            raise self._failed(error) from error

    def _failed(self, error: OSError) -> Exception:
        hint = "; --resume goes on with the rows that are in it"
        return write_failed(part_of(self._out), error, hint=hint)

    def _publish_rows(self) -> None:
        job_of(self._out).unlink(missing_ok=True)
        measured_of(self._out).unlink(missing_ok=True)
        try:
            move(part_of(self._out), self._out, force=self._force)
        except BaseException:
            if is_name_of(part_of(self._out), self._part):
                self._note_job()
            raise

    def _publish_table(self, columns: TableColumns, meta: Facts | None) -> None:
        passing = passing_of(self._out)
        metadata = {} if meta is None else {PARQUET_KEY: json.dumps(meta)}
        try:
            write_parquet(part_of(self._out), passing, columns, metadata, self._table)
            with passing.open("rb") as file:
                to_disk(file.fileno())
            move(passing, self._out, force=self._force)
        finally:
            passing.unlink(missing_ok=True)
        job_of(self._out).unlink(missing_ok=True)
        measured_of(self._out).unlink(missing_ok=True)
        part_of(self._out).unlink()

    def close(self) -> None:
        """Close the part; rows that were written stay, and what was measured."""
        if self._part.closed:
            return
        # What a full disk refused is refused again here, and was reported then.
        with suppress(OSError):
            self._part.flush()
        with suppress(OSError):
            self._remove_if_useless()
        with suppress(OSError):
            self._part.close()

    def _remove_if_useless(self) -> None:
        if not is_unfinished(self._out) and is_name_of(part_of(self._out), self._part):
            job_of(self._out).unlink(missing_ok=True)
            measured_of(self._out).unlink(missing_ok=True)
            part_of(self._out).unlink()


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

    Args:
        out: The final name.
        job: What decides the rows; without ``TEMPLATE`` before the model is loaded.

    Raises:
        InvalidInputError: naming what differs.
    """
    try:
        begun = json.loads(job_of(out).read_text("utf-8"))
        begun.pop(_SKIPPED, None)
        if TEMPLATE not in job:
            begun.pop(TEMPLATE, None)
        differing = [name for name in {**begun, **job} if begun.get(name) != job.get(name)]
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InvalidInputError(
            f"can't tell which job {part_of(out)} belongs to: {job_of(out).name} is missing or "
            "broken; --force without --resume begins again"
        ) from error
    if differing:
        raise InvalidInputError(
            f"{part_of(out)} belongs to another job (other {', '.join(differing)}); "
            "--force without --resume begins again"
        )
