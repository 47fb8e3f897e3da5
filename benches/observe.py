"""Measures reading and the curve: ``python -m benches.observe``.

The questions: how many events a second does ``read_trace`` give out from a file in the page cache,
compared with the JSON module alone on the same lines? And how long does the curve of ten million
take?
"""

import json
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from benches.machine import description
from benches.sections import publish, verdict
from forwardcache.observe import TraceLine, miss_ratio_curve, read_trace

TITLE = "## Traces: reading them"
LEAST_EVENTS_A_SECOND = 500_000
MOST_CURVE_S = 10.0
EVENTS_HELD = 200_000
MOST_REPORT_S = 10.0
MOST_REPORT_MB = 500


def fields(rng: random.Random, seq: int, keys: int) -> dict[str, Any]:
    key = int(keys * rng.random() ** 2)
    return {
        "ts": 1763701140.25 + seq * 1e-3, "probe": f"probe-{seq * 7 // 1_000_000}",
        "view_id": "ft" if key % 2 else "base", "prompt_hash": f"{key:012x}", "top_k": 64,
        "op": "next_token_dist", "wall_ms": rng.random() * 20, "hit": rng.random() < 0.6,
        "run": "5d3f0c1e8b7a9624", "thread": 0, "seq": seq, "key": f"{key:016x}",
        "batch": seq // 16, "batch_size": 16, "batch_wall_ms": 44.0, "bytes": 2048,
    }  # fmt: skip


def write_trace(path: Path, events: int, keys: int) -> None:
    rng = random.Random(0)
    with path.open("w") as file:
        for seq in range(events):
            file.write(json.dumps(fields(rng, seq, keys)) + "\n")


def seconds_to_read(path: Path) -> float:
    begin = time.perf_counter()
    for _ in read_trace(path):
        pass
    return time.perf_counter() - begin


def seconds_of_json(path: Path) -> float:
    begin = time.perf_counter()
    with path.open("rb") as file:
        for line in file:
            json.loads(line)
    return time.perf_counter() - begin


def uses(path: Path, repeats: int) -> Iterator[TraceLine]:
    """Events that are read once: the time of reading isn't that of the curve."""
    events = list(islice(read_trace(path), EVENTS_HELD))
    for _ in range(repeats):
        yield from events


def seconds_of_curve(path: Path, repeats: int) -> float:
    stream = uses(path, repeats)
    first = next(stream)
    begin = time.perf_counter()
    miss_ratio_curve(stream)
    assert first.key
    return time.perf_counter() - begin


def cost_of_report(path: Path) -> tuple[float, float]:
    """Seconds, and megabytes at most, of the command in a process of its own."""
    begin = time.perf_counter()
    page = str(path.with_suffix(".html"))
    subprocess.run(
        [sys.executable, "-m", "forwardcache", "report", path, "--out", page], check=True
    )
    seconds = time.perf_counter() - begin
    return seconds, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6


def section(events: int, curve_events: int) -> str:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "trace.jsonl")
        write_trace(path, events, events // 10)
        report_s, report_mb = cost_of_report(path)
        seconds_to_read(path)
        rate = events / min(seconds_to_read(path) for _ in range(5))
        plain = events / min(seconds_of_json(path) for _ in range(5))
        curve_s = seconds_of_curve(path, curve_events // EVENTS_HELD)
    lines = [
        TITLE,
        "",
        *description("benches.observe", ["polars", "matplotlib"]),
        "",
        "| question | figure | bound | |",
        "|---|---|---|---|",
        f"| `read_trace`, events a second | {rate:,.0f} | at least {LEAST_EVENTS_A_SECOND:,} | "
        f"{verdict(rate >= LEAST_EVENTS_A_SECOND)} |",
        f"| `json.loads` alone on the same lines | {plain:,.0f} | | |",
        f"| `report` of {events:,} events, s | {report_s:.1f} | under "
        f"{MOST_REPORT_S:.0f} (for 1,000,000) | {verdict(report_s < MOST_REPORT_S)} |",
        f"| its memory, MB | {report_mb:,.0f} | under {MOST_REPORT_MB} (for 1,000,000) | "
        f"{verdict(report_mb < MOST_REPORT_MB)} |",
        f"| curve of {curve_events:,} uses, s | {curve_s:.1f} | under {MOST_CURVE_S:.0f} "
        f"(for 10,000,000) | {verdict(curve_s < MOST_CURVE_S)} |",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    publish(section, __doc__, events=1_000_000, curve_events=10_000_000)
