"""The rows of one chunk as a Parquet table in memory, straight from numpy's arrays, and back.

A part has the columns ``prompt`` (its position in the chunk), ``view``, ``hit``, those of the
operation with the types that it says, ``input`` (the carried fields as JSON) and ``layout``. What a
row lacks is null, as is what it says null of; so ``layout`` tells which fields a row has, as a
number in the list that the table's metadata holds. A number that isn't finite is kept as it is.

The metadata (key ``forwardcache``) say which chunk of which job it is. No line of the input is
named anywhere: the manifest knows these.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.reasons import first_line, shown
from forwardcache.jobs.rows import RawRow
from forwardcache.operation import Column
from forwardcache.operations import operation

FORMAT = "part 1"
"""Rises when parts have other columns or metadata."""

_KEY = b"forwardcache"
_COMMON = ("prompt", "view", "hit", "layout")
_INPUT = "input"
_PLAIN_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "bool": (bool,),
    "int64": (int,),
    "float64": (float, np.float64),
}
_DTYPES: dict[str, type[np.generic]] = {
    "bool": np.bool_,
    "int64": np.int64,
    "float32": np.float32,
    "float64": np.float64,
    "uint8": np.uint8,
}
# Of what is nearly without order a higher level costs much and wins nothing.
_LEVEL = 1


@dataclass(frozen=True, slots=True)
class PartFacts:
    """Which chunk of which job a part holds.

    Attributes:
        name: The chunk's, 64 hex digits.
        job: Digest of what decides the job's rows, hex.
        op: The operation.
        views: Ids of the views, in the order of a prompt's rows.
        top_k: Tokens in a row of ``next_token_dist``.
    """

    name: str
    job: str
    op: str
    views: tuple[str, ...]
    top_k: int


def encode_part(
    facts: PartFacts, rows: Sequence[RawRow], inputs: Sequence[Mapping[str, Any]]
) -> bytes:
    """The rows of a chunk as a Parquet file.

    Args:
        facts: Which chunk it is.
        rows: Prompt by prompt, each with the rows of all views in their order; positions are those
            in the chunk.
        inputs: What each prompt of the chunk carries, those without rows included.

    Returns:
        The file's bytes.

    Raises:
        TypeError: the operation gives what its ``columns`` don't name.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    columns = operation(facts.op).row_columns()
    layouts = _Layouts(facts.op, columns)
    layout = [layouts.code(row.fields) for row in rows]
    view_codes = {view: code for code, view in enumerate(facts.views)}
    texts = [json.dumps(each) for each in inputs]
    positions = np.fromiter((row.position for row in rows), np.int32, len(rows))
    arrays = {
        "prompt": pa.array(positions),
        "view": _coded([view_codes[row.view] for row in rows], _shown(facts.views)),
        "hit": pa.array([row.hit for row in rows], pa.bool_()),
        "layout": pa.array(layout, pa.int32()),
        **{
            name: _column(f"{facts.op}: {name}", kind, [row.fields.get(name) for row in rows])
            for name, kind in columns.items()
        },
        _INPUT: _coded(positions, texts),
    }
    told = {
        "format": FORMAT,
        **asdict(facts),
        "layouts": layouts.found,
        "unscored": {at: texts[at] for at in _others(positions, len(texts))},
    }
    sink = pa.BufferOutputStream()
    table = pa.table(arrays).replace_schema_metadata({_KEY: json.dumps(told)})
    pq.write_table(table, sink, **_writing(columns))
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _others(positions: NDArray[np.int32], count: int) -> list[int]:
    """Positions of the prompts that have no rows."""
    return sorted(set(range(count)).difference(positions.tolist()))


class _Layouts:
    """Which fields rows have, in their order; each kind of row is listed once."""

    def __init__(self, op: str, columns: Mapping[str, Column]) -> None:
        self._op, self._columns = op, columns
        self._codes: dict[tuple[str, ...], int] = {}

    @property
    def found(self) -> list[tuple[str, ...]]:
        return list(self._codes)

    def code(self, row: Mapping[str, Any]) -> int:
        names = tuple(row)
        code = self._codes.get(names)
        if code is None:
            if unknown := [name for name in names if name not in self._columns]:
                raise TypeError(f"{self._op}: its columns don't name {', '.join(unknown)}")
            code = self._codes[names] = len(self._codes)
        return code


