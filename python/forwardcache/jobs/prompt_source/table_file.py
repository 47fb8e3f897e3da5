"""A file that holds a table: Parquet, or what ``datasets`` saves; each row is a line of JSON.

Rows are read on from where the last ones were: a table can be opened anew at the begin of a group
of rows only, and whoever reads chunk after chunk needs the rows that follow.
"""

from __future__ import annotations

import hashlib
import mmap
import threading
from bisect import bisect_right
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forwardcache.errors import InvalidInputError
from forwardcache.extras import extra_named
from forwardcache.jobs.kinds import kind_of_fields
from forwardcache.jobs.prompt_line import InputWords, LineKind
from forwardcache.jobs.prompt_source.cells import Rows
from forwardcache.jobs.prompt_source.line_file import unreadable
from forwardcache.jobs.prompt_source.source import BLOCK_LINES, Lines
from forwardcache.jobs.reasons import first_line

if TYPE_CHECKING:
    import pyarrow as pa

PARQUET_SUFFIX, ARROW_SUFFIX = ".parquet", ".arrow"
TABLE_SUFFIXES = frozenset({PARQUET_SUFFIX, ARROW_SUFFIX})

_BUFFER_BYTES = 1 << 20
_SEEN_BYTES = 1 << 24
_ARROW_MAGIC = b"ARROW1"


