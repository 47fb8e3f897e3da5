"""Measures the trace compared with other ways to write a line: ``python -m benches.trace``.

The question: what does a traced hit cost the thread that makes it, how many events a second can be
kept up, and how long does it take to recover what a killed process left? Only the calling
thread's CPU time is in the table of hits; the writer's thread works at the same time, and what both
take together is a row of its own.
"""

import json
import logging
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benches import cases, contenders
from benches.contenders import OURS, PLAIN, Loop
from benches.machine import description
from benches.measure import Samples, interleaved
from benches.sections import publish, verdict
from forwardcache import BackendInstrumentation
from forwardcache._core import recover_trace

TITLE = "## The trace"
MEMORY = "/dev/shm"
ROUNDS = 51
JOURNAL_EVENTS = 32_768
ALL_THREADS = "forwardcache, its writer's thread included"
UNTRACED = "forwardcache, no trace"
PLAIN_UNTRACED = "plain-Python model, no trace"
ORJSON = "orjson and a buffered file"
LOGGING = "logging.FileHandler"
ONE_WRITE = "one `write` of a line ready made"

EVENT = {
    "ts": 1_700_000_000.5,
    "probe": None,
    "view_id": cases.VIEW_ID,
    "prompt_hash": "a9993e364706",
    "top_k": cases.TOP_K,
    "op": cases.OP,
    "wall_ms": 0.25,
    "hit": True,
}


# Contenders


def ours(folder: Path) -> tuple[Loop, Callable[[], None]]:
    inst = BackendInstrumentation(trace_path=folder / "ours.jsonl")
    return contenders.instrumented(inst), inst.trace.flush


def with_orjson(folder: Path) -> Loop:
    import orjson

    file = (folder / "orjson.jsonl").open("ab", buffering=1 << 16)

    def loop(prompts: Sequence[str]) -> None:
        for _prompt in prompts:
            file.write(orjson.dumps(EVENT) + b"\n")

    return loop


def with_logging(folder: Path) -> Loop:
    logger = logging.Logger("benches.trace")
    logger.addHandler(logging.FileHandler(folder / "logging.jsonl"))

    def loop(prompts: Sequence[str]) -> None:
        for _prompt in prompts:
            logger.info(json.dumps(EVENT))

    return loop


def traced_hits(folder: Path, rounds: int) -> Samples:
    """Thread CPU time of a hit. Between two samples the journal is drained."""
    traced, flush = ours(folder)
    loops = {
        OURS: traced,
        UNTRACED: contenders.single(OURS, cases.CAPACITY),
        PLAIN: contenders.traced(PLAIN, folder / "plain.jsonl"),
        PLAIN_UNTRACED: contenders.single(PLAIN, cases.CAPACITY),
        ORJSON: with_orjson(folder),
        LOGGING: with_logging(folder),
        ONE_WRITE: contenders.line_write(folder / "lines"),
    }
    prompts = cases.same(40)()

    def drained() -> cases.Prompts:
        flush()
        return prompts

    return interleaved(loops, drained, rounds)


def all_threads_ns(folder: Path, rounds: int) -> float:
    """CPU time of the process an event: the hit, and the writer that formats and appends it."""
    traced, flush = ours(folder)
    prompts = cases.same(40)()
    samples = []
    for _ in range(rounds):
        began = time.process_time_ns()
        traced(prompts)
        flush()
        samples.append((time.process_time_ns() - began) / len(prompts))
    return statistics.median(samples)


# Long runs


def sustained(folder: Path, seconds: float) -> dict[str, float]:
    """One thread traces hits as fast as it can."""
    path = folder / "sustained.jsonl"
    inst = BackendInstrumentation(trace_path=path)
    loop = contenders.instrumented(inst)
    prompts = [cases.text(0, 40)] * 10_000
    loop(prompts)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began, events = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        loop(prompts)
        events += len(prompts)
    inst.close()
    took = time.perf_counter() - began
    return {
        "events a second": events / took,
        "MB/s": path.stat().st_size / took / 1e6,
        "lost": inst.trace.lost,
        "RSS grown, MB": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1e3,
    }


def disk_mb_s(folder: Path) -> float:
    """Plain writes of 1 MiB, for comparison."""
    block, path = os.urandom(1 << 20), folder / "disk"
    began = time.perf_counter()
    with path.open("wb", buffering=0) as file:
        for _ in range(512):
            file.write(block)
    return 512 * len(block) / (time.perf_counter() - began) / 1e6


def latencies(inst: Any) -> list[int]:
    """Nanoseconds of single hits, in order of size; two clock readings are in each."""
    cached, prompt, clock = inst.cached, cases.text(0, 40), time.perf_counter_ns
    taken = []
    for _ in range(200_000):
        began = clock()
        cached(cases.OP, cases.VIEW_ID, prompt, cases.TOP_K, contenders.compute)
        taken.append(clock() - began)
    return sorted(taken)


def tails(folder: Path) -> dict[str, list[int]]:
    return {
        "traced": latencies(BackendInstrumentation(trace_path=folder / "tails.jsonl")),
        "untraced": latencies(BackendInstrumentation()),
    }


def recovery_s(folder: Path) -> float:
    """Seconds to recover a full journal of a process that left without a word."""
    path = folder / "killed.jsonl"
    program = (
        "import os, sys; from forwardcache import TraceEvent, TraceWriter;"
        f"w = TraceWriter(sys.argv[1], interval_s=3600, journal_events={4 * JOURNAL_EVENTS});"
        f"[w.write(TraceEvent(1.5, None, 'base', 'a9993e364706', n, 'op', 0.5, True))"
        f" for n in range({JOURNAL_EVENTS})]; os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", program, str(path)], check=True)
    began = time.perf_counter()
    recovered = recover_trace(path)
    took = time.perf_counter() - began
    assert recovered["recovered"] + 1 >= JOURNAL_EVENTS, recovered
    return took


