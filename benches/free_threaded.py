"""Measures two threads on an interpreter without a GIL: ``python -m benches.free_threaded``.

The question: what do two threads that ask for different keys of one instrumentation get done beside
one thread, and how does that compare with two threads that make an empty native call? Only wall
time answers it, so a machine that is busy otherwise answers worse than the truth.
"""

import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

from benches.machine import description
from benches.sections import publish
from forwardcache import _core
from forwardcache.instrumentation import BackendInstrumentation

TITLE = "## Without a GIL: two threads"
NOTES = """\
By the code, not measured apart: two threads that call one function object count references at it,
as in the empty call; an instrumentation's `cached`, once fetched by each thread, has an object for
each. On a hit two threads of one instrumentation change nothing that both use: each counts for
itself. A miss and its eviction do: the cache's room, its order and its flights.
"""
KEYS, CALLS = 64, 6_400
THREADS = (1, 2)

Work = Callable[[int], None]
"""What a thread does, by its number."""


def compute() -> object:
    return object()


def hits(instrumentations: list[BackendInstrumentation], number: int) -> None:
    """Hits of keys that are this thread's alone."""
    cached = instrumentations[number % len(instrumentations)].cached
    prompts = [f"prompt {key} of thread {number}" for key in range(KEYS)]
    for _ in range(CALLS // KEYS):
        for prompt in prompts:
            cached("op", "view", prompt, 8, compute)


def misses(inst: BackendInstrumentation, number: int) -> None:
    """Misses, each of which evicts an older entry."""
    cached, began = inst.cached, time.perf_counter_ns()
    for call in range(CALLS):
        cached("op", "view", f"{number} {began} {call}", 8, compute)


def empty_calls(number: int) -> None:
    """Native calls of the same arguments that do nothing."""
    empty, prompts = _core._empty_call, [f"prompt {key} of thread {number}" for key in range(KEYS)]
    for _ in range(CALLS // KEYS):
        for prompt in prompts:
            empty("op", "view", prompt, 8, compute)


def contenders() -> dict[str, Work]:
    shared, each = BackendInstrumentation(), [BackendInstrumentation() for _ in THREADS]
    return {
        "an empty native call": empty_calls,
        "a hit, one instrumentation": partial(hits, [shared]),
        "a hit, an instrumentation a thread": partial(hits, each),
        "a miss, one instrumentation": partial(misses, BackendInstrumentation()),
    }


def seconds(work: Work, threads: int) -> float:
    """Wall time from the first thread's beginning to the last one's end."""
    ready, times = threading.Barrier(threads), list[tuple[float, float]]()

    def run(number: int) -> None:
        ready.wait()
        began = time.perf_counter()
        work(number)
        times.append((began, time.perf_counter()))

    running = [threading.Thread(target=run, args=(number,)) for number in range(threads)]
    for thread in running:
        thread.start()
    for thread in running:
        thread.join()
    return max(ended for _, ended in times) - min(began for began, _ in times)


@dataclass
class Rates:
    """Calls a second of all threads together, round by round, by the number of threads."""

    of: dict[int, list[float]] = field(default_factory=lambda: {count: [] for count in THREADS})

    def median(self, threads: int) -> float:
        return statistics.median(self.of[threads])

    @property
    def gain(self) -> float:
        """What two threads get done beside one: the median of the rounds' own ratios."""
        pairs = zip(self.of[2], self.of[1], strict=True)
        return statistics.median(two / one for two, one in pairs)

    @property
    def best(self) -> float:
        """The gain of the tenth of the rounds that was disturbed least."""
        one, two = (statistics.quantiles(self.of[threads], n=10)[-1] for threads in THREADS)
        return two / one


def measured(rounds: int) -> dict[str, Rates]:
    works = contenders()
    rates = {name: Rates() for name in works}
    for work in works.values():
        seconds(work, max(THREADS))
    for number in range(rounds):
        names = list(works)
        for name in names[number % len(names) :] + names[: number % len(names)]:
            for threads in THREADS:
                took = seconds(works[name], threads)
                rates[name].of[threads].append(threads * CALLS / took)
    return rates


def section(rounds: int) -> str:
    rows = [
        f"| {name} | {rates.median(1) / 1e6:.2f} | {rates.median(2) / 1e6:.2f} "
        f"| {rates.gain:.2f} x | {rates.best:.2f} x |"
        for name, rates in measured(rounds).items()
    ]
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.free_threaded", []),
            f"- How: {rounds} interleaved rounds of {CALLS:,} calls a thread, wall time, medians; "
            "each thread has keys of its own. Other work on the machine makes two threads look "
            "worse: the last column sets the best tenth of the rounds of both beside each other.",
            "",
            "| M calls a second | one thread | two threads | gain | gain, best tenth |",
            "|---|---|---|---|---|",
            *rows,
            "",
            NOTES,
        ]
    )


if __name__ == "__main__":
    if getattr(sys, "_is_gil_enabled", lambda: True)():
        sys.exit("this interpreter has a GIL: tools/free_threaded.sh makes one without")
    publish(section, __doc__, rounds=201)
