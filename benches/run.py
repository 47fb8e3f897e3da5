"""Measures the core beside its peers and writes the tables: ``python -m benches.run``.

The question: what does a cached, counted, traced lookup cost beside a plain memoizing cache, and
beside the same API in plain Python? A comparison with the plain-Python model is void unless the
model is a fair one: its own hit has to cost 15 to 30 times that of ``functools.lru_cache``.
"""

import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benches import cases, contenders
from benches.contenders import LRU_CACHE, OURS, PLAIN, Loop
from benches.machine import description
from benches.measure import Samples, interleaved
from benches.sections import publish, verdict

TITLE = "## The core: hit, traced hit, miss, batch"
# Beside the figures: where the time goes, and what was tried.
NOTES = """\
Of a hit's time the two readings of the clock take 33 ns (with a count in their place a hit took
64 ns instead of 97); `functools.lru_cache` neither counts nor measures. Instructions of a hit, by
callgrind (`benches/callgrind.sh`): 1,454 before the first of these, 938 now, 1,257 of `lru_cache`,
each with the loop and the interpreter's share (379).

- Kept: `cached` is entered by CPython's vectorcall, with pyo3's way in behind it for unusual
  arguments (200 instructions, 12 ns); uses are counted under a GIL instead of timed, and a miss
  reads the clock twice instead of five times (60 ns a miss, 3 ns a prompt of a batch); flights lie
  in one table without lists (a miss 60 instructions); the shares of op, view, `top_k` and scope in
  the hash are remembered by identity (95); what is found goes back in registers, and a traced hit
  has a way of its own (50); two `str` are compared by `PyUnicode_RichCompare` itself (a fresh one
  6 ns).
- Without effect: `inline(always)` on the whole way of a hit; counters without locked instructions.
  To fetch the entries of the next sixteen prompts of a batch at once cost 4 to 8 ns a prompt more.
- A fresh `str` is hashed and compared by CPython here as there (29 ns at 40 B). In `lru_cache` most
  of that runs beside the interpreter's own work; here it stands between two readings of the clock,
  without which 400 B took 205 ns instead of 240 (`lru_cache`: 235).
  A hash of our own would be faster from 4 KB on, and was left: DESIGN.md, "The cache".
- A miss: flights that nobody waits for make nothing to wait with (100 ns), evictions are
  remembered in two sets instead of a queue and a map (100 ns), a list of freed chains keeps its
  memory (30 ns).
"""

EVERYBODY = [OURS, PLAIN, *contenders.PEERS]
FAIR_MODEL = (15.0, 30.0)
ROUNDS = 51

Table = dict[str, Samples]
"""One column a prompt size."""


def hits(again: cases.Again, rounds: int) -> Table:
    return {
        label: interleaved(
            {name: contenders.single(name, cases.CAPACITY) for name in EVERYBODY},
            again(size),
            rounds,
        )
        for label, size in cases.SIZES.items()
    }


