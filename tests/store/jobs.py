"""What the processes of ``tests.trace.fork_server`` do with a store.

Process ``p`` puts batches of its own numbers, ``FIRST * p`` and on, so whatever a store holds tells
who has put it and when.
"""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from forwardcache.store import schema, sqlite
from forwardcache.store.sqlite import SQLiteStore
from tests.store.test_sqlite import key_of, record_of, right
from tests.trace.jobs import armed, leave_no_core, report_calls
from tests.trace.progress import Phase, Progress

BATCH = 5
FIRST = 1_000_000
LONG_S = 5.0


def batch(process: int, number: int) -> range:
    """The numbers of a process's batch."""
    start = process * FIRST + number * BATCH
    return range(start, start + BATCH)


def put(*, path: str, progress: str, process: int, batches: int) -> None:
    """Puts batches one by one, says which of them have returned, and closes."""
    leave_no_core()
    said = Progress(Path(progress))
    store = SQLiteStore(path)
    said.phase = Phase.WORKING
    for number in itertools.islice(itertools.count(), batches):
        assert store.put_many([record_of(each) for each in batch(process, number)]) == BATCH
        said.count(0, number + 1)
    said.phase = Phase.CLOSING
    store.close()
    said.phase = Phase.DONE


def look(*, path: str, progress: str) -> None:
    """Opens what others left, looks through it and closes it."""
    said = Progress(Path(progress))
    said.phase = Phase.WORKING
    store = SQLiteStore(path)
    assert store.verify().damaged == 0
    store.close()
    said.phase = Phase.DONE


def put_with_fault(*, path: str, fault: dict[str, Any], report: str, puts: int) -> None:
    """Puts values while a call of the system fails, and reports which of them were kept."""
    said: dict[str, Any] = {"refused": None, "kept": []}
    # The time that another process is given isn't what is tried here.
    for module in (schema, sqlite):
        module.BUSY_S = 0.1  # type: ignore[attr-defined]
    records = [record_of(number) for number in range(puts)]
    shim = armed(Path(path).parent, fault)
    try:
        store = SQLiteStore(path)
    except OSError as error:
        said["refused"] = str(error)
    else:
        took_s = []
        for number in range(puts):
            began = time.monotonic()
            said["kept"] += [number] * store.put_many([records[number]])
            took_s.append(time.monotonic() - began)
        said["waits"] = sum(each > LONG_S for each in took_s)
        right(store.get_many([key_of(number) for number in range(puts)]), range(puts))
        said["errors"] = store.info().errors
        store.close()
    report_calls(shim, said, report)