def in_rust(folder: Path) -> dict[str, float]:
    command = ["cargo", "run", "--quiet", "--release", "--example", "trace_writers", "--"]
    figures: dict[str, float] = json.loads(subprocess.check_output([*command, str(folder)]))
    return figures


LIMITS = """\
### What limits it

Found once with perf, not by this command; nanoseconds of the calling thread's CPU time of a traced
hit of 40 B, medians, beside 92.5 of an untraced one at commit 0df6753.

- There it took 178 with the journal drained between samples and 183 with the writer at work: of the
  90 that tracing added, 5 were for the writer's looks at the same memory. The others: telling pyo3
  that the thread is attached, four names found by identity, a checksum over 112 bytes, 16 stores,
  and copies of the key's name from one return to the next, by wider loads than the stores were.
- Tried, one after the other: half a slot for a hit, one look for op, view, `top_k` and probe, and
  no attachment: 134. The key's name noted where it is needed instead of handed back: 124. The other
  fields of a lookup in the same way: 114, drained or not.
- What is left: the two readings of the clock (33) and the compare-and-swap of the tail (4).
"""

# Markdown


def figure_lines(hit: Samples, kept_up: dict[str, float], recovery: float) -> list[str]:
    beside, faster = hit.ratio(OURS, UNTRACED), hit.ratio(PLAIN, OURS)
    rate = kept_up["events a second"]
    added, plain_added = hit.ns(OURS) - hit.ns(UNTRACED), hit.ns(PLAIN) - hit.ns(PLAIN_UNTRACED)
    return [
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        f"| traced hit beside an untraced one | at most 2 x | {beside:.2f} x | "
        f"{verdict(beside <= 2)} |",
        f"| traced hit, times as fast as the plain-Python model that flushes a line | "
        f"at least 50 | {faster:.1f} | {verdict(faster >= 50)} |",
        f"| what tracing adds to a hit, times as fast as the same model | at least 50 | "
        f"{plain_added / added:.1f} | {verdict(plain_added / added >= 50)} |",
        f"| events a second for {kept_up['seconds']:.0f} s from one thread, into memory | "
        f"at least 1,000,000 | {rate:,.0f} | {verdict(rate >= 1e6)} |",
        f"| recovery of a full journal ({JOURNAL_EVENTS:,} events) | under 1 s | "
        f"{recovery:.3f} s | {verdict(recovery < 1)} |",
        "",
    ]


def hit_lines(hit: Samples, together_ns: float, rust: dict[str, float]) -> list[str]:
    lines = ["### A traced hit, 40 B", "", "| | ns of thread CPU time | |", "|---|---|---|"]
    lines += [
        f"| {name} | {hit.ns(name):,.0f} | {hit.ratio(name, OURS):.2f} x |" for name in hit.of
    ]
    lines += [f"| {ALL_THREADS} | {together_ns:,.0f} | |", ""]
    lines += ["### An event in Rust alone", "", "| | ns of thread CPU time |", "|---|---|"]
    return [*lines, *(f"| {name} | {ns:,.0f} |" for name, ns in rust.items()), ""]


def long_run_lines(kept_up: dict[str, float], disks: dict[str, float]) -> list[str]:
    lines = ["### Kept up, one thread, into memory", "", "| | |", "|---|---|"]
    lines += [f"| {name} | {figure:,.1f} |" for name, figure in kept_up.items()]
    lines += [
        f"| plain writes of 1 MiB into {name}, MB/s | {mb:,.0f} |" for name, mb in disks.items()
    ]
    return [*lines, ""]


def tail_lines(of: dict[str, list[int]]) -> list[str]:
    lines = ["### Single hits, wall time, two clock readings included", ""]
    lines += ["| ns | p50 | p99 | p99.9 | max |", "|---|---|---|---|---|"]
    for name, taken in of.items():
        points = [taken[int(len(taken) * share)] for share in (0.5, 0.99, 0.999)]
        cells = " | ".join(f"{point:,}" for point in [*points, taken[-1]])
        lines.append(f"| {name} | {cells} |")
    return [*lines, ""]


def section(rounds: int, seconds: float) -> str:
    with tempfile.TemporaryDirectory() as disk, tempfile.TemporaryDirectory(dir=MEMORY) as memory:
        folder = Path(memory)
        rust = in_rust(folder)
        hit = traced_hits(folder, rounds)
        together_ns = all_threads_ns(folder / "all", rounds)
        kept_up = {"seconds": seconds, **sustained(folder, seconds)}
        disks = {MEMORY: disk_mb_s(folder), "the disk (page cache)": disk_mb_s(Path(disk))}
        lines = [
            TITLE,
            "",
            *description("benches.trace", ["orjson"]),
            f"- How: one process, {rounds} interleaved rounds of 2,000 hits, files in {MEMORY}; "
            "thread CPU time, medians; the journal is drained between samples.",
            "- `tracing-appender` gets its line ready made; formatting is not in its figure.",
            "",
            *figure_lines(hit, kept_up, recovery_s(folder)),
            *hit_lines(hit, together_ns, rust),
            *long_run_lines(kept_up, disks),
            *tail_lines(tails(folder)),
            LIMITS,
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    publish(section, __doc__, rounds=ROUNDS, seconds=10.0)
