"""Is it still the same model folder? For joining the rows of two runs, cheaply.

Small files are read whole, large ones at places spread over them: two trainings of one model differ
nearly everywhere, and a checkpoint of many gigabytes should not be read twice. Dates don't count,
so a copied folder is the same.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

_PIECE = 64 * 1024
_PIECES = 64


def folder_fingerprint(folder: Path) -> str:
    """Hex digest of the names, sizes and (sampled) contents of the files in ``folder``."""
    digest = hashlib.sha256()
    for path in sorted(path for path in folder.iterdir() if path.is_file()):
        digest.update(f"{path.name}\0{path.stat().st_size}\0".encode())
        _add_content(digest, path)
    return digest.hexdigest()


def _add_content(digest: hashlib._Hash, path: Path) -> None:
    size = path.stat().st_size
    step = max(_PIECE, size // _PIECES)
    with path.open("rb") as file:
        for offset in range(0, size, step):
            file.seek(offset)
            digest.update(file.read(_PIECE))
