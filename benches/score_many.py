"""Measures ``forwardcache score`` of many short prompts: ``python -m benches.score_many``.

The question: how many prompts a second does the whole command score with the demo's model, and in
how much memory? Whole processes, from the start of Python to the last row on disk. With
``--beside`` the same command of other sources runs in turn with it, so that a slow moment of the
machine meets both; the ratio of CPU seconds holds on a busy machine too.
"""

import json
import os
import random
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import forwardcache
from benches.machine import description
from benches.measure import turned
from benches.sections import publish

TITLE = "## The command: many short prompts"
PACKAGES = ["torch", "transformers", "tokenizers", "polars", "numpy"]
ASSETS = Path(forwardcache.__file__).parent / "demo"
THIS, OTHER = "this commit", "other sources"
OURS = Path(forwardcache.__file__).parents[1]
SEED, SHORTEST, LONGEST = 20240229, 5, 12
MIB = 2**20


@dataclass(frozen=True)
class Cost:
    """What one whole process took."""

    wall_s: float
    cpu_s: float
    peak_mib: float


def lines_of(count: int) -> Iterator[str]:
    """``count`` lines of JSON, each with other words of the demo's prompts."""
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines()
    texts = [json.loads(line)["prompt"] for line in lines]
    words = sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})
    chance = random.Random(SEED)
    seen: set[str] = set()
    while len(seen) < count:
        text = " ".join(chance.choices(words, k=chance.randint(SHORTEST, LONGEST)))
        if text not in seen:
            seen.add(text)
            completion = " " + " ".join(chance.choices(words, k=3))
            yield json.dumps({"prompt": text, "completion": completion}) + "\n"


def cost_of(sources: Path, arguments: list[str], threads: int) -> Cost:
    """Runs ``forwardcache score`` of other sources to its end."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(sources),
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }
    command = [sys.executable, "-m", "forwardcache", "score", *arguments]
    began = time.perf_counter()
    quiet = [(os.POSIX_SPAWN_OPEN, number, os.devnull, os.O_WRONLY, 0) for number in (1, 2)]
    process = os.posix_spawn(command[0], command, environment, file_actions=quiet)
    _, status, used = os.wait4(process, 0)
    if status:
        sys.exit(f"{' '.join(command)} failed: {os.waitstatus_to_exitcode(status)}")
    cpu_s = used.ru_utime + used.ru_stime
    return Cost(time.perf_counter() - began, cpu_s, used.ru_maxrss * 1024 / MIB)


def measured(
    sources: dict[str, Path], arguments: list[str], folder: Path, *, rounds: int, threads: int
) -> dict[str, list[Cost]]:
    """The costs of each contender, round by round."""
    costs: dict[str, list[Cost]] = {name: [] for name in sources}
    for number in range(rounds):
        for name in turned(list(sources), number):
            rows = folder / f"rows-{number}.jsonl"
            costs[name].append(cost_of(sources[name], [*arguments, "--out", str(rows)], threads))
            rows.unlink()
    return costs


def table(costs: dict[str, list[Cost]], count: int) -> list[str]:
    lines = ["| | prompts a second | CPU seconds | peak memory, MiB |", "|---|---|---|---|"]
    for name, each in costs.items():
        a_second = statistics.median(count / cost.wall_s for cost in each)
        cpu_s = statistics.median(cost.cpu_s for cost in each)
        peak = max(cost.peak_mib for cost in each)
        lines.append(f"| {name} | {a_second:.0f} | {cpu_s:.1f} | {peak:,.0f} |")
    if OTHER in costs:
        pairs = list(zip(costs[OTHER], costs[THIS], strict=True))
        wall = statistics.median(other.wall_s / ours.wall_s for other, ours in pairs)
        cpu = statistics.median(other.cpu_s / ours.cpu_s for other, ours in pairs)
        lines.append(f"| {OTHER}, times {THIS} | {wall:.2f} x | {cpu:.2f} x | |")
    return lines


def section(*, prompts: int, rounds: int, threads: int, op: str, views: str, beside: str) -> str:
    sources = {THIS: OURS, **({OTHER: Path(beside)} if beside else {})}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        source = folder / "prompts.jsonl"
        source.write_text("".join(lines_of(prompts)), "ascii")
        arguments = ["--model", str(ASSETS / "model"), "--adapter", str(ASSETS / "adapter")]
        arguments += ["--prompts", str(source), "--op", op, "--views", views]
        costs = measured(sources, arguments, folder, rounds=rounds, threads=threads)
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.score_many", PACKAGES),
            f"- How: {rounds} rounds of whole processes in turn, {threads} threads; medians, and "
            "of memory the largest peak.",
            f"- Prompts: {prompts:,}, each of {SHORTEST} to {LONGEST} other words, to `--out` as "
            f"JSON lines; `--op {op} --views {views}`, the demo's model in half precision.",
            "",
            *table(costs, prompts),
            "",
        ]
    )


if __name__ == "__main__":
    publish(
        section,
        __doc__,
        prompts=20_000,
        rounds=3,
        threads=2,
        op="next_token_dist",
        views="base,ft",
        beside="",
    )
