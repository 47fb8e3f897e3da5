"""The parts of a job that is done as one file: the one that one process would have written.

Parts are read some ahead, each checked and made text in a thread; the file is written in order and
gets its name when it is whole. What makes memory grow is how many parts are ahead, not how many
there are.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, TypeVar

import numpy as np

from forwardcache.distributed.parts.folder import LocalFolder, PartsFolder
from forwardcache.distributed.parts.lines import json_lines, prompts_of
from forwardcache.distributed.parts.manifest import Manifest, ManifestChunk
from forwardcache.distributed.parts.naming import content_digest, parse_part_file
from forwardcache.distributed.parts.table import PartRows
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.columns import InputColumns
from forwardcache.jobs.meta_file import check_meta, meta_beside
from forwardcache.jobs.metadata import PARQUET_KEY
from forwardcache.jobs.parquet import write_parquet
from forwardcache.jobs.results import JSONL, PARQUET
from forwardcache.jobs.whole_file import Part, check_out, whole_file

_MOST_THREADS = 4
_KEPT_BYTES = 16 * 2**20
_OF_PARTS = frozenset({"format", "job", "top_k"})
"""What a manifest holds and the facts of one file don't."""

Loaded = TypeVar("Loaded")


@dataclass(frozen=True, slots=True)
class Merged:
    """What went into the file.

    Attributes:
        parts: Chunks.
        rows: Their rows.
    """

    parts: int
    rows: int


def check_merge(folder: PartsFolder, out: Path, *, force: bool) -> None:
    """Refuse a file that can't be written, before anything is read.

    Args:
        folder: Where the parts are.
        out: The file.
        force: Whether it is replaced where it is there.

    Raises:
        InvalidInputError: saying what stands in the way.
    """
    if out.suffix.lower() not in {JSONL, PARQUET}:
        raise InvalidInputError(f"--out {out} must end in {JSONL} or {PARQUET}")
    if isinstance(folder, LocalFolder) and folder.root.is_file():
        raise InvalidInputError(f"{folder.root} is a file, and no folder of parts")
    check_out(out, [], force=force)
    check_meta(out, f"--out {out}", force=force)
    if isinstance(folder, LocalFolder) and out.resolve().is_relative_to(folder.root.resolve()):
        raise InvalidInputError(f"--out {out} is in the folder of the parts")


def merge(folder: PartsFolder, out: Path, *, force: bool = False) -> Merged:
    """Write the rows of a job's parts to one file, with its facts beside it.

    Args:
        folder: Where the parts are.
        out: The file, JSON lines or Parquet by its name.
        force: Whether it is replaced where it is there.

    Raises:
        InvalidInputError: the job isn't done, a part is missing, damaged or of another job, or the
            file can't be written.
        MachineError: the disk is full or fails.
    """
    check_merge(folder, out, force=force)
    parts = _Parts(folder)
    meta = {name: fact for name, fact in parts.manifest.facts.items() if name not in _OF_PARTS}
    with ExitStack() as published, whole_file(out, force=force) as part:
        if out.suffix.lower() == PARQUET:
            merged = _write_table(parts, part, meta)
        else:
            merged = _write_lines(parts, part.write, None)
        with part.explained():
            published.enter_context(meta_beside(out, meta, force=force))
    return merged


def _write_lines(
    parts: _Parts, write: Callable[[bytes], Any], columns: InputColumns | None
) -> Merged:
    def text_of(rows: PartRows, lines: list[int]) -> tuple[int, bytes]:
        return len(rows), json_lines(rows, lines, columns)

    chunks = total = 0
    for rows, text in parts.each(text_of):
        write(text)
        chunks, total = chunks + 1, total + rows
    return Merged(chunks, total)


def _write_table(parts: _Parts, part: Part, meta: dict[str, Any]) -> Merged:
    """As one process does: the rows as JSON lines next to the file, and of these the table."""
    columns = InputColumns.of(
        prompt
        for prompts in parts.each(lambda *part: list(prompts_of(*part)))
        for prompt in prompts
    )
    with (
        part.explained(),
        NamedTemporaryFile(prefix=f".{part.path.name}.", dir=part.path.parent) as lines,
    ):
        merged = _write_lines(parts, lines.write, columns)
        lines.flush()
        write_parquet(Path(lines.name), part.path, columns, {PARQUET_KEY: json.dumps(meta)})
    return merged


class _Parts:
    """The parts of a job that is done, in order, each checked.

    Args:
        folder: Where they are.
    """

    def __init__(self, folder: PartsFolder) -> None:
        self._folder = folder
        self.manifest = Manifest(folder)
        self._job = self.manifest.facts.get("job")
        self._threads = min(_MOST_THREADS, os.cpu_count() or 1)

    def each(self, work: Callable[[PartRows, list[int]], Loaded]) -> Iterator[Loaded]:
        """What ``work`` makes of each part and the lines of its chunk's prompts, in order.

        Raises:
            InvalidInputError: a part is missing, damaged or of another job.
        """

        def done(chunk: ManifestChunk) -> Loaded:
            lines = chunk.lines()
            return work(self._checked(chunk, lines), lines)

        _keep_memory()
        ahead: deque[Future[Loaded]] = deque()
        pool = ThreadPoolExecutor(self._threads, thread_name_prefix="merge")
        try:
            for chunk in self.manifest.chunks():
                ahead.append(pool.submit(done, chunk))
                if len(ahead) > self._threads + 2:
                    yield ahead.popleft().result()
            while ahead:
                yield ahead.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _checked(self, chunk: ManifestChunk, lines: list[int]) -> PartRows:
        """The rows of a chunk's part.

        Raises:
            InvalidInputError: naming the part, and what is wrong with it.
        """
        try:
            content = self._folder.read(chunk.file)
        except FileNotFoundError:
            raise self._refused(chunk, "is missing", "") from None
        name = parse_part_file(chunk.file)
        if name is None:
            raise self._refused(chunk, "has no name of a part", "")
        if not content_digest(content).startswith(name.check):
            raise self._refused(chunk, "is cut or damaged: its bytes are not those of its name")
        try:
            rows = PartRows(content)
        except InvalidInputError as error:
            raise self._refused(chunk, f"can't be read: {error}") from error
        if rows.facts.job != self._job:
            raise self._refused(chunk, "is of another job, or of other weights")
        if rows.facts.name != name.name:
            raise self._refused(chunk, f"holds the rows of another chunk, {rows.facts.name}")
        if len(rows) != chunk.rows or not _is_in_order(rows, len(lines)):
            raise self._refused(chunk, "hasn't the rows that the manifest says")
        return rows

    def _refused(
        self, chunk: ManifestChunk, why: str, first: str = "remove it, and "
    ) -> InvalidInputError:
        return InvalidInputError(
            f"{self._folder.shown(chunk.file)} {why}: {first}score with --parts --resume computes "
            "it again"
        )


def _is_in_order(rows: PartRows, prompts: int) -> bool:
    """Whether these are all rows of a chunk of so many prompts, each with all views in order."""
    views = len(rows.facts.views)
    scored = np.setdiff1d(np.arange(prompts), list(rows.unscored))
    return (
        np.array_equal(rows.positions, np.repeat(scored, views))
        and np.array_equal(rows.views, np.tile(np.arange(views), len(scored)))
    )  # fmt: skip


def _keep_memory() -> None:
    """Let the C library keep what is freed for the next part.

    Getting fresh pages takes as long as writing text on them. Glibc gives back what is larger than
    the largest block that was freed so far, or what of it came to twice as much; this one's pages
    are never touched.
    """
    bytearray(_KEPT_BYTES)
