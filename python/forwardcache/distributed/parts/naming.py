"""Names by content: of a job, and of the file that holds one chunk's rows.

The name of a chunk is ``Plan.name_of``'s: a digest of the job's and of the lines of its prompts.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from forwardcache.distributed.parts.folder import PARTS, RECEIPTS

FORMAT = "parts 1"
"""Of what stands in a folder of parts; in the digest of the job, so in every name."""

_CHECK_DIGITS = 16
_FILE = re.compile(rf"{PARTS}/([0-9a-f]{{2}})/(\1[0-9a-f]{{62}})-([0-9a-f]{{16}})\.parquet\Z")


class PartFile(NamedTuple):
    """A part's name, taken apart.

    Attributes:
        name: The chunk's, 64 hex digits.
        check: The first 16 hex digits of the SHA-256 of the file's bytes.
    """

    name: str
    check: str


def job_digest(facts: Mapping[str, Any]) -> str:
    """SHA-256, hex, of what decides the rows of a job.

    Args:
        facts: JSON values; the order of their names means nothing.
    """
    told = json.dumps(facts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(told.encode("ascii")).hexdigest()


def content_digest(content: bytes) -> str:
    """SHA-256, hex, of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def part_file(name: str, digest: str) -> str:
    """Where the rows of a chunk stand.

    Args:
        name: The chunk's.
        digest: That of the file's bytes, as of ``content_digest``.
    """
    return f"{PARTS}/{name[:2]}/{name}-{digest[:_CHECK_DIGITS]}.parquet"


def parse_part_file(file: str) -> PartFile | None:
    """The parts of ``part_file``'s name; None where it is none."""
    found = _FILE.match(file)
    return None if found is None else PartFile(found[2], found[3])


def receipts_file(run: str, number: int) -> str:
    """Where some receipts of one run of the driver stand.

    Args:
        run: What tells this run from others, hex.
        number: From 0.
    """
    return f"{RECEIPTS}/{run}-{number:06}.jsonl"
