"""Measures parts and their merging: ``BESIDE=FOLDER python -m benches.parts``.

The question: what does a worker take to write its rows as a part, and ``merge`` to make JSON lines
of parts, compared with a process that writes rows as JSON lines? That one is another build of the
package, whose sources lie in FOLDER with its core in them. Rows are distributions over the
``TOP_K`` most likely of 50,000 tokens, each with its divergence; the model isn't measured.
Both builds in processes of their own that take turns, one thread for writing; CPU time of the
process; of each process the median of some rounds, of these the median.
"""

import hashlib
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from benches.machine import description
from benches.sections import BESIDE, Line, number, publish, table
from benches.turns import ROOT, in_turn

TITLE = "## Parts and their merging"
TOP_K, VOCABULARY, PROMPTS, VIEWS = 256, 50_000, 256, ("base", "ft")
CHUNKS = 8
"""Parts that are merged in one round."""
NAMES = ("rows written by one process as a part", "rows of parts merged to JSON lines")
NAMES_TODAY = ("today's JSON lines by one process", "today's driver, which writes for workers")
BOUNDS = (("4", "10"), ("3", "8"))
OP = "next_token_dist"

Work = Callable[[], object]


def values() -> list[Any]:
    """A distribution for each prompt and view of a chunk."""
    from forwardcache.scoring import TokenDist

    chance = np.random.default_rng(0)
    found = []
    for _ in range(PROMPTS * len(VIEWS)):
        ids = chance.choice(VOCABULARY, TOP_K, replace=False)
        logits = np.sort(chance.gumbel(size=VOCABULARY) * 2.0)[::-1]
        logprobs = logits[:TOP_K] - np.log(np.exp(logits).sum())
        tail = float(np.log1p(-np.exp(logprobs).sum()))
        found.append(TokenDist(ids, logprobs.astype(np.float32), VOCABULARY, tail))
    return found


