"""What a run has found that its rows don't hold, on its way to ``--resume``.

Rows hold the arrays of every text and view. Beside them, in ``OUT.part.measured``, there is a JSON
line each for the floor, the nulls of an adapter at a scale (each text's mean, which is all that is
made of them), the smallest visible scale of an adapter, and what a row writes as null because JSON
has no number for it. A line is there only once it is true, so that a run may end at any moment;
what is torn isn't read. The file belongs to whoever holds the part (``results``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from forwardcache.jobs.outfile import write_failed


class Kept:
    """What was found so far, by what it is and of which view or adapter.

    Args:
        path: Where it is kept; None keeps nothing.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._path = path
        self._known: dict[tuple[str, str], Any] = {}
        self._file: BinaryIO | None = None
        if path is not None:
            self._known, end = _read(path)
            self._file = path.open("ab")
            self._file.truncate(end)

    def find(self, what: str, of: str = "") -> Any:
        """What was noted; None where nothing was.

        Args:
            what: What it is.
            of: Of which view, text or adapter.
        """
        return self._known.get((what, of))

    def note(self, what: str, of: str, value: Any) -> None:
        """Keep ``value``, JSON with NaN and infinities; it is with the operating system then.

        Args:
            what: What it is.
            of: Of which view, text or adapter.
            value: Not None.

        Raises:
            MachineError: the disk is full or fails.
        """
        self._known[what, of] = value
        if self._file is None or self._path is None:
            return
        line = json.dumps({"what": what, "of": of, "value": value})
        try:
            self._file.write(f"{line}\n".encode("ascii"))
            self._file.flush()
        except OSError as error:
            hint = "; --resume goes on with what is kept"
            raise write_failed(self._path, error, hint=hint) from error

    def close(self) -> None:
        """Nothing more is kept."""
        if self._file is not None:
            self._file.close()
            self._file = None


def _read(path: Path) -> tuple[dict[tuple[str, str], Any], int]:
    """What stands in the file, and where its last whole line ends."""
    found, end = {}, 0
    for line, stop in _lines(path):
        try:
            one = json.loads(line)
            found[one["what"], one["of"]] = one["value"]
        except (ValueError, TypeError, KeyError):
            break
        end = stop
    return found, end


def _lines(path: Path) -> Iterator[tuple[bytes, int]]:
    """The whole lines of a file, each with the offset of its end in bytes."""
    try:
        with path.open("rb") as file:
            end = 0
            for line in file:
                if not line.endswith(b"\n"):
                    return
                end += len(line)
                yield line, end
    except FileNotFoundError:
        return
