"""Measures the core beside its peers and writes the tables: ``python -m benches.run``.

The question: what does a cached, counted, traced lookup cost beside a plain memoizing cache, and
beside the same API in plain Python? A comparison with the plain-Python model is void unless the
model is a fair one: its own hit has to cost 15 to 30 times that of ``functools.lru_cache``.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from benches import cases, contenders
from benches.contenders import LRU_CACHE, OURS, PLAIN, Loop
from benches.machine import description
from benches.measure import Samples, interleaved
from benches.sections import BESIDE, Line, publish, table
from benches.turns import ROOT, in_turn

TITLE = "## The core: hit, traced hit, miss, batch"
# Beside the figures: where the time goes, and what was tried.
NOTES = """\
Of a hit nearly all is the interpreter's call: instructions by callgrind (`benches/callgrind.sh`),
each with the loop and the interpreter's share (379): 1,454 at first, 938 with two readings of the
clock a hit, 1,257 of `lru_cache`, which neither counts nor measures.

- Kept: `cached` is entered by CPython's vectorcall, with pyo3's way in behind it for unusual
  arguments (200 instructions, 12 ns); uses are counted under a GIL instead of timed; the first hit
  is timed and then one in 16, drawn at random (the two readings took 11 to 33 ns of a hit); a hit
  on the very objects of an entry is found by its place, without a hash, a look into the table or a
  comparison (27 ns), and a prompt of a batch by its place after the one before (10 ns); the shares
  of op, view, `top_k` and scope in the hash are remembered by identity; a traced hit has a way of
  its own; two `str` are compared by `PyUnicode_RichCompare` itself (a fresh one 6 ns).
- A long fresh `str` is recognized by eight characters and compared in full, which takes a tenth of
  its hash: 0.15 of `lru_cache` at 4 KB. One of 40 B is hashed and compared by CPython here as
  there, so 40 B is the worst length. Eight characters take as long to read as 40 B to hash; bytes
  of the text can't be read in place by the stable interface.
- Without effect: `inline(always)` on the whole way of a hit; counters without locked instructions.
  To fetch the entries of the next sixteen prompts of a batch at once cost 4 to 8 ns a prompt more;
  to find each of them in the table of places took 58 ns instead of 36, since it has a line of the
  processor's for each key.
- A miss: flights that nobody waits for make nothing to wait with (100 ns), evictions are
  remembered in two sets instead of a queue and a map (100 ns). What a miss reads of those sets is
  fetched while it computes (100 ns, nearly all of it the wait for memory), and what comes of a put
  is handed back without a `bool` among its words, which was copied by loads that waited for the
  stores before (50 ns). Of some 2,300 instructions of the core's, the flight takes 260, storing
  and evicting 510, the two sets 170, `malloc` and `free` 380, the key 120; 470 are the call of
  `compute` with what it counts. Entries in boxes instead of counted pointers, and a list and
  buckets of their own instead of a sorted snapshot and hashbrown, took as long as before (and one
  put no longer takes 66 ms).
"""

EVERYBODY = [OURS, PLAIN, *contenders.PEERS]
FAIR_MODEL = (15.0, 30.0)
ROUNDS = 51
# Processes of each build that take turns.
TURNS = 5
USUAL_SIZES = ("40 B", "400 B", "4 KB")

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


def misses_made_in_the_loop(rounds: int) -> Samples:
    """Misses of prompts that are made where they are looked up."""
    loops = {name: contenders.single(name, cases.CAPACITY) for name in (OURS, LRU_CACHE)}
    return interleaved(loops, cases.made(40), rounds)


@dataclass(frozen=True)
class BusyWriter:
    """A traced hit while its writer works: beside an untraced one, and in a hit's times."""

    beside_untraced: float
    faster_than_plain: float


def with_busy_writer(beside: str) -> BusyWriter:
    """The untraced hit is that of the build at ``beside``, this one's where there is none."""
    sources = [ROOT, *([Path(beside)] if beside else [])]
    taken = in_turn("benches.busy_writer", sources, TURNS)
    rounds = [(ours, other[0]) for ours, other in zip(taken[0], taken[-1], strict=True)]
    return BusyWriter(
        statistics.median(traced / untraced for (_, traced, _), untraced in rounds),
        statistics.median(plain / traced for (_, traced, plain), _ in rounds),
    )


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


