"""``_SUCCESS.json``: which part has which lines, and which run it was; a stream both ways.

It is one JSON object. Its last field, ``chunks``, has one line a chunk, in the input's order:
``[[[first line, count], ...], part, rows]``; the runs of lines are those of the chunk's prompts.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from forwardcache.distributed.parts.folder import SUCCESS, PartsFolder
from forwardcache.distributed.parts.naming import FORMAT
from forwardcache.errors import InvalidInputError

_CHUNKS = ' "chunks": [\n'
_PIECE_BYTES = 2**20


class ManifestChunk(NamedTuple):
    """One chunk of a job.

    Attributes:
        runs: First line and number of lines of each run of prompts that follow each other.
        file: The part with its rows.
        rows: How many rows that has.
    """

    runs: Sequence[tuple[int, int]]
    file: str
    rows: int

    def lines(self) -> list[int]:
        """The line of each prompt."""
        return [line for first, count in self.runs for line in range(first, first + count)]


class Manifest:
    """The manifest of a job that is done.

    Args:
        folder: Where it is.

    Attributes:
        facts: What stands in it before the chunks.

    Raises:
        InvalidInputError: there is none, or it is cut or of another format.
    """

    def __init__(self, folder: PartsFolder) -> None:
        self._folder = folder
        self._name = folder.shown(SUCCESS)
        head: list[str] = []
        for line in self._lines():
            if line == _CHUNKS:
                break
            head.append(line)
        self.facts = self._parsed_head("".join(head))

    def chunks(self) -> Iterator[ManifestChunk]:
        """Its chunks, in the input's order.

        Raises:
            InvalidInputError: it is cut or damaged.
        """
        lines = self._lines()
        for line in lines:
            if line == _CHUNKS:
                break
        for line in lines:
            if line == " ]\n":
                if next(lines, "") == "}\n":
                    return
                break
            try:
                runs, file, rows = json.loads(line.rstrip(",\n"))
                yield ManifestChunk([(first, count) for first, count in runs], file, rows)
            except (ValueError, TypeError):
                break
        raise self._damaged()

    def _lines(self) -> Iterator[str]:
        try:
            with self._folder.open(SUCCESS) as file:
                for line in file:
                    yield line.decode("ascii", "replace")
        except FileNotFoundError:
            raise InvalidInputError(
                f"there is no {self._name}: the job isn't done (score with --parts --resume "
                "goes on with it), or it is no folder of parts"
            ) from None

    def _parsed_head(self, head: str) -> dict[str, Any]:
        try:
            facts = json.loads(head.rstrip().rstrip(",") + "}")
        except ValueError:
            raise self._damaged() from None
        if not isinstance(facts, dict) or facts.get("format") != FORMAT:
            raise InvalidInputError(f"{self._name} is no manifest of parts of this version")
        return facts

    def _damaged(self) -> InvalidInputError:
        return InvalidInputError(
            f"{self._name} is cut or damaged: score with --parts --resume writes it again"
        )


def write_manifest(
    folder: PartsFolder, facts: dict[str, Any], chunks: Iterable[ManifestChunk]
) -> None:
    """Write the manifest, whole or not at all.

    Args:
        folder: Where.
        facts: What stands before the chunks.
        chunks: In the input's order.
    """
    folder.put(SUCCESS, _joined(_text({"format": FORMAT, **facts}, chunks)))


def _text(facts: dict[str, Any], chunks: Iterable[ManifestChunk]) -> Iterator[str]:
    yield json.dumps(facts, indent=1).removesuffix("\n}") + ",\n" + _CHUNKS
    line = ""
    for each in chunks:
        if line:
            yield line + ",\n"
        line = json.dumps([each.runs, each.file, each.rows])
    yield (line + "\n" if line else "") + " ]\n}\n"


def _joined(texts: Iterator[str]) -> Iterator[bytes]:
    """The same in larger pieces."""
    held: list[str] = []
    size = 0
    for text in texts:
        held.append(text)
        size += len(text)
        if size >= _PIECE_BYTES:
            yield "".join(held).encode("ascii")
            held, size = [], 0
    yield "".join(held).encode("ascii")