def batches(again: cases.Again, rounds: int) -> Table:
    return {
        label: interleaved(
            {name: contenders.batch(name, 2 * cases.BATCH) for name in EVERYBODY},
            again(size),
            max(5, rounds // 3),
        )
        for label, size in cases.SIZES.items()
    }


def traced_hits(again: cases.Again, rounds: int) -> Table:
    with tempfile.TemporaryDirectory() as folder:
        return {
            label: interleaved(traced_loops(Path(folder)), again(size), rounds)
            for label, size in cases.SIZES.items()
        }


def traced_loops(folder: Path) -> dict[str, Loop]:
    loops = {
        name: contenders.traced(name, folder / f"{name}.jsonl")
        for name in contenders.INSTRUMENTATIONS
    }
    loops["one `write` of a line"] = contenders.line_write(folder / "lines")
    return loops


def floors(rounds: int) -> Samples:
    loops = {OURS: contenders.single(OURS, cases.CAPACITY), **contenders.FLOORS}
    return interleaved(loops, cases.same(40), rounds)


def import_ms() -> float:
    """Milliseconds that the import takes beyond the interpreter's own start."""
    program = (
        "import time; began = time.perf_counter(); import forwardcache.instrumentation;"
        "print((time.perf_counter() - began) * 1e3)"
    )
    command = [sys.executable, "-c", program]
    return statistics.median(float(subprocess.check_output(command)) for _ in range(11))


# Markdown


def table_lines(title: str, table: Table) -> list[str]:
    names = list(next(iter(table.values())).of)
    lines = [f"### {title}", "", f"| ns a prompt | {' | '.join(table)} |"]
    lines.append("|---" * (len(table) + 1) + "|")
    for name in names:
        cells = [cell(samples, name) for samples in table.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return [*lines, ""]


def cell(samples: Samples, name: str) -> str:
    nanoseconds = f"{samples.ns(name):,.0f}"
    return nanoseconds if name == OURS else f"{nanoseconds} ({samples.ratio(name, OURS):.3g} x)"


def floor_lines(samples: Samples) -> list[str]:
    lines = ["### Floor of a call, 40 B", "", "| | ns |", "|---|---|"]
    lines += [f"| {name} | {samples.ns(name):.0f} |" for name in samples.of]
    return [*lines, ""]


def figure_lines(same: Table, fresh: Table, new: Table, batch: Table) -> list[str]:
    small, model = same["40 B"], same["40 B"].ratio(PLAIN, LRU_CACHE)
    is_fair = FAIR_MODEL[0] <= model <= FAIR_MODEL[1]

    def worst(table: Table) -> float:
        return max(samples.ratio(OURS, LRU_CACHE) for samples in table.values())

    lines = ["| figure | asked | measured | |", "|---|---|---|---|"]
    lines.append(
        f"| the model's own hit beside `functools.lru_cache` | 15 to 30 x | {model:.1f} x | "
        f"{'fair' if is_fair else 'void'} |"
    )
    for name, measured, most in (
        ("hit, same `str`, the worst length", worst(same), 1.0),
        ("hit, fresh equal `str`, the worst length", worst(fresh), 1.0),
        ("miss, insert and evict at 40 B", new["40 B"].ratio(OURS, LRU_CACHE), 3.5),
    ):
        lines.append(
            f"| {name}, beside `functools.lru_cache` | at most {most} x | {measured:.2f} x | "
            f"{verdict(measured <= most)} |"
        )
    for name, measured, least in (
        ("hit at 40 B", small.ratio(PLAIN, OURS), 22),
        ("hit at 64 KB", same["64 KB"].ratio(PLAIN, OURS), 300),
        ("miss, insert and evict at 40 B", new["40 B"].ratio(PLAIN, OURS), 4),
        ("batch of 1024 hits at 40 B", batch["40 B"].ratio(PLAIN, OURS), 40),
    ):
        said = verdict(measured >= least) if is_fair else "void"
        lines.append(
            f"| {name}, times as fast as the model | at least {least} | {measured:.3g} | {said} |"
        )
    took_ms = import_ms()
    lines.append(
        f"| `import forwardcache` | under 50 ms | {took_ms:.1f} ms | {verdict(took_ms < 50)} |"
    )
    return [*lines, ""]


def section(rounds: int) -> str:
    same, fresh, new = (hits(each, rounds) for each in (cases.same, cases.fresh, cases.new))
    batch = batches(cases.same_batch, rounds)
    return "\n".join(
        [
            TITLE,
            "",
            *description(),
            f"- How: one process, {rounds} interleaved rounds (a third of them for batches), "
            "thread CPU time, medians.",
            "- In brackets: how many times forwardcache's time it takes, the median of the "
            "rounds' ratios.",
            "- The other caches neither count nor trace; what they do in threads of their own is "
            "not measured.",
            "",
            *figure_lines(same, fresh, new, batch),
            NOTES,
            *table_lines("Hit, the same `str` object", same),
            *table_lines("Hit, a fresh equal `str`", fresh),
            *table_lines("Traced hit, the same `str` object", traced_hits(cases.same, rounds)),
            *table_lines("Traced hit, a fresh equal `str`", traced_hits(cases.fresh, rounds)),
            *table_lines("Miss, insert and evict", new),
            *table_lines("Batch of 1024 hits, the same objects", batch),
            *table_lines("Batch of 1024 hits, fresh ones", batches(cases.fresh_batch, rounds)),
            *floor_lines(floors(rounds)),
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, rounds=ROUNDS)