class Table(Protocol):
    """Batches of rows, from the begin on or from near a row."""

    @property
    def schema(self) -> pa.Schema:
        """The columns."""

    @property
    def is_mapped(self) -> bool:
        """Whether batches are the file's own bytes, which nobody has looked at."""

    def begin(self, row: int) -> int:
        """Where reading begins that is to come to a row: that row, or one before it."""

    def batches(self, row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """Batches with the number of their first row, from where ``begin`` says."""


class TableFile:
    """The rows of a table.

    Args:
        path: The file.
        words: What its rows are called.

    Attributes:
        name: Its path.
        kind: Each row is a JSON object.

    Raises:
        InvalidInputError: it is no table, or one of something else; or a column can't be read.
        MissingExtraError: pyarrow isn't installed.
    """

    kind: LineKind = "json"

    def __init__(self, path: str, words: InputWords) -> None:
        with extra_named("reading prompts from a table"):
            import pyarrow  # noqa: F401

        self.name = path
        self._words = words
        with self._told():
            self._table: Table = _table(path)
            schema = self._table.schema
            if (found := kind_of_fields(schema.names)) is not None:
                raise InvalidInputError(f"{words.option} {path} is {found.told}")
            self._rows = Rows(path, schema)
        self._walk = _Walk(iter(()))
        self._lock = threading.Lock()

    def read(self, at: int, number: int, size: int) -> Generator[Lines, None, int]:
        """As of ``PromptFile``."""
        while raws := self._taken(at, size):
            count = len(raws)
            yield range(number, number + count), range(at, at + count), raws
            at += count
            number += count
        return number

    def digest(self) -> str:
        """As of ``PromptFile``."""
        try:
            with Path(self.name).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise unreadable(self.name, error, self._words) from error

    def close(self) -> None:
        """As of ``PromptFile``."""
        self._walk = _Walk(iter(()))

    def _taken(self, row: int, size: int) -> list[bytes]:
        with self._lock, self._told():
            if not self._walk.reaches(row, self._table.begin(row)):
                batches = self._table.batches(row)
                self._walk = _Walk(batches, is_mapped=self._table.is_mapped)
            return self._walk.take(self._rows, row, size)

    @contextmanager
    def _told(self) -> Iterator[None]:
        import pyarrow as pa

        try:
            yield
        except InvalidInputError:
            raise
        except (pa.ArrowException, OSError, ValueError) as error:
            raise InvalidInputError(
                f"can't read the {self._words.one}s {self.name!r}: {first_line(error)}"
            ) from error


class _Walk:
    """A way through a table, forward only.

    Args:
        batches: What is left of it.
        is_mapped: As of ``Table``.
    """

    def __init__(
        self, batches: Iterator[tuple[int, pa.RecordBatch]], *, is_mapped: bool = False
    ) -> None:
        self._batches, self._is_mapped = batches, is_mapped
        self._first = self._end = 0
        self._batch: pa.RecordBatch | None = None
        self._lines: list[bytes] | None = None

    def reaches(self, row: int, begin: int) -> bool:
        """Whether a row is ahead, and no nearer for whoever begins anew at ``begin``."""
        return self._batch is not None and self._first <= row and begin <= self._end

    def take(self, rows: Rows, row: int, size: int) -> list[bytes]:
        """Lines from a row on, at most so many; none behind the last."""
        while row >= self._end:
            found = next(self._batches, None)
            if found is None:
                return []
            self._first, self._batch = found
            self._end = self._first + found[1].num_rows
            self._lines = None
        if self._lines is None:
            self._lines = self._written(rows)
        return self._lines[row - self._first : row - self._first + size]

    def _written(self, rows: Rows) -> list[bytes]:
        batch: Any = self._batch
        if self._is_mapped:
            # Places that lead out of a batch would be followed.
            batch.validate(full=True)
        return rows.lines(batch, self._first + 1)


def is_table(path: str) -> bool:
    """Whether a file is named as a table."""
    return Path(path).suffix.lower() in TABLE_SUFFIXES


def _table(path: str) -> Table:
    if Path(path).suffix.lower() != ARROW_SUFFIX:
        return _Parquet(path)
    with Path(path).open("rb") as file:
        return _Arrow(path, is_stream=file.read(len(_ARROW_MAGIC)) != _ARROW_MAGIC)


class _Parquet:
    """A Parquet file; group by group of rows, a page of each column at a time."""

    is_mapped = False

    def __init__(self, path: str) -> None:
        self._path = path
        file = self._opened()
        self.schema = file.schema_arrow
        groups = range(file.metadata.num_row_groups)
        counts = (file.metadata.row_group(group).num_rows for group in groups)
        self._begins: list[int] = list(accumulate(counts, initial=0))

    def begin(self, row: int) -> int:
        """As of ``Table``: the begin of its group."""
        return self._begins[self._group(row)]

    def batches(self, row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """As of ``Table``."""
        file = self._opened()
        for group in range(self._group(row), len(self._begins) - 1):
            first = self._begins[group]
            for batch in file.iter_batches(BLOCK_LINES, row_groups=[group], use_threads=False):
                yield first, batch
                first += batch.num_rows

    def _group(self, row: int) -> int:
        return bisect_right(self._begins, row) - 1

    def _opened(self) -> pa.parquet.ParquetFile:
        import pyarrow.parquet

        return pyarrow.parquet.ParquetFile(self._path, buffer_size=_BUFFER_BYTES, pre_buffer=False)


class _Arrow:
    """A file of Arrow's batches, as a stream or with an index; mapped into memory."""

    is_mapped = True

    def __init__(self, path: str, *, is_stream: bool) -> None:
        self._path, self._is_stream = path, is_stream
        self.schema = self._opened(self._mapped()).schema

    def begin(self, row: int) -> int:
        """As of ``Table``: always its first."""
        return 0

    def batches(self, row: int) -> Iterator[tuple[int, pa.RecordBatch]]:
        """As of ``Table``."""
        mapped = self._mapped()
        reader = self._opened(mapped)
        indexed = () if self._is_stream else range(reader.num_record_batches)
        first = seen = 0
        for batch in reader if self._is_stream else map(reader.get_batch, indexed):
            for at in range(0, batch.num_rows, BLOCK_LINES):
                yield first + at, batch.slice(at, BLOCK_LINES)
            first += batch.num_rows
            seen += batch.nbytes
            if seen > _SEEN_BYTES:
                # What was read would count as this process's memory until the file is let go.
                mapped.madvise(mmap.MADV_DONTNEED)
                seen = 0

    def _mapped(self) -> mmap.mmap:
        with Path(self._path).open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def _opened(self, mapped: mmap.mmap) -> Any:
        import pyarrow as pa

        source = pa.BufferReader(pa.py_buffer(mapped))
        return pa.ipc.open_stream(source) if self._is_stream else pa.ipc.open_file(source)
