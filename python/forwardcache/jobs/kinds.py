"""What kind of file one is, told by what is in it; a command that reads another kind says so."""

from __future__ import annotations

import json
import sys
from collections.abc import Collection, Iterator
from contextlib import suppress
from enum import Enum
from itertools import islice
from pathlib import Path
from typing import Any, TextIO, cast

from forwardcache.errors import InvalidInputError

STDIN = "-"
"""The path that means standard input."""

_MAGIC_BYTES = 16
_RECORDS = 20
_LONGEST_RECORD = 1 << 22


def shown_path(path: str) -> str:
    """What to call an input."""
    return "standard input" if path == STDIN else path


def open_stdin(what: str) -> TextIO:
    """Standard input.

    Args:
        what: What is read from it, in words.

    Raises:
        InvalidInputError: it is closed.
    """
    # None where the caller closed it (``<&-``).
    if (stream := cast(TextIO | None, sys.stdin)) is None:
        raise InvalidInputError(f"can't read {what}: standard input is closed")
    return stream


class FileKind(Enum):
    """A kind: what it is called, and what takes it."""

    ROWS = ("a file of score's rows", "report --scores")
    DIFFERENCES = ("a file of diff's rows", "verify")
    TRACE = ("a trace", "report and trace")
    PROMPTS = ("a file of prompts", "score --prompts and diff --texts")
    STORE = ("a store, or another database of SQLite", "store and score --store")
    TABLE = (
        "a Parquet table",
        "score --prompts (prompts), report --scores (rows) or store import (an exported store)",
    )
    MODEL = ("the folder of a model", "score --model")
    ADAPTER = ("the folder of an adapter", "score --adapter")
    COMPRESSED = ("compressed", None)
    IMAGE = ("an image", None)
    PAGE = ("a page", None)
    DOCUMENT = ("a PDF document", None)

    @property
    def told(self) -> str:
        """The kind in words, with what takes it."""
        name, taker = self.value
        verb = "take" if " and " in str(taker) else "takes"
        return name if taker is None else f"{name}, which {taker} {verb}"


_BY_MAGIC = {
    b"SQLite format 3\0": FileKind.STORE,
    b"PAR1": FileKind.TABLE,
    b"\x1f\x8b": FileKind.COMPRESSED,
    b"PK\x03\x04": FileKind.COMPRESSED,
    b"BZh": FileKind.COMPRESSED,
    b"\xfd7zXZ\0": FileKind.COMPRESSED,
    b"\x28\xb5\x2f\xfd": FileKind.COMPRESSED,
    b"\x89PNG\r\n": FileKind.IMAGE,
    b"\xff\xd8\xff": FileKind.IMAGE,
    b"%PDF-": FileKind.DOCUMENT,
    b"<!doctype html": FileKind.PAGE,
    b"<!DOCTYPE html": FileKind.PAGE,
}
_BY_FIELDS = {
    FileKind.ROWS: {"view", "op", "hit", "id"},
    FileKind.DIFFERENCES: {"view", "reference", "kl", "id"},
    FileKind.TRACE: {"view_id", "prompt_hash", "wall_ms"},
}


def kind_of(path: Path) -> FileKind | None:
    """The kind of a file or folder; None where nothing in it tells, or it can't be read."""
    with suppress(OSError, ValueError):
        if path.is_dir():
            return _kind_of_folder(path)
        # Reading a pipe would take from it what the command is to read.
        if path.is_file():
            return _kind_of_file(path)
    return None


def check_kind(path: Path, *wanted: FileKind, named: str | None = None) -> None:
    """Refuse a file that is known to be of a kind that isn't wanted.

    Args:
        path: The file; whether it is there is for others to say.
        *wanted: The kinds that the command reads.
        named: What to call it, such as ``--store PATH``; its path unless given.

    Raises:
        InvalidInputError: saying what it is, and what takes that.
    """
    found = kind_of(path)
    if found is not None and found not in wanted:
        raise InvalidInputError(f"{named or path} is {found.told}")


def _kind_of_folder(folder: Path) -> FileKind | None:
    if (folder / "adapter_config.json").is_file():
        return FileKind.ADAPTER
    return FileKind.MODEL if (folder / "config.json").is_file() else None


def _kind_of_file(path: Path) -> FileKind | None:
    with path.open("rb") as file:
        begin = file.read(_MAGIC_BYTES)
        for magic, kind in _BY_MAGIC.items():
            if begin.startswith(magic):
                return kind
        file.seek(0)
        lines = iter(lambda: file.readline(_LONGEST_RECORD), b"")
        kinds = map(_kind_of_record, islice(_records(lines), _RECORDS))
        return next((kind for kind in kinds if kind is not None), None)


def _records(lines: Iterator[bytes]) -> Iterator[dict[str, Any]]:
    """The JSON objects at the beginning; what isn't one ends them."""
    for line in lines:
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError):
            return
        if not isinstance(record, dict):
            return
        yield record


def kind_of_fields(names: Collection[str]) -> FileKind | None:
    """The kind of what is written here whose rows have fields of these names; None for others."""
    return next((kind for kind, fields in _BY_FIELDS.items() if fields <= set(names)), None)


def _kind_of_record(record: dict[str, Any]) -> FileKind | None:
    if (kind := kind_of_fields(record)) is not None:
        return kind
    is_prompt = isinstance(record.get("prompt"), str | list) or "messages" in record
    return FileKind.PROMPTS if is_prompt else None
