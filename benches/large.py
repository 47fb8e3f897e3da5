"""A million entries: ``python -m benches.large``.

The questions: what does a hit cost when nothing of the cache is in the processor's, and how much
memory does an entry take beside its key and its value? Prompts are asked for in a random order, and
every contender holds all of them. And how long can one put take, while the interpreter is held?
"""

import gc
import statistics
import time
from pathlib import Path
from random import Random

from benches import cases, contenders
from benches.contenders import LRU_CACHE, OURS, PLAIN
from benches.machine import description
from benches.measure import Samples, interleaved
from benches.sections import Line, publish, table
from forwardcache.instrumentation import BackendInstrumentation

TITLE = "## The core: a million entries"
ENTRIES, ASKED, ROUNDS = 1_000_000, 100_000, 9
MOST_ENTRY_BYTES = 300
PUTS, PUT_ROUNDS = 20_000, 3
# Of 2^20 places a table of the usual kind fills seven eighths, and then makes itself anew.
NEARLY_FULL = 900_000


def hits(entries: int, rounds: int) -> Samples:
    """Hits in random order among ``entries`` that are all there."""
    prompts = [cases.text(number, 40) for number in range(entries)]
    loops = {name: contenders.single(name, entries) for name in (OURS, PLAIN, LRU_CACHE)}
    for loop in loops.values():
        loop(prompts)
    random = Random(1)
    return interleaved(loops, lambda: random.choices(prompts, k=ASKED), rounds)


def resident_bytes() -> int:
    """Bytes of this process that are in memory."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def bytes_an_entry(entries: int) -> float:
    """Bytes of memory that an entry takes beside its prompt, which is alive before, and value."""
    prompts = [cases.text(number, 40) for number in range(entries)]
    value = object()
    inst = BackendInstrumentation(cache_maxsize=None)
    gc.collect()
    before = resident_bytes()
    for prompt in prompts:
        inst.cached("next_token_dist", "base", prompt, 256, lambda: value)
    return (resident_bytes() - before) / entries


def longest_put_ms(entries: int, most: int) -> float:
    """Milliseconds of the longest of many puts among ``entries``, a third of them used again.

    Args:
        entries: How many there are before.
        most: Entries that the cache takes.
    """
    inst = BackendInstrumentation(cache_maxsize=most)
    prompts = [cases.text(number, 40) for number in range(entries)]
    loop = contenders.instrumented(inst)
    loop(prompts)
    loop(prompts[::3])
    new = [cases.text(number, 40) for number in range(entries, entries + PUTS)]
    gc.collect()
    gc.disable()
    try:
        return max(put_ns(inst, prompt) for prompt in new) / 1e6
    finally:
        gc.enable()


def put_ns(inst: BackendInstrumentation, prompt: str) -> int:
    cached, compute, clock = inst.cached, contenders.compute, time.thread_time_ns
    began = clock()
    cached(cases.OP, cases.VIEW_ID, prompt, cases.TOP_K, compute)
    return clock() - began


def put_lines(entries: int) -> list[Line]:
    """Where each put evicts, at both sizes, and where the table has to grow."""
    kinds = [
        (f"{entries:,} entries, each evicts another", entries, entries),
        (f"{NEARLY_FULL:,} entries, each evicts another", NEARLY_FULL, NEARLY_FULL),
        (f"{NEARLY_FULL:,} entries, {entries:,} allowed", NEARLY_FULL, entries),
    ]
    return [
        Line(
            f"longest of {PUTS:,} puts at {name}, after a third was used again", "0.5", "0.1",
            statistics.median(longest_put_ms(there, most) for _ in range(PUT_ROUNDS)),
            "66 ms", " ms",
        )
        for name, there, most in kinds
    ]  # fmt: skip


def section(entries: int, rounds: int) -> str:
    size = bytes_an_entry(entries)
    samples = hits(entries, rounds)
    ratio = samples.ratio(OURS, to=LRU_CACHE)
    figures = [
        Line("hit beside `functools.lru_cache`", "1.0", "", ratio, unit=" x"),
        Line("memory of an entry beside its prompt and value", str(MOST_ENTRY_BYTES), "", size,
             unit=" B"),
        *put_lines(entries),
    ]  # fmt: skip
    lines = [
        TITLE,
        "",
        *description("benches.large", []),
        f"- How: {entries:,} entries, {rounds} interleaved rounds of {ASKED:,} hits in random "
        f"order, thread CPU time, medians; of the longest put, medians of {PUT_ROUNDS} caches.",
        "",
        *table(figures),
        "",
        f"Nanoseconds a hit: {samples.ns(OURS):.0f}; `functools.lru_cache` "
        f"{samples.ns(LRU_CACHE):.0f}; the plain-Python model {samples.ns(PLAIN):,.0f}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    publish(section, __doc__, entries=ENTRIES, rounds=ROUNDS)
