"""Is it still the same model folder? For joining the rows of two runs.

Whole contents are hashed of whatever may decide a row: weights, configuration, tokenizer, template.
What lies next to them (pages, licences, a trainer's notes, other frameworks' weights, hidden files)
doesn't count, and neither do dates and where the folder is.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import starmap
from pathlib import Path
from typing import TypeAlias

# Of a size that threads share evenly, and that is read ahead while another is hashed.
_PIECE_BYTES = 32 * 2**20
_READ_BYTES = 2**18
_MAX_THREADS = 8
_SUFFIXES = {".safetensors", ".json", ".jinja", ".model", ".spm", ".tiktoken", ".bpe", ".codes"}
_TEXTS = {"merges.txt", "vocab.txt"}
_TEMPLATES = "additional_chat_templates"
# Of generation and of training; no scoring reads them.
_NOTES = {
    "generation_config.json",
    "trainer_state.json",
    "all_results.json",
    "train_results.json",
    "eval_results.json",
}

Facts: TypeAlias = tuple[int, int, int, int, int]
"""What the file system says of a file: size, times of content and inode, inode, device."""


def folder_fingerprint(folder: Path) -> str:
    """Hex digest of the names and the whole contents of what decides rows in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(_deciding(folder)):
        facts = facts_of(path)
        name = path.relative_to(folder).as_posix()
        digest.update(f"{name}\0{facts[0]}\0".encode() + content_digest(path.absolute(), facts))
    return digest.hexdigest()


def facts_of(path: Path) -> Facts:
    """What the file system says of a file, or of what a link leads to."""
    stat = path.stat()
    return stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev


def _deciding(folder: Path) -> Iterator[Path]:
    for path in (*folder.iterdir(), *folder.glob(f"{_TEMPLATES}/*.jinja")):
        if may_decide(path) and path.is_file():
            yield path


def may_decide(path: Path) -> bool:
    """Whether a file of that name may decide a row."""
    is_named = path.name in _TEXTS or path.suffix in _SUFFIXES
    return is_named and path.name not in _NOTES and path.name[0] != "."


@lru_cache(maxsize=8192)
def content_digest(path: Path, facts: Facts) -> bytes:
    """Digest over those of the pieces; remembered as long as the file looks the same.

    Args:
        path: Absolute.
        facts: As of ``facts_of``.
    """
    pieces = [(path, offset) for offset in range(0, facts[0], _PIECE_BYTES)]
    threads = min(len(pieces), _MAX_THREADS, os.cpu_count() or 1)
    if threads <= 1:
        digests = starmap(_piece, pieces)
        return hashlib.sha256(b"".join(digests)).digest()
    with ThreadPoolExecutor(threads) as pool:
        return hashlib.sha256(b"".join(pool.map(_piece, *zip(*pieces, strict=True)))).digest()


def _piece(path: Path, offset: int) -> bytes:
    digest, left = hashlib.sha256(), _PIECE_BYTES
    # A buffer that stays in the processor's own memory: new ones cost as much as the hash.
    buffer = memoryview(bytearray(_READ_BYTES))
    # Neither reading nor hashing holds the interpreter.
    with path.open("rb", buffering=0) as file:
        file.seek(offset)
        while left and (count := file.readinto(buffer[:left])):
            digest.update(buffer[:count])
            left -= count
    return digest.digest()
