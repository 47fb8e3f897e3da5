"""Measures a job of two workers on two cores: ``python -m benches.workers``.

The question: how much sooner is a job done by ``score --workers 2``, each with one thread, than by
one process with two threads? Whole commands in turn; what they tell of themselves leaves the start
and loading the model apart, and both are shown. The model is the demo's, the prompts are short and
of other words: those of ``benches.score_many``.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from benches.machine import description
from benches.measure import turned
from benches.score_many import ASSETS, lines_of
from benches.sections import Line, publish, table

TITLE = "## Two workers on two cores"
PACKAGES = ["torch", "transformers", "tokenizers", "numpy"]
ALONE, ROWS, PARTS = (
    "one process, 2 threads",
    "2 workers, 1 thread each",
    "2 workers, 1 thread each, `--parts`",
)
OPTIONS = {
    ALONE: (),
    ROWS: ("--workers", "2", "--worker-cpus", "1"),
    PARTS: ("--workers", "2", "--worker-cpus", "1", "--parts"),
}


@dataclass(frozen=True)
class Took:
    """Seconds of one command: from the start of Python to its end, and of its job alone."""

    whole_s: float
    job_s: float


def took(name: str, prompts: Path, folder: Path, given: list[str]) -> Took:
    """Runs the command of a contender."""
    out = folder / ("parts" if name == PARTS else "rows.jsonl")
    command = [sys.executable, "-m", "forwardcache", "score", "--model", str(ASSETS / "model")]
    command += ["--adapter", str(ASSETS / "adapter"), "--prompts", str(prompts), *given]
    command += ["--out", str(out), "--force", "--format", "json", *OPTIONS[name]]
    environment = {**os.environ, "OMP_NUM_THREADS": "2", "HF_HUB_OFFLINE": "1"}
    began = time.perf_counter()
    done = subprocess.run(command, env=environment, check=False, capture_output=True, text=True)
    whole_s = time.perf_counter() - began
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed: {done.stderr}")
    return Took(whole_s, json.loads(done.stdout)["run"]["seconds"])


def measured(prompts: int, rounds: int, given: list[str]) -> dict[str, list[Took]]:
    """What each contender took, round by round."""
    found: dict[str, list[Took]] = {name: [] for name in OPTIONS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "prompts.jsonl"
        source.write_text("".join(lines_of(prompts)), "ascii")
        for number in range(rounds):
            for each in turned(list(OPTIONS), number):
                found[each].append(took(each, source, folder, given))
    return found


def ratio(found: dict[str, list[Took]], name: str, seconds: Callable[[Took], float]) -> float:
    """How many times as long one process takes, the median of the rounds' own ratios."""
    pairs = zip(found[ALONE], found[name], strict=True)
    return statistics.median(seconds(alone) / seconds(other) for alone, other in pairs)


def whole(one: Took) -> float:
    return one.whole_s


def job(one: Took) -> float:
    return one.job_s


def lines(found: dict[str, list[Took]]) -> list[Line]:
    bounds = {"must": "1.0", "aim": "1.2", "unit": " x", "at_least": True}
    return [
        Line(f"{name}: speed, {what}", measured=ratio(found, name, seconds), **bounds)  # type: ignore[arg-type]
        for name in (ROWS, PARTS)
        for what, seconds in (("the job", job), ("the whole command", whole))
    ]


def section(*, prompts: int, rounds: int, op: str, top_k: int) -> str:
    given = ["--op", op, "--views", "base,ft", "--top-k", str(top_k)]
    found = measured(prompts, rounds, given)
    rows = [
        f"| {name} | {statistics.median(map(job, each)):.2f} "
        f"| {statistics.median(map(whole, each)):.2f} |"
        for name, each in found.items()
    ]
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.workers", PACKAGES),
            f"- How: {rounds} rounds of whole commands in turn; medians, and of ratios the median "
            "of the rounds' own. The job is what the command tells of itself: from the first "
            "prompt to the last row, with a model that is loaded.",
            f"- Prompts: {prompts:,}, short, of other words; the demo's model, "
            f"`{' '.join(given)}`.",
            "- Speed is measured against one process with two threads.",
            "",
            *table(lines(found)),
            "",
            "| | the job, s | the whole command, s |",
            "|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, prompts=20_000, rounds=5, op="next_token_dist", top_k=256)