def writing_today(target: Path) -> tuple[Work, Work]:
    """Rows as JSON lines, as the build at the commit of the bounds writes them.

    Returns:
        What one process does from values on, and what the driver of workers does, which gets rows
        as JSON and writes them again.
    """
    from forwardcache.cli.prompts import Prompt  # type: ignore[import-not-found]
    from forwardcache.cli.rows import (  # type: ignore[import-not-found]
        encoded,
        row,
        value_fields,
    )

    dists = values()
    prompts = [Prompt(line, "a prompt") for line in range(PROMPTS)]

    def made() -> list[Any]:
        return [
            row(
                prompts[at // len(VIEWS)],
                view=VIEWS[at % len(VIEWS)],
                op=OP,
                hit=False,
                fields=value_fields(OP, dist, TOP_K),
                against_base={"kl_base_nats": -dist.tail_logprob} if at % len(VIEWS) else None,
            )
            for at, dist in enumerate(dists)
        ]

    told = json.dumps(made()).encode()
    return (
        lambda: target.write_bytes(encoded(made())),
        lambda: target.write_bytes(encoded(json.loads(told))),
    )


def writing_parts(target: Path) -> Work:
    """The same rows as a part, with the digest that its name has."""
    from forwardcache.distributed.parts.table import encode_part
    from forwardcache.jobs.rows import RawRow
    from forwardcache.operations import operation

    dists, op = values(), operation(OP).of(top_k=TOP_K)
    inputs: list[dict[str, Any]] = [{} for _ in range(PROMPTS)]

    def write() -> None:
        rows = []
        for at, dist in enumerate(dists):
            prompt, view = divmod(at, len(VIEWS))
            against = {"kl_base_nats": -dist.tail_logprob} if view else {}
            fields = {**op.row(dist, top_k=TOP_K), **against}
            rows.append(RawRow(prompt, VIEWS[view], False, fields))
        content = encode_part(_facts(), rows, inputs)
        hashlib.sha256(content).hexdigest()
        target.write_bytes(content)

    return write


def _facts() -> Any:
    from forwardcache.distributed.parts.table import PartFacts

    return PartFacts("ab" * 32, "cd" * 32, OP, VIEWS, TOP_K)


def merging(folder: Path, part: Path) -> Work:
    """``merge`` of parts that are all alike."""
    from forwardcache.distributed.parts.manifest import ManifestChunk, write_manifest
    from forwardcache.distributed.parts.merge import merge
    from forwardcache.distributed.parts.naming import content_digest, part_file
    from forwardcache.distributed.parts.opening import open_folder

    content = part.read_bytes()
    file = part_file(_facts().name, content_digest(content))
    parts, out = open_folder(str(folder)), folder.with_suffix(".jsonl")
    parts.prepare()
    parts.put(file, content)
    rows = PROMPTS * len(VIEWS)
    chunks = [ManifestChunk([(1 + PROMPTS * at, PROMPTS)], file, rows) for at in range(CHUNKS)]
    write_manifest(parts, {"job": _facts().job}, chunks)
    return lambda: merge(parts, out, force=True)


def rows_a_second(work: Work, rows: int, rounds: int) -> float:
    """Of CPU time of this process, all threads."""
    work()
    taken = []
    for _ in range(rounds):
        began = time.process_time()
        work()
        taken.append(time.process_time() - began)
    return rows / statistics.median(taken)


def sample(rounds: int) -> list[float]:
    """Rows a second of each of ``NAMES``, or of ``NAMES_TODAY`` in the other build."""
    os.environ["OMP_NUM_THREADS"] = "1"
    rows = PROMPTS * len(VIEWS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            write = writing_parts(folder / "part.parquet")
        except ImportError:
            both = writing_today(folder / "rows.jsonl")
            return [rows_a_second(each, rows, rounds) for each in both]
        written = rows_a_second(write, rows, rounds)
        merge = merging(folder / "job", folder / "part.parquet")
        return [written, rows_a_second(merge, CHUNKS * rows, rounds)]


def section(processes: int, rounds: int, beside: str) -> str:
    sources = [ROOT, *([Path(beside)] if beside else [])]
    taken = in_turn("benches.parts", sources, processes, ["sample", str(rounds)])
    ours, theirs = (
        [statistics.median(each) for each in zip(*taken[at], strict=True)] for at in (0, -1)
    )
    lines = [
        Line(
            f"{name}, beside {name_today}",
            *(bounds if other else ("1", "")),
            own / today,
            "7,500 a second" if other else "",
            unit=" x",
            at_least=True,
            is_void=not beside,
        )
        for name, bounds, own in zip(NAMES, BOUNDS, ours, strict=True)
        for other, (name_today, today) in enumerate(zip(NAMES_TODAY, theirs, strict=True))
    ]
    rows = ["| | rows a second of CPU time |", "|---|---|"]
    names = [*NAMES, *(NAMES_TODAY if beside else ())]
    for name, found in zip(names, [*ours, *theirs], strict=False):
        rows.append(f"| {name} | {number(found)} |")
    told = [
        f"- Command: `BESIDE=FOLDER python -m benches.parts --processes {processes}`",
        *description(packages=["numpy", "pyarrow"])[1:],
        f"- How: {processes} processes of each build, in turn; CPU time of the process with all "
        f"its threads; the median of {rounds} rounds, of these the median.",
        f"- Rows: top {TOP_K} of {VOCABULARY:,} tokens; chunks of {PROMPTS} prompts in "
        f"{len(VIEWS)} views; {CHUNKS} parts are merged.",
    ]
    return "\n".join([TITLE, "", *told, "", *rows, "", *table(lines), ""])


if __name__ == "__main__":
    if sys.argv[1:2] == ["sample"]:
        print(*sample(int(sys.argv[2])))
    else:
        publish(section, __doc__, processes=5, rounds=15, beside=BESIDE)