def _shown(views: Sequence[str]) -> list[str]:
    """Ids as a table holds them: half a surrogate pair, which it can't, is escaped."""
    texts = [view.encode("utf-8", "backslashreplace").decode("utf-8") for view in views]
    return [text if texts.index(text) == at else f"{text} ({at})" for at, text in enumerate(texts)]


def _coded(codes: Any, texts: Sequence[str]) -> Any:
    """Texts of which each stands there once, and which of them a row has."""
    import pyarrow as pa

    return pa.DictionaryArray.from_arrays(pa.array(codes, pa.int32()), pa.array(texts, pa.string()))


def _column(named: str, kind: Column, values: Sequence[Any]) -> Any:
    """A column of the operation's; None is null.

    Raises:
        TypeError: a value isn't of the column's kind.
    """
    import pyarrow as pa

    inner = kind.removesuffix("[]")
    if inner == kind:
        found = set(map(type, values)) - {type(None)}
        if not found <= set(_PLAIN_TYPES[kind]):
            raise _other_type(named, kind, {each.__name__ for each in found})
        return pa.array(values, _arrow(kind), from_pandas=False)
    if inner not in _DTYPES:
        return pa.array(values, _arrow(kind))
    return _lists(named, kind, values)


def _lists(named: str, kind: Column, values: Sequence[Any]) -> Any:
    import pyarrow as pa

    dtype = np.dtype(_DTYPES[kind.removesuffix("[]")])
    empty = np.empty(0, dtype)
    # An empty list of Python's has no type that means anything.
    arrays = [np.asarray(value) if value is not None and len(value) else empty for value in values]
    if unfit := {f"{each.ndim} x {each.dtype}" for each in arrays if not _fits(each, dtype)}:
        raise _other_type(named, kind, unfit)
    offsets = np.zeros(len(arrays) + 1, np.int32)
    np.cumsum([len(each) for each in arrays], out=offsets[1:])
    joined = np.concatenate([empty, *arrays]).astype(dtype, copy=False)
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(offsets, joined, type=_arrow(kind), mask=missing)


