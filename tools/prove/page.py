"""PROOF.md, made from the state alone."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from tools.prove.parts import Part, Way
from tools.prove.state import Chunk, History, units_of

HEAD = """\
# Proof

Written by `make prove` alone, from what its chunks reported: see
[The long proof](CONTRIBUTING.md#the-long-proof). A chunk is one run of one command with a seed of
its own; it counts if it exits with 0 and its sources are those of this commit.
"""


def page(history: History, parts: Sequence[Part]) -> str:
    """The whole page."""
    lines = [HEAD, *_circumstances(history), "", *_table(history, parts), ""]
    lines += ["## What each row says", "", *_claims(history, parts)]
    lines += ["## By command", "", *_ways(history, parts), ""]
    lines += ["## Failures", "", *_failures(history), ""]
    return "\n".join(lines)


def _circumstances(history: History) -> Iterator[str]:
    processors = f"{os.cpu_count()} processors"
    yield f"- Machine: {_processor()}, {processors}, {_memory()}; {platform.platform()}"
    yield f"- Python {platform.python_version()}, {_said_by('rustc', '--version')}"
    yield f"- Commit: {history.commit}"
    days = sorted(chunk.began[:10] for chunk in history.chunks)
    yield f"- Chunks of {days[0]} to {days[-1]}" if days else "- No chunk yet"
    yield f"- Written {datetime.now(UTC):%Y-%m-%d %H:%M} UTC"


def _table(history: History, parts: Sequence[Part]) -> Iterator[str]:
    columns = (
        "property | unit | done | `make test` | `make prove` | chunks | seeds | s | exit codes"
    )
    yield f"| {columns} |"
    yield "|---|---|---:|---:|---:|---:|---|---:|---|"
    for part in parts:
        chunks = history.of(part)
        tested, goal = part.words
        yield _row(
            part.name,
            part.unit,
            f"{history.done(part):,}",
            tested or f"{part.tested:,}",
            goal or ("each once" if part.goal is None else f"{part.goal:,}"),
            *_figures(chunks),
        )


def _figures(chunks: Sequence[Chunk]) -> tuple[str, ...]:
    seconds = sum(chunk.seconds for chunk in chunks)
    return (
        str(len(chunks)),
        ranges(chunk.seed for chunk in chunks),
        f"{seconds:,.0f}",
        ", ".join(f"{code}" for code in sorted({chunk.exit for chunk in chunks})) or "-",
    )


def _claims(history: History, parts: Sequence[Part]) -> Iterator[str]:
    for part in parts:
        yield f"- **{part.name}**: {part.claim} {_standing(history, part)}"
    yield ""


def _standing(history: History, part: Part) -> str:
    done = history.done(part)
    if part.goal is None:
        passed = {chunk.way for chunk in history.passed(part)}
        missing = [way.name for way in part.ways if way.name not in passed]
        return f"Not shown yet: {', '.join(missing)}." if missing else "Shown in full."
    if done >= part.goal:
        return "Shown in full."
    share = f"{100 * done / part.goal:.1f} % of the number of `make prove`"
    enough = done >= part.tested
    return f"Shown to {share}." if enough else f"Only {share}, and less than that of `make test`."


def _ways(history: History, parts: Sequence[Part]) -> Iterator[str]:
    yield "| property | command | reported | chunks | seeds | s | exit codes | commits |"
    yield "|---|---|---|---:|---|---:|---|---|"
    for part in parts:
        for way in part.ways:
            chunks = [chunk for chunk in history.of(part) if chunk.way == way.name]
            yield _row(part.name, *_way(way, chunks, part.unit))


def _way(way: Way, chunks: Sequence[Chunk], first: str) -> tuple[str, ...]:
    units = units_of(chunk for chunk in chunks if not chunk.exit)
    ordered = sorted(units, key=lambda unit: (unit != first, unit))
    reported = ", ".join(f"{units[unit]:,} {unit}" for unit in ordered)
    commits = ", ".join(sorted({chunk.commit[:12] for chunk in chunks}))
    return (way.name, reported or "nothing yet", *_figures(chunks), commits or "-")


def _failures(history: History) -> Iterator[str]:
    failed = history.failed()
    if not failed:
        yield "None."
        return
    yield "| property | command | seed | exit code | commit |"
    yield "|---|---|---:|---:|---|"
    for chunk in failed:
        yield _row(chunk.part, chunk.way, str(chunk.seed), str(chunk.exit), chunk.commit[:12])


def _row(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def ranges(numbers: Iterable[int]) -> str:
    """``1-3, 7`` for 1, 2, 3 and 7."""
    runs = groupby(enumerate(sorted(set(numbers))), key=lambda pair: pair[1] - pair[0])
    ends = [[number for _, number in run] for _, run in runs]
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else f"{run[0]}" for run in ends) or "-"


def _processor() -> str:
    found = re.search(r"^model name\s*: (.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    return found[1] if found else platform.processor() or platform.machine()


def _memory() -> str:
    found = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"))
    return f"{int(found[1]) / 2**20:.0f} GiB" if found else "memory unknown"


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


def _said_by(*command: str) -> str:
    try:
        said = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return f"no {command[0]}"
    return said.strip()


def show(history: History, parts: Sequence[Part]) -> None:
    """The table, for who waits."""
    print(*_table(history, parts), sep="\n", file=sys.stderr)
