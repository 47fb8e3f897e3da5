"""Shows two faults of free-threaded CPython 3.13 that this project's tests meet.

``python tools/cpython_faults.py fork`` and ``… untracked``. Neither uses anything of this project.
Both are faults of the interpreter, so nothing here mends them: the tests keep out of their way.
"""

import gc
import os
import sys
import threading
import time
from collections.abc import Callable

FORKS, STEPS = 1_000, 50
"""Of `fork`: how many children, and how often each of them uses what the threads fight over."""
PATIENCE_S = 5.0


def fork() -> int:
    """A forked child waits for ever for the lock of an object that its parent's threads fought for.

    Every dict, list and cell has a lock. One that a thread has waited for is handed to it while it
    still sleeps, and it wakes only to find the world stopped for the fork: in the child the lock is
    held by a thread that isn't there. CPython opens locks of its own after a fork, but not these.
    Seen in one of about 150 forks; a closure's variable does as well as the dict here.
    """
    counts, stop = dict.fromkeys(range(4), 0), threading.Event()

    def count(number: int) -> None:
        while not stop.is_set():
            counts[number] += 1

    threads = [threading.Thread(target=count, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    hung = 0
    for _ in range(FORKS):
        time.sleep(0.002)
        child = os.fork()
        if child == 0:
            for _ in range(STEPS):
                counts[3] += 1
            os._exit(0)
        hung += hangs(child)
    stop.set()
    print(f"{hung} of {FORKS} forked children hung")
    return hung


def hangs(child: int) -> bool:
    """Whether a child doesn't end; it is gone afterwards."""
    give_up = time.monotonic() + PATIENCE_S
    while not os.waitpid(child, os.WNOHANG)[0]:
        if time.monotonic() > give_up:
            os.kill(child, 9)
            os.waitpid(child, 0)
            return True
        time.sleep(0.001)
    return False


def untracked() -> int:
    """The collector runs once in 2,000 new containers, however many there are.

    It means to wait for a quarter as many new ones as are alive, but leaves out of its count those
    that it doesn't track: tuples of numbers and texts, and dicts of such values, as a line of JSON
    is. Each run walks over all of them, so to make n takes time in the order of n * n. Mended in
    3.14 (python/cpython#142531); `gc.set_threshold(100_000)` makes it bearable before.
    """
    makers: dict[str, Callable[[int], object]] = {
        "tracked": lambda number: ([number],),
        "untracked": lambda number: (number,),
    }
    for kind, make in makers.items():
        for count in (50_000, 400_000):
            before, began = collections(), time.perf_counter()
            kept = [make(number) for number in range(count)]
            seconds, runs = time.perf_counter() - began, collections() - before
            print(f"{len(kept):9,} {kind} tuples: {seconds:5.2f} s, {runs} runs of the collector")
            del kept
            gc.collect()
    return runs


def collections() -> int:
    """How often the collector has run."""
    return sum(generation["collections"] for generation in gc.get_stats())


FAULTS: dict[str, Callable[[], int]] = {"fork": fork, "untracked": untracked}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(FAULTS)
    if not FAULTS.keys() >= set(chosen):
        sys.exit(f"which of {', '.join(FAULTS)}? got {' '.join(chosen)}")
    for name in chosen:
        FAULTS[name]()
