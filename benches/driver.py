"""Measures what a driver of many workers spends on a row: ``python -m benches.driver``.

The question: how much of one core does the process that was called need for each row, where workers
write the rows themselves (``score --parts``), beside the driver that writes them (``--workers``
alone)? Its CPU time, all threads, from the first line read to the manifest on disk; real processes
as workers, which compute nothing: they answer at once with receipts of 256 prompts. The other
driver reads and writes rows of the 256 most likely tokens as a worker sends them.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np

from benches.idle_worker import A_CHUNK, TOKENS, VIEWS, Idle
from benches.machine import description
from benches.sections import Line, publish, table
from forwardcache.distributed.local import LocalCrew
from forwardcache.distributed.parts.job import PartsScoring, read_plan
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.distributed.parts.work import PartsJob
from forwardcache.distributed.scoring import TeamScoring
from forwardcache.distributed.wire import packed_value
from forwardcache.jobs.job import Job
from forwardcache.jobs.prompt_source import open_source
from forwardcache.jobs.prompt_source.plan import Plan
from forwardcache.jobs.prompts import Prompt, PromptSet
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.rows import row, written

TITLE = "## The driver's time a row"
PROMPTS, PROMPT_BYTES, TOP_K = 100_000, 300, 256
MUST, AIM = "1/50", "1/200"


def write_prompts(path: Path, count: int) -> None:
    with path.open("w") as file:
        for at in range(count):
            line = json.dumps({"prompt": f"{at} ", "id": at})
            file.write(line.replace(' "', " " + "x" * (PROMPT_BYTES - len(line)) + '"', 1) + "\n")


def of_parts_s(folder: Path, prompts: Path, count: int) -> float:
    """CPU seconds of the driver a row; workers write."""
    out = open_folder(str(folder / "out"))
    out.prepare()
    with LocalCrew(2, lambda _: b"", on_gpu=False, worker_cpus=1, kind=Idle) as crew:
        crew.facts()
        began = time.process_time()
        plan = Plan(open_source(str(prompts)))
        job = PartsJob(out.address, "0" * 64, "json", "next_token_dist", VIEWS, TOP_K, TOP_K)
        read_plan(crew, plan, job)
        scoring = PartsScoring(crew, out, plan, job, on_error="fail")
        scoring.take_up()
        scoring.run(cast(Any, SimpleNamespace(settle=lambda *_: None)))
        scoring.sum_up()
        scoring.finish({"sha256": plan.digest})
        took = time.process_time() - began
    assert scoring.tally.rows == count * len(VIEWS)
    out.empty()
    return took / scoring.tally.rows


def of_rows_s(folder: Path, chunks: int) -> float:
    """CPU seconds of the driver a row; it writes."""
    prompts = tuple(Prompt(at + 1, "x" * PROMPT_BYTES) for at in range(A_CHUNK))
    chance = np.random.default_rng(0)
    fields = [
        {
            "top_k": TOP_K,
            "token_ids": chance.integers(32_000, size=TOP_K),
            "logprobs": -chance.random(TOP_K, np.float32),
            "tail_logprob": -1.5,
            "vocab_size": 32_000,
            "kl_base_nats": 0.25,
        }
        for _ in range(A_CHUNK * len(VIEWS))
    ]
    rows = [
        row(prompt, view=view.name, op="next_token_dist", hit=False, fields=own)
        for (prompt, view), own in zip(
            [(prompt, view) for prompt in prompts for view in VIEWS], written(fields), strict=True
        )
    ]
    counters = {"rows": rows, "skipped": [], "tokens_run": 0, "stats": {}, "nonfinite": 0}
    sent = packed_value(counters)
    del rows, fields
    job = Job(
        PromptSet("bench", prompts * chunks, ""), [TOKENS] * A_CHUNK * chunks,
        "next_token_dist", VIEWS, TOP_K, TOP_K,
    )  # fmt: skip
    crew: Any = SimpleNamespace(run=lambda _, tasks, __: (sent for _ in range(tasks)))
    scoring = TeamScoring(crew, job)
    sink = PartFile(folder / "rows.jsonl", {}, force=True, resume=False)
    began = time.process_time()
    scoring.run(sink, cast(Any, SimpleNamespace(settle=lambda *_: None)))
    sink.publish()
    took = time.process_time() - began
    return took / scoring.totals.rows


def section(*, prompts: int, turns: int) -> str:
    found = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_prompts(folder / "prompts.jsonl", prompts)
        for turn in range(turns):
            both = [0.0, 0.0]
            for which in (0, 1) if turn % 2 else (1, 0):
                both[which] = (
                    of_parts_s(folder, folder / "prompts.jsonl", prompts)
                    if which
                    else of_rows_s(folder, 4)
                )
            found.append((both[0], both[1]))
    share = statistics.median(parts / rows for rows, parts in found)
    of_rows, of_parts = (statistics.median(each) * 1e6 for each in zip(*found, strict=True))
    told = [
        *description("benches.driver", ["numpy"]),
        f"- How: {prompts:,} prompts of {PROMPT_BYTES} bytes, {len(VIEWS)} views, {turns} turns; "
        f"CPU time of the driver's process, {of_parts:.2f} us a row where workers write and "
        f"{of_rows:.1f} us where it does; medians of the turns' ratios.",
    ]
    line = Line(f"driver's CPU a row, top {TOP_K}", MUST, AIM, share, today="133 us")
    return "\n".join([TITLE, "", *told, "", *table([line]), ""])


if __name__ == "__main__":
    publish(section, __doc__, prompts=PROMPTS, turns=5)
