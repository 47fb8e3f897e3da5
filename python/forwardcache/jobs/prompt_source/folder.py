"""A folder of prompts: which of its files are read, and in which order.

Files of lines or Parquet files, in the order of their names; or what ``save_to_disk`` of
``datasets`` leaves, one split. Nothing that isn't known is passed over.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.prompt_line import InputWords
from forwardcache.jobs.prompt_source.line_file import JSON_SUFFIXES, TEXT_SUFFIXES, unreadable
from forwardcache.jobs.prompt_source.table_file import PARQUET_SUFFIX
from forwardcache.jobs.reasons import first_line

# Hidden files, and what writers of many files leave beside them.
_PASSED_OVER = re.compile(
    r"\..*|_SUCCESS(\..*)?|_metadata|_common_metadata|_(committed|started)_.*"
)
_STATE, _SPLITS = "state.json", "dataset_dict.json"


def files_in(folder: str, words: InputWords) -> list[Path]:
    """The files of a folder that hold its prompts, in order.

    Args:
        folder: Its path.
        words: What they are called.

    Raises:
        InvalidInputError: it holds none, or something else too, which is named; or several splits
            of a data set.
    """
    root = Path(folder)
    if (root / _SPLITS).is_file():
        raise InvalidInputError(_several_splits(root, words))
    if (root / _STATE).is_file():
        return _shards(root, words)
    try:
        found = sorted(path for path in root.iterdir() if not _PASSED_OVER.fullmatch(path.name))
    except OSError as error:
        raise unreadable(folder, error, words) from error
    for path in found:
        _refuse_foreign(path, words)
    _refuse_mixture(found, words)
    if not found:
        raise InvalidInputError(
            f"can't read the {words.one}s {folder!r}: it is a folder without files of them"
        )
    return found


def _refuse_foreign(path: Path, words: InputWords) -> None:
    if path.is_dir():
        raise InvalidInputError(f"{words.option}: {path} is a folder in a folder of {words.one}s")
    known = sorted(JSON_SUFFIXES | TEXT_SUFFIXES | {PARQUET_SUFFIX})
    if path.suffix.lower() not in known or not path.is_file():
        raise InvalidInputError(
            f"{words.option}: {path} is no file of {words.one}s; in a folder of them names end in "
            f"{', '.join(known[:-1])} or {known[-1]}"
        )


def _refuse_mixture(found: list[Path], words: InputWords) -> None:
    """Plain text beside objects: which of them a line is, is one answer for the whole input."""
    texts = [path for path in found if path.suffix.lower() in TEXT_SUFFIXES]
    others = [path for path in found if path not in texts]
    if texts and others:
        raise InvalidInputError(
            f"{words.option}: {texts[0]} holds plain text and {others[0]} doesn't: one folder is "
            "of one kind"
        )


def _several_splits(root: Path, words: InputWords) -> str:
    splits = _object(root / _SPLITS, words).get("splits")
    named = [f"{root / str(each)}" for each in splits] if isinstance(splits, list) else []
    hint = f": give one of {', '.join(named)}" if named else ""
    return f"{words.option} {root} is a data set of several splits{hint}"


def _shards(root: Path, words: InputWords) -> list[Path]:
    """The files of a data set, in the order of its rows."""
    shards = _object(root / _STATE, words).get("_data_files")
    names = (
        [each.get("filename") for each in shards if isinstance(each, dict)]
        if isinstance(shards, list)
        else []
    )
    # A path that leads elsewhere is none of the folder's.
    if not names or any(Path(str(name)).name != name for name in names):
        raise InvalidInputError(f"{words.option}: {root / _STATE} names no files of a data set")
    return [root / str(name) for name in names]


def _object(path: Path, words: InputWords) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except OSError as error:
        raise unreadable(str(path), error, words) from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"{path} is not JSON: {first_line(error)}") from error
    return found if isinstance(found, dict) else {}
