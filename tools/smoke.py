"""What an installed wheel has to do, run by ``tools.try_wheel`` where nothing else is installed.

It imports nothing of this repository, and is run with ``python -I`` from an empty folder.
"""

import sys
import tempfile
import threading
import time
from itertools import count
from pathlib import Path

import forwardcache
from forwardcache.instrumentation import BackendInstrumentation
from forwardcache.observe import read_trace


def main() -> None:
    """One miss, one hit, their two lines in the trace, and no package but the standard library."""
    installed = Path(forwardcache.__file__).resolve()
    assert installed.is_relative_to(Path(sys.prefix).resolve()), installed
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder, "trace.jsonl")
        with BackendInstrumentation(trace_path=trace) as inst:
            values = [inst.cached("op", "base", "a prompt", 8, lambda: [1.0]) for _ in range(2)]
            inst.cached_batch("op", "base", ["a prompt", "other"], 8, lambda missed: [[2.0]])
        assert values == [[1.0], [1.0]]
        assert (inst.stats.cache_hits, inst.stats.cache_misses) == (2, 2)
        events = list(read_trace(trace))
        assert [event.hit for event in events] == [False, True, True, False], events
        assert [path.name for path in Path(folder).iterdir()] == ["trace.jsonl"]
    foreign = {name.partition(".")[0] for name in sys.modules} & {"numpy", "torch", "typer", "rich"}
    assert not foreign, foreign


def leave_threads() -> None:
    """Threads that compute for ever, which the interpreter ends with itself; they crash nothing."""
    inst = BackendInstrumentation()

    def forever(view_id: str) -> None:
        for number in count():
            inst.cached("op", view_id, "a prompt", number, lambda: [view_id])

    for view_id in "abcdefgh":
        threading.Thread(target=forever, args=(view_id,), daemon=True).start()
    time.sleep(0.02)


if __name__ == "__main__":
    main()
    leave_threads()
