"""A million entries: ``python -m benches.large``.

The question: what does a hit cost when nothing of the cache is in the processor's, and how much
memory does an entry take beside its key and its value? Prompts are asked for in a random order, and
every contender holds all of them.
"""

import argparse
import gc
from pathlib import Path
from random import Random

from benches import cases, contenders
from benches.contenders import LRU_CACHE, OURS, PLAIN
from benches.machine import description, refuse_debug_build
from benches.measure import Samples, interleaved
from benches.run import verdict
from benches.sections import write_section
from forwardcache.instrumentation import BackendInstrumentation

TITLE = "## The core: a million entries"
ENTRIES, ASKED, ROUNDS = 1_000_000, 100_000, 9
MOST_ENTRY_BYTES = 300


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


def section(entries: int, rounds: int) -> str:
    size = bytes_an_entry(entries)
    samples = hits(entries, rounds)
    ratio = samples.ratio(OURS, to=LRU_CACHE)
    lines = [
        TITLE,
        "",
        *description("benches.large", []),
        f"- How: {entries:,} entries, {rounds} interleaved rounds of {ASKED:,} hits in random "
        "order, thread CPU time, medians.",
        "",
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        f"| hit beside `functools.lru_cache` | at most 1.0 x | {ratio:.2f} x | "
        f"{verdict(ratio <= 1.0)} |",
        f"| memory of an entry beside its prompt and value | at most {MOST_ENTRY_BYTES} B | "
        f"{size:.0f} B | {verdict(size <= MOST_ENTRY_BYTES)} |",
        "",
        f"Nanoseconds a hit: {samples.ns(OURS):.0f}; `functools.lru_cache` "
        f"{samples.ns(LRU_CACHE):.0f}; the plain-Python model {samples.ns(PLAIN):,.0f}.",
    ]
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", type=Path, help="the file that gets the section")
    parser.add_argument("--entries", type=int, default=ENTRIES)
    parser.add_argument("--rounds", type=int, default=ROUNDS)
    options = parser.parse_args()
    refuse_debug_build()
    text = section(options.entries, options.rounds)
    print(text)
    if options.write:
        write_section(options.write, text)


if __name__ == "__main__":
    main()