@dataclass(frozen=True)
class Measured:
    """What the figures are made of."""

    same: Table
    fresh: Table
    new: Table
    made: Samples
    batch: Table


def figure_lines(of: Measured, beside: str) -> list[str]:
    model = of.same["40 B"].ratio(PLAIN, LRU_CACHE)
    is_fair = FAIR_MODEL[0] <= model <= FAIR_MODEL[1]
    lines = [
        *beside_lru_cache(of),
        *beside_the_model(of, is_void=not is_fair),
        *traced_lines(with_busy_writer(beside), beside, is_void=not is_fair),
        Line("`import forwardcache`", "50", "", import_ms(), unit=" ms"),
    ]
    return [
        f"The plain-Python model's own hit takes {model:.1f} times that of `functools.lru_cache`: "
        f"{'a fair model' if is_fair else 'no fair model'} (15 to 30 times).",
        "",
        *table(lines),
        "",
    ]


def beside_lru_cache(of: Measured) -> list[Line]:
    def worst(table: Table, sizes: Iterable[str]) -> float:
        return max(table[size].ratio(OURS, LRU_CACHE) for size in sizes)

    def line(name: str, must: str, aim: str, today: str, measured: float) -> Line:
        return Line(name, must, aim, measured, today, unit=" x")

    hit = "`cached` hit, same str, 40 B to 4 KB, beside `lru_cache`"
    miss = "miss, insert, evict, fresh str made in the loop, beside `lru_cache` in the same loop"
    made_before = of.new["40 B"].ratio(OURS, LRU_CACHE)
    return [
        line(hit, "0.65", "0.55", "0.85 to 0.9", worst(of.same, USUAL_SIZES)),
        line("the same, 64 KB", "1.0", "", "", worst(of.same, ["64 KB"])),
        line("fresh equal str, worst length", "0.95", "0.8", "1.02", worst(of.fresh, of.fresh)),
        line(miss, "1.2", "1.0", "1.55", of.made.ratio(OURS, LRU_CACHE)),
        line("the same, 40 B, strs made before", "3.5", "", "", made_before),
    ]


def beside_the_model(of: Measured, *, is_void: bool) -> list[Line]:
    def line(name: str, must: str, aim: str, today: str, samples: Samples) -> Line:
        name, times = f"{name}, times the plain-Python model", samples.ratio(PLAIN, OURS)
        return Line(name, must, aim, times, today, " x", at_least=True, is_void=is_void)

    return [
        line("hit at 40 B", "22", "", "", of.same["40 B"]),
        line("hit at 64 KB", "300", "", "", of.same["64 KB"]),
        line("miss, insert, evict at 40 B", "4", "", "", of.new["40 B"]),
        line("batch of 1024 hits", "60", "80", "35 to 50", of.batch["40 B"]),
    ]


def traced_lines(found: BusyWriter, beside: str, *, is_void: bool) -> list[Line]:
    traced = "traced hit, writer running, no draining between samples"
    untraced = f"beside {'today' if beside else 'this build'}'s *untraced* hit"
    times, faster = found.beside_untraced, found.faster_than_plain
    plain = f"{traced}, times the plain model that flushes"
    return [
        Line(f"{traced}, {untraced}", "1.4", "1.1", times, "1.75 to 4.5", " x"),
        Line(plain, "70", "90", faster, "23 to 44", " x", at_least=True, is_void=is_void),
    ]


def section(rounds: int, beside: str) -> str:
    same, fresh, new = (hits(each, rounds) for each in (cases.same, cases.fresh, cases.new))
    batch = batches(cases.same_batch, rounds)
    made = misses_made_in_the_loop(rounds)
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
            f"- Traced hits beside a working writer: {TURNS} processes"
            f"{' of each build, in turn' if beside else ''}, medians.",
            "",
            *figure_lines(Measured(same, fresh, new, made, batch), beside),
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
    publish(section, __doc__, rounds=ROUNDS, beside=BESIDE)
