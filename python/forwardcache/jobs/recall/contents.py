"""What is in the folders of a model, its adapters and its tokenizer.

Every file counts by its name, and by its whole content where a loader may read it. A large file
that none does (an optimizer's state) counts by what the file system says of it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from forwardcache.jobs.fingerprint import Facts, content_digest, facts_of, may_decide

_READ_WHOLE_BYTES = 64 * 2**20
_MOST_FILES = 4096
_DEPTH = 2


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of some folders at one moment.

    Attributes:
        digest: Hex, SHA-256 over names and contents.
        facts: What the file system said of each file.
    """

    digest: str
    facts: tuple[tuple[str, Facts], ...]


def contents_of(folders: Sequence[Path], *, anew: bool = False) -> Contents | None:
    """Reads all of some folders.

    Args:
        folders: In an order that matters.
        anew: Whether files are read again that were read before and look the same.

    Returns:
        None where files are written meanwhile, can't be read, are too many, or lead elsewhere.
    """
    read = content_digest.__wrapped__ if anew else content_digest
    digest, seen = hashlib.sha256(), []
    try:
        for number, folder in enumerate(folders):
            files = dict(_files_of(folder))
            _check_indices(files)
            for name, path in files.items():
                facts = facts_of(path)
                digest.update(f"{number}\0{name}\0".encode("utf-8", "surrogateescape"))
                digest.update(_said_of(path, facts, read))
                # Written while it was read, it is neither what it was nor what it will be.
                if facts_of(path) != facts:
                    return None
                seen.append((str(path), facts))
    except (OSError, _NotWhole):
        return None
    return Contents(digest.hexdigest(), tuple(seen))


class _NotWhole(Exception):
    """There are more files than are worth reading, or some of them are elsewhere."""


def _check_indices(files: dict[str, Path]) -> None:
    """Refuses an index of weights that names a file which isn't among those that are read."""
    for name, path in files.items():
        if name.endswith(".index.json"):
            home = Path(name).parent
            try:
                parts = json.loads(path.read_bytes())["weight_map"].values()
                is_whole = all((home / part).as_posix() in files for part in set(parts))
            except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
                is_whole = False
            if not is_whole:
                raise _NotWhole


def _said_of(path: Path, facts: Facts, read: Callable[[Path, Facts], bytes]) -> bytes:
    if facts[0] <= _READ_WHOLE_BYTES or may_decide(path):
        return b"content" + read(path.absolute(), facts)
    return f"facts{facts}".encode()


def _files_of(folder: Path) -> Iterator[tuple[str, Path]]:
    """The files of a folder and the folders in it, by their names there; hidden ones are none's."""
    found: list[tuple[str, Path]] = []
    for where, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        depth = len(Path(where).relative_to(folder).parts)
        folders[:] = [] if depth == _DEPTH else [name for name in folders if name[0] != "."]
        paths = [Path(where, name) for name in files if name[0] != "."]
        found += [(path.relative_to(folder).as_posix(), path) for path in paths]
        if len(found) > _MOST_FILES:
            raise _NotWhole
    # A pipe would be waited for.
    yield from sorted(each for each in found if each[1].is_file())


def _raise(error: OSError) -> None:
    raise error


__all__ = ["Contents", "contents_of"]
