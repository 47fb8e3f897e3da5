"""What a worker does for a job of parts: tells lengths of lines, scores a chunk and writes it.

Prompts come as the lines of the input, which only workers parse. A task is bytes: one line of JSON
that all tasks of a job share, one of its own, and then the lines of the prompts.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from forwardcache.distributed.counters import gained
from forwardcache.distributed.parts.naming import content_digest, part_file
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.distributed.parts.receipts import Receipt, packed_numbers
from forwardcache.distributed.parts.table import PartFacts, encode_part
from forwardcache.jobs.job import Job, Scoring
from forwardcache.jobs.prompt_line import PROMPTS, LineError, LineKind, Prompt, parse_line
from forwardcache.jobs.prompts import PromptSet
from forwardcache.jobs.views import View
from forwardcache.operation import Figure
from forwardcache.operations import operation

if TYPE_CHECKING:
    from forwardcache.jobs.rows import RawRow
    from forwardcache.jobs.session import Session


@dataclass(frozen=True, slots=True)
class PartsJob:
    """What all tasks of a job share.

    Attributes:
        out: Address of the folder.
        digest: Digest of what decides the rows, hex.
        kind: What a line holds.
        op: The operation.
        views: In the order of a prompt's rows.
        top_k: Tokens in a row of ``next_token_dist``.
        asked_k: Tokens asked of the model for it.
    """

    out: str
    digest: str
    kind: LineKind
    op: str
    views: tuple[View, ...]
    top_k: int
    asked_k: int

    def packed(self) -> bytes:
        """The job as one line."""
        return json.dumps(asdict(self)).encode("ascii") + b"\n"

    @classmethod
    def of(cls, line: bytes) -> PartsJob:
        """The job that ``packed`` was called on."""
        told = json.loads(line)
        return cls(**{**told, "views": tuple(View(**view) for view in told["views"])})


def packed_lines(job: bytes, own: Any, lines: Sequence[bytes]) -> bytes:
    """A task as bytes.

    Args:
        job: As ``PartsJob.packed`` gives it.
        own: JSON values of this task.
        lines: Those of its prompts.
    """
    return b"".join((job, json.dumps(own).encode("ascii"), b"\n", b"\n".join(lines)))


def _unpacked(task: bytes) -> tuple[PartsJob, Any, list[bytes]]:
    job, own, lines = task.split(b"\n", 2)
    return _job_of(job), json.loads(own), lines.split(b"\n")


# One job at a time, but for the last tasks of an earlier one.
_job_of = lru_cache(maxsize=2)(PartsJob.of)
_folder_at = lru_cache(maxsize=2)(open_folder)


def lengths_of_lines(session: Session, task: bytes) -> list[int | str]:
    """Tokens of each line's prompt, or why it can't be scored.

    Args:
        session: With the model.
        task: Packed with nothing of its own.
    """
    job, _, lines = _unpacked(task)
    asked = operation(job.op).of()
    found: list[Prompt | str] = []
    for line in lines:
        try:
            prompt = parse_line(line, 1, job.kind, PROMPTS)
            found.append(asked.lacking(prompt) or prompt)
        except LineError as error:
            found.append(str(error))
    items = [asked.item(each) for each in found if isinstance(each, Prompt)]
    lengths = iter(session.backend.token_lengths(items, op=job.op))
    known = [each if isinstance(each, str) else next(lengths) for each in found]
    return [each if isinstance(each, int) else str(each) for each in known]


def _own_id(prompt: Prompt) -> str | float | bool | None:
    """The id that its line has; None where its number stands for one."""
    own = prompt.carried.get("id")
    return own if isinstance(own, str | int | float) else None


def score_part(session: Session, task: bytes) -> Receipt:
    """Score a chunk and write its rows; the receipt once they are there.

    Args:
        session: With the model.
        task: Packed with the chunk's name and the lengths of its prompts.

    Raises:
        ForwardCacheError: it can't be scored or written.
    """
    job, (name, lengths), lines = _unpacked(task)
    prompts = tuple(parse_line(line, at, job.kind, PROMPTS) for at, line in enumerate(lines, 1))
    # What becomes of a prompt that fails is for the driver to say.
    scored = Job(
        PromptSet("the part", prompts, sha256=""),
        lengths, job.op, job.views, job.top_k, job.asked_k, "skip",
    )  # fmt: skip
    scoring = Scoring(session.backend, session.recorder, scored)
    before, bad = session.backend.stats.to_dict(), session.backend.nonfinite_results
    rows, skipped = scoring.raw_rows_of(range(len(prompts)))
    stats = gained(before, session.backend.stats.to_dict())
    names = tuple(view.name for view in job.views)
    content = encode_part(
        PartFacts(name, job.digest, job.op, names, job.top_k),
        rows,
        [prompt.carried for prompt in prompts],
    )
    digest = content_digest(content)
    file = part_file(name, digest)
    # Whatever stands there has these bytes too, or was cut.
    _folder_at(job.out).put(file, content)
    return Receipt(
        name,
        file,
        digest,
        len(content),
        len(rows),
        skipped=[
            (one.line - 1, _own_id(prompts[one.line - 1]), one.reason) for one in skipped
        ],
        hits=sum(row.hit for row in rows),
        tokens_run=scoring.totals.tokens_run,
        nonfinite=session.backend.nonfinite_results - bad,
        stats=stats,
        **_figures(scored.operation.figure, rows, prompts, job.views),
    )  # fmt: skip


def _figures(
    figure: Figure, rows: Sequence[RawRow], prompts: Sequence[Prompt], views: Sequence[View]
) -> dict[str, Any]:
    """What the summary needs of the rows, as fields of a receipt."""
    differences: dict[str, list[float]] = {view.name: [] for view in views}
    fields: set[str] = set()
    fewest: int | None = None
    outside = 0.0
    for row in rows:
        for name in figure.nats:
            if name in row.fields:
                fields.add(name)
                differences[row.view].append(_number(row.fields[name]))
        if (tokens := row.fields.get("compared_tokens")) is not None:
            fewest = tokens if fewest is None else min(fewest, tokens)
            outside = max(outside, _finite(row.fields.get("mass_outside")))
    compared = {view: np.asarray(found) for view, found in differences.items() if found}
    if not compared:
        return {}
    texts = [_text_number(prompts[at]) for at in dict.fromkeys(row.position for row in rows)]
    return {
        "fields": sorted(fields),
        "fewest_tokens": fewest,
        "most_outside": outside,
        "texts": packed_numbers(np.asarray(texts, np.uint64)),
        "differences": {view: packed_numbers(found) for view, found in compared.items()},
    }


def _number(value: Any) -> float:
    """A difference; NaN where a row would have null."""
    return float(value) if value is not None and math.isfinite(value) else math.nan


def _finite(value: Any) -> float:
    return float(value) if value is not None and math.isfinite(value) else 0.0


def _text_number(prompt: Prompt) -> int:
    """What a prompt counts as, as a number that no other text has (but one in 2^64)."""
    digest = blake2b(prompt.counts_as.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(digest, "little")
