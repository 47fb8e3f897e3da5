"""Is an adapter's folder still the one it was? Whole contents are hashed of what is loaded."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path

from forwardcache.errors import AdapterError
from forwardcache.hf.model.adapter_folder import ADAPTER_CONFIG, WEIGHTS


def fingerprint(folder: str) -> bytes:
    """32 bytes for what PEFT loads of a folder; read again only where the files look changed.

    Raises:
        AdapterError: a file isn't there or can't be read.
    """
    digest = hashlib.sha256()
    for name in (ADAPTER_CONFIG, WEIGHTS):
        path = Path(folder, name)
        try:
            stat = path.stat()
            facts = stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns, stat.st_ino, stat.st_dev
            digest.update(_content(path, facts))
        except OSError as error:
            raise AdapterError(f"{path} can't be read: {error.strerror or error}") from None
    return digest.digest()


@lru_cache(maxsize=1024)
def _content(path: Path, _facts: tuple[int, ...]) -> bytes:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").digest()


__all__ = ["fingerprint"]
