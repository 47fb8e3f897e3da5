"""Shows two faults of free-threaded CPython 3.14 that this project's tests meet.

``python tools/cpython_faults.py fork`` and ``… late``. Neither uses anything of this project.
Both are faults of the interpreter, so nothing here mends them: the tests keep out of their way.
"""

import os
import statistics
import sys
import threading
import time
from collections.abc import Callable

FORKS, STEPS = 1_000, 50
"""Of `fork`: how many children, and how often each of them uses what the threads fight over."""
PATIENCE_S = 5.0
WAITS, BUSY = 20, 4
"""Of `late`: how many waits, and how many processes a core want the processor meanwhile."""


def fork() -> None:
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


def late() -> None:
    """On a busy machine a thread sees a lock free long after it is, and so an event, or an end.

    A thread that finds a lock held gives its processor away 40 times before it sleeps, and looks at
    the lock again only then (`_PyMutex_LockTimed`; python/cpython#135871, still so in 3.14.7). Each
    time costs nothing on an idle machine, and on a busy one what others run in one go.
    """
    print(f"an event is seen after {waits_ms():6.2f} ms")
    children = [busy() for _ in range(BUSY * (os.cpu_count() or 1))]
    print(f"an event is seen after {waits_ms():6.2f} ms beside {len(children)} busy processes")
    for child in children:
        os.kill(child, 9)
        os.waitpid(child, 0)


def busy() -> int:
    """A process that wants the processor until it is killed."""
    child = os.fork()
    while child == 0:
        pass
    return child


def waits_ms() -> float:
    """The median time from the setting of an event to its being seen, in milliseconds."""
    times = []
    for _ in range(WAITS):
        event, happened = threading.Event(), list[float]()

        def happen(event: threading.Event = event, happened: list[float] = happened) -> None:
            happened.append(time.perf_counter())
            event.set()
            time.sleep(0.05)

        thread = threading.Thread(target=happen)
        thread.start()
        event.wait()
        times.append(time.perf_counter() - happened[0])
        thread.join()
    return 1_000 * statistics.median(times)


FAULTS: dict[str, Callable[[], None]] = {"fork": fork, "late": late}

if __name__ == "__main__":
    chosen = sys.argv[1:] or list(FAULTS)
    if not FAULTS.keys() >= set(chosen):
        sys.exit(f"which of {', '.join(FAULTS)}? got {' '.join(chosen)}")
    for name in chosen:
        FAULTS[name]()
