"""``forwardcache store``: what is in a store; check it, shrink it, move it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from forwardcache.cli.checks import check_store_files
from forwardcache.cli.exits import ExitCode
from forwardcache.cli.extras import PARQUET, STORE, check_installed
from forwardcache.cli.trace import counted
from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs.kinds import FileKind, check_kind
from forwardcache.jobs.reasons import first_line
from forwardcache.jobs.session import open_checked
from forwardcache.jobs.whole_file import check_out, whole_file
from forwardcache.store import files_of

if TYPE_CHECKING:
    from forwardcache.store import Record, Store, StoreInfo

_DAY_S = 86_400.0
_ROWS_AT_ONCE = 4096
_COLUMNS = ("key", "blob", "model", "view", "op")
_BINARY = ("key", "blob")


def info(where: str, *, as_json: bool) -> int:
    """Run ``store info``; the exit code."""
    store = _there(where)
    found = store.info()
    store.close()
    kinds = [
        {"model": model, "view": view, "op": op, "entries": entries, "bytes": nbytes}
        for (model, view, op), (entries, nbytes) in sorted(found.by_kind.items())
    ]
    if as_json:
        told = {"entries": found.entries, "bytes": found.nbytes, "kinds": kinds}
        print(json.dumps({**told, "errors": found.errors, "damaged": found.damaged}))
    else:
        print(f"{found.entries:,} values, {found.nbytes:,} bytes")
        for kind in kinds:
            names = f"{kind['model']}  {kind['view']}  {kind['op']}"
            print(f"{names}  {kind['entries']:,} values  {kind['bytes']:,} bytes")
    _check_answers(store, found)
    return ExitCode.DONE


def _check_answers(store: Store, found: StoreInfo) -> None:
    """Refuse to let a store that can't be asked pass for an empty one.

    Raises:
        MachineError: it did not answer every call.
    """
    if found.errors:
        raise MachineError(
            f"the store left {counted(found.errors, 'call')} without an answer{_word_of(store)}: "
            "there may be more in it"
        )


def _word_of(store: Store) -> str:
    """What the store's server said last, in brackets."""
    error = getattr(store, "last_error", None)
    return f" ({error})" if error else ""


def verify(where: str) -> int:
    """Run ``store verify``; the exit code."""
    store = _there(where)
    check = store.verify()
    found = store.info()
    store.close()
    failed = f", {found.errors:,} reads failed{_word_of(store)}" if found.errors else ""
    left = getattr(store, "is_only_read", False)
    fate = "are damaged and stay" if left else "were damaged and are dropped"
    print(f"{check.ok:,} values are whole, {check.damaged:,} {fate}{failed}")
    return ExitCode.NO if found.damaged or check.damaged or found.errors else ExitCode.DONE


def prune(
    where: str,
    *,
    older_than_days: float | None,
    model: str | None,
    view: str | None,
    max_bytes: int | None,
) -> int:
    """Run ``store prune``; the exit code."""
    if older_than_days is None and model is None and view is None and max_bytes is None:
        raise InvalidInputError("nothing to prune by: --older-than, --model, --view or --max-bytes")
    store = _writable(_there(where), where)
    older_than_s = None if older_than_days is None else older_than_days * _DAY_S
    removed = store.prune(older_than_s=older_than_s, model=model, view=view, max_bytes=max_bytes)
    found = store.info()
    store.close()
    print(f"{removed:,} values removed")
    _check_answers(store, found)
    return ExitCode.DONE


def export(where: str, out: Path, *, force: bool) -> int:
    """Run ``store export``; the exit code. Some thousand values are in memory at once."""
    check_installed(*PARQUET)
    if out.suffix.lower() != ".parquet":
        raise InvalidInputError(f"{out} must end in .parquet")
    check_out(out, [str(path) for path in files_of(where) if path.exists()], force=force)
    store = _there(where)
    records = getattr(store, "records", None)
    if records is None:
        raise InvalidInputError(f"{where}: only a store in a file can be exported")
    with closing(store), whole_file(out, force=force) as part, part.explained():
        rows = _write_table(part.path, records())
        found = store.info()
    print(f"{rows:,} values written to {out}{_left_out(found)}")
    return ExitCode.NO if found.damaged or found.errors else ExitCode.DONE


def _left_out(found: StoreInfo) -> str:
    """What to add of values that were not there to be written."""
    damaged = f"; {counted(found.damaged, 'value')} damaged or unreadable" if found.damaged else ""
    return damaged + (f"; {counted(found.errors, 'read')} failed" if found.errors else "")


def _write_table(path: Path, records: Iterator[Record]) -> int:
    """Writes ``records`` as a table, as they come; how many there were."""
    import polars
    from polars.io.plugins import register_io_source

    schema = polars.Schema(
        {name: polars.Binary if name in _BINARY else polars.String for name in _COLUMNS}
    )
    rows = 0

    def frames(*_: object) -> Iterator[polars.DataFrame]:
        nonlocal rows
        while some := list(islice(records, _ROWS_AT_ONCE)):
            rows += len(some)
            yield polars.DataFrame([asdict(record) for record in some], schema=schema)

    register_io_source(frames, schema=schema).sink_parquet(path, row_group_size=_ROWS_AT_ONCE)
    return rows


def import_(where: str, table: Path) -> int:
    """Run ``store import``; the exit code. A value that isn't whole is left out."""
    check_installed(*STORE, *PARQUET)
    import polars

    from forwardcache.store import Record
    from forwardcache.store.seal import unseal

    check_kind(table, FileKind.TABLE)
    check_store_files(where)
    try:
        # Opened first: what keeps a file from being read is said as for any other.
        table.open("rb").close()
        frame = polars.read_parquet(table, columns=list(_COLUMNS))
    except polars.exceptions.PolarsError as error:
        raise InvalidInputError(f"{table}: no exported table: {first_line(error)}") from None
    for name, column in zip(_COLUMNS, frame, strict=True):
        wanted = polars.Binary if name in _BINARY else polars.String
        if column.dtype != wanted or column.null_count():
            told = f"column {name} has to be {wanted} without nulls"
            raise InvalidInputError(f"{table}: no exported table: {told}")
    store = _writable(open_checked(where), where)
    kept = 0
    for rows in frame.iter_slices(_ROWS_AT_ONCE):
        records = [Record(**row) for row in rows.iter_rows(named=True)]
        kept += store.put_many(
            [each for each in records if unseal(each.key, each.blob) is not None]
        )
    store.close()
    print(f"{kept:,} of {len(frame):,} values taken in")
    return ExitCode.DONE if kept == len(frame) else ExitCode.NO


def _writable(store: Store, where: str) -> Store:
    """``store``, unless its file may only be read."""
    if getattr(store, "is_only_read", False):
        raise InvalidInputError(f"the store {where} can't be written")
    return store


def _there(where: str) -> Store:
    """A store that is there: looking at one doesn't make it."""
    check_installed(*STORE)
    begins_with_address = "://" in where.partition(",")[0]
    if not begins_with_address and not (near := files_of(where)[0]).is_file():
        raise InvalidInputError(f"there is no store {near}")
    check_store_files(where)
    return open_checked(where)