def _fits(found: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    """Whether the numbers are written with the same digits once they are of ``dtype``."""
    are_whole = found.dtype.kind in "iu" and dtype.kind == "i" and np.can_cast(found.dtype, dtype)
    return found.ndim == 1 and (found.dtype == dtype or are_whole)


def _other_type(named: str, kind: Column, found: set[str]) -> TypeError:
    return TypeError(f"{named} is a column of {kind}, got {', '.join(sorted(found))}")


def _arrow(kind: Column) -> Any:
    """The column's type in a table."""
    import pyarrow as pa

    plain = {
        "text": pa.string(),
        "bool": pa.bool_(),
        "int64": pa.int64(),
        "float32": pa.float32(),
        "float64": pa.float64(),
        "uint8": pa.uint8(),
    }
    inner = kind.removesuffix("[]")
    if inner == kind:
        return plain[kind]
    return pa.list_(pa.field("element", plain[inner], nullable=inner not in _DTYPES))


def _writing(columns: Mapping[str, Column]) -> dict[str, Any]:
    """How a table is written: so that any reader takes it, and as small and quickly as that goes.

    Bytes of whole numbers split into streams are for recent readers alone.
    """
    encodings = {
        "float32[]": "BYTE_STREAM_SPLIT",
        "float64[]": "BYTE_STREAM_SPLIT",
        "int64[]": "DELTA_BINARY_PACKED",
    }
    leaves = {f"{name}.list.element" if kind[-2:] == "[]" else name: kind
              for name, kind in columns.items()}  # fmt: skip
    # What is packed has no order left. A number a row is little beside the lists, and a compressor
    # of its own takes long to set up.
    plain = {"bool", "int64", "float64", "int64[]"}
    packed = [_INPUT, *(leaf for leaf, kind in leaves.items() if kind not in plain)]
    others = [*_COMMON, *(leaf for leaf, kind in leaves.items() if kind in plain)]
    return {
        "compression": dict.fromkeys(packed, "zstd") | dict.fromkeys(others, "none"),
        "compression_level": dict.fromkeys(packed, _LEVEL),
        "use_dictionary": ["view", _INPUT],
        "column_encoding": {
            leaf: encodings[kind] for leaf, kind in leaves.items() if kind in encodings
        },
        "write_page_checksum": True,
        "write_statistics": False,
    }


class PartRows:
    """The rows of a part, by column.

    Args:
        content: The file's bytes.

    Attributes:
        facts: Which chunk of which job it holds.
        layouts: The fields that a row can have, in their order.
        unscored: What each prompt without rows carries, as JSON, by its position in the chunk.
        positions: int32[n]: each row's prompt, by its position in the chunk.
        views: int64[n]: each row's view, by its place in the facts.
        layout: int64[n]: each row's fields, by their place in ``layouts``.
        hits: bool[n].
        inputs: What some prompts carry, as JSON.
        input: int64[n]: which of these belongs to each row.

    Raises:
        InvalidInputError: it is no part of this version, or damaged.
    """

    def __init__(self, content: bytes) -> None:
        import pyarrow as pa

        try:
            self._table = _read(content)
            self._take()
        except (pa.ArrowException, OSError, ValueError, LookupError, TypeError) as error:
            raise InvalidInputError(f"no part of this version: {first_line(error)}") from error

    def __len__(self) -> int:
        return len(self.positions)

    def column(self, name: str) -> Any:
        """A column of the operation's, as an Arrow array [n]."""
        return _joined(self._table[name])

    def _take(self) -> None:
        told = json.loads(self._table.schema.metadata[_KEY])
        if told["format"] != FORMAT:
            raise ValueError(f"its format is {shown(str(told['format']))}, not {FORMAT!r}")
        self.facts = PartFacts(
            told["name"], told["job"], told["op"], tuple(told["views"]), told["top_k"]
        )
        columns = operation(self.facts.op).row_columns()
        self._check_columns(columns)
        self.layouts = [tuple(layout) for layout in told["layouts"]]
        if not set(columns).issuperset(name for layout in self.layouts for name in layout):
            raise ValueError("its layouts name other fields than its columns")
        self.unscored = {int(at): str(text) for at, text in told["unscored"].items()}
        self.positions = self._numbers("prompt", None)
        self.layout = self._numbers("layout", len(self.layouts))
        self.hits = self._numbers("hit", None)
        views, codes = self._coded("view")
        places = {view: at for at, view in enumerate(_shown(self.facts.views))}
        self.views = np.array([places[view] for view in views], np.int64)[codes]
        self.inputs, self.input = self._coded(_INPUT)

    def _check_columns(self, columns: Mapping[str, Column]) -> None:
        names = [*_COMMON, *columns, _INPUT]
        if self._table.column_names != names:
            raise ValueError(f"its columns are not {', '.join(names)}")
        for name, kind in columns.items():
            if (found := self._table.schema.field(name).type) != _arrow(kind):
                raise ValueError(f"its column {name} is of {found}")

    def _numbers(self, name: str, below: int | None) -> NDArray[Any]:
        """A column without nulls; its numbers are places in a list where ``below`` is given."""
        found: NDArray[Any] = _joined(self._table[name]).to_numpy(zero_copy_only=False)
        if below is not None and len(found) and not 0 <= found.min() <= found.max() < below:
            raise ValueError(f"its column {name} has numbers from {found.min()} to {found.max()}")
        return found

    def _coded(self, name: str) -> tuple[list[str], NDArray[Any]]:
        """The texts of a column, and which of them each row has."""
        found = _joined(self._table[name])
        codes: NDArray[Any] = found.indices.to_numpy(zero_copy_only=False)
        return found.dictionary.to_pylist(), codes


def _read(content: bytes) -> Any:
    import pyarrow as pa
    import pyarrow.parquet as pq

    # In this thread: parts are read in several.
    with pq.ParquetFile(pa.BufferReader(content)) as file:
        return file.read(use_threads=False)


def _joined(column: Any) -> Any:
    """The one array that a column's pieces come to."""
    return (
        column.chunk(0) if column.num_chunks == 1 else column.unify_dictionaries().combine_chunks()
    )
