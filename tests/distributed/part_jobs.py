"""Rows as one process writes them, and the same rows as parts."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from forwardcache.distributed.parts.folder import LocalFolder
from forwardcache.distributed.parts.manifest import ManifestChunk, write_manifest
from forwardcache.distributed.parts.naming import content_digest, part_file
from forwardcache.distributed.parts.table import PartFacts, encode_part
from forwardcache.jobs.metadata import meta_of
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.rows import RawRow, row, written

JOB = "cd" * 32
META = {"versions": {"forwardcache": "0"}, "counts": {"rows": 7}, "skipped": []}

Chunk = tuple[range, Sequence[RawRow]]
"""Positions of prompts, and the rows of those of them that have any."""


def write_rows(
    out: Path, op: str, prompts: Sequence[Prompt], chunks: Sequence[Chunk], **options: Any
) -> None:
    """One process's file."""
    part = PartFile(out, {}, force=False, resume=False, prompts=prompts, **options)
    try:
        for _, raw in chunks:
            fields = written([each.fields for each in raw])
            part.write(
                [
                    row(prompts[one.position], view=one.view, op=op, hit=one.hit, fields=own)
                    for one, own in zip(raw, fields, strict=True)
                ]
            )
        part.publish(META)
    finally:
        part.close()


def write_parts(
    root: Path,
    op: str,
    prompts: Sequence[Prompt],
    chunks: Sequence[Chunk],
    views: Sequence[str],
    *,
    facts: Mapping[str, Any] = META,
) -> LocalFolder:
    """The folder of a job that is done."""
    folder = LocalFolder(root)
    folder.prepare()
    told = []
    for number, (positions, raw) in enumerate(chunks):
        own = [each._replace(position=each.position - positions.start) for each in raw]
        name = content_digest(str(number).encode())
        content = encode_part(
            PartFacts(name, JOB, op, tuple(views), 8),
            own,
            [prompts[at].carried for at in positions],
        )
        file = part_file(name, content_digest(content))
        folder.put(file, content)
        lines = [prompts[at].line for at in positions]
        told.append(ManifestChunk(list(runs(lines)), file, len(raw)))
    write_manifest(folder, {"job": JOB, "top_k": 8, **facts}, told)
    return folder


def runs(lines: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Lines as first line and number of each run of them."""
    for _, group in groupby(enumerate(lines), lambda each: each[1] - each[0]):
        found = [line for _, line in group]
        yield found[0], len(found)


def without_hits(path: Path) -> bytes:
    """A file of rows in which each was a miss."""
    return re.sub(rb'"hit": true', b'"hit": false', path.read_bytes())


def facts_beside(path: Path) -> Any:
    """What stands in the file of facts."""
    return json.loads(meta_of(path).read_text())
