"""Measures how soon ``score`` answers: ``python -m benches.start`` with BESIDE set to a build.

The question: how long does the command take to its first row, and to its end where everything is
stored, beside another build of the package? Whole processes in turn, from the start of Python, wall
time, the demo's model; the CPU time beside it holds on a busy machine too. Without another build
this one is measured alone.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import forwardcache
from benches.machine import description
from benches.measure import turned
from benches.sections import BESIDE, Line, publish, table

TITLE = "## The command: how soon it answers"
PACKAGES = ["torch", "transformers", "peft", "tokenizers", "numpy"]
OURS, OTHER = "this build", "another build"
SOURCES = Path(forwardcache.__file__).parents[1]
ASSETS = Path(forwardcache.__file__).parent / "demo"
FIRST, FIRST_ADAPTED, STORED = (
    "first row of `score`, the demo's model",
    "the same with its adapter",
    "`score` with everything stored, to its end",
)
FLOOR = "import torch, transformers.modeling_utils"
NOTES = """\
- Nothing is loaded where all values are stored: what is left is Python itself, the command line's
  packages and numpy (half of it), the model's and the modules' files, the store, and the rows.
- To the first row most is what transformers imports whatever it is asked for, told as the floor:
  torch with its decompositions, the lists of all models and quantizers.
- Kept: no looks for garbage while torch and transformers are imported (a quarter of the CPU time);
  no compiler for marks on functions (a tenth); torch's libraries loaded by a thread (a twentieth);
  no scipy for the losses of image models (a twelfth); no distributed tensors and no sympy for
  sizes that may be symbols (a sixth); no PEFT without an adapter (a twentieth); rows without
  polars; of the commands only the one that is named; statistics, tables and progress imported when
  they are shown.
- Left: a stand-in for `torch.export`, which torch imports with itself, breaks the order of torch's
  own imports.
"""


@dataclass(frozen=True)
class Cost:
    """Seconds of one process: to its first row, to its end, and of CPU."""

    first_s: float
    end_s: float
    cpu_s: float


def cost_of(arguments: list[str], sources: Path, threads: int) -> Cost:
    """Runs Python with other sources to its end."""
    environment = {
        **os.environ, "PYTHONPATH": str(sources), "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
    }  # fmt: skip
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, *arguments], env=environment, stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )  # fmt: skip
    assert process.stdout is not None
    process.stdout.readline()
    first_s = time.perf_counter() - began
    process.stdout.read()
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        sys.exit(f"{' '.join(arguments)} failed: {process.returncode}")
    return Cost(first_s, time.perf_counter() - began, used.ru_utime + used.ru_stime)


def commands(folder: Path, name: str) -> dict[str, list[str]]:
    """What is run, by figure; each build has a store of its own."""
    score = ["-m", "forwardcache", "score", "--model", str(ASSETS / "model")]
    few = [*score, "--prompts", str(folder / "few.jsonl")]
    adapter = ["--adapter", str(ASSETS / "adapter"), "--dtype", "float32"]
    every = ["--prompts", str(folder / "prompts.jsonl"), "--store", str(folder / f"{name}.db")]
    return {
        FIRST: few,
        FIRST_ADAPTED: [*few, *adapter],
        STORED: [*score, *adapter, *every],
    }


def measured(rounds: int, threads: int) -> dict[str, dict[str, list[Cost]]]:
    """By figure and build the costs, round by round."""
    builds = {OURS: SOURCES, **({OTHER: Path(BESIDE, "python")} if BESIDE else {})}
    found: dict[str, dict[str, list[Cost]]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
        (folder / "prompts.jsonl").write_text("".join(lines), "utf-8")
        (folder / "few.jsonl").write_text("".join(lines[:20]), "utf-8")
        for build, sources in builds.items():
            # Also so that neither compiles modules in a round.
            cost_of(commands(folder, build)[STORED], sources, threads)
        for number in range(rounds):
            for build in turned(list(builds), number):
                for figure, arguments in commands(folder, build).items():
                    cost = cost_of(arguments, builds[build], threads)
                    found.setdefault(figure, {}).setdefault(build, []).append(cost)
            floor = ["-c", f"{FLOOR}; print()"]
            found.setdefault(FLOOR, {}).setdefault(OURS, []).append(
                cost_of(floor, SOURCES, threads)
            )
    return found


def wall(figure: str, cost: Cost) -> float:
    return cost.end_s if figure == STORED else cost.first_s


def seconds(found: dict[str, dict[str, list[Cost]]]) -> list[str]:
    lines = ["| | build | wall, s | CPU of the process, s |", "|---|---|---|---|"]
    for figure, builds in found.items():
        for build, costs in builds.items():
            took = statistics.median(wall(figure, each) for each in costs)
            cpu = statistics.median(each.cpu_s for each in costs)
            lines.append(f"| {figure} | {build} | {took:.2f} | {cpu:.2f} |")
    return lines


def ratios(found: dict[str, dict[str, list[Cost]]]) -> list[Line]:
    """Our wall time over the other's, the median of the rounds' own ratios."""

    def ratio(figure: str) -> float:
        pairs = zip(found[figure][OURS], found[figure][OTHER], strict=True)
        return statistics.median(wall(figure, one) / wall(figure, other) for one, other in pairs)

    return [
        Line(f"{STORED}, wall, beside today", "1/6", "1/15", ratio(STORED), "1"),
        Line(f"{FIRST}, wall, beside today", "0.6", "0.4", ratio(FIRST), "1"),
    ]


def section(*, rounds: int, threads: int) -> str:
    found = measured(rounds, threads)
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.start", PACKAGES),
            f"- How: {rounds} rounds of whole processes in turn, {threads} threads; medians. 300 "
            "prompts are stored in views `base` and `ft`, and 20 are run for a first row. "
            f"The floor: `python -c '{FLOOR}'`.",
            NOTES,
            *(table(ratios(found)) if BESIDE else ()),
            "",
            *seconds(found),
            "",
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, rounds=5, threads=2)
