"""Whatever call of the system fails under a store: no exception but at its opening, no wrong value,
and what it said it had kept is there when the fault is over.

Each call that puts make in the store's folder fails in one way, which the seed chooses: seven seeds
in a row try all. ``FORWARDCACHE_FAULT_PUTS`` makes the run longer, ``FORWARDCACHE_FAULT_EVERY`` and
``FORWARDCACHE_FAULT_FIRST`` take only some of its calls. Not checked here: faults of reading.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import pytest

from forwardcache.store.sqlite import SQLiteStore
from tests import proof
from tests.store.test_sqlite import key_of, right
from tests.trace import faults
from tests.trace.fork_server import ForkServer
from tests.trace.test_faults import WAYS

PUTS = proof.knob("FAULT_PUTS", 3)
FIRST, EVERY = proof.knob("FAULT_FIRST", 1), proof.knob("FAULT_EVERY", 1)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A server whose processes can be given faults of the system."""
    shim = faults.built_shim(tmp_path_factory.mktemp("shim"))
    with ForkServer({"LD_PRELOAD": str(shim)}, jobs="tests.store.jobs") as server:
        yield server


def test_a_fault_gives_no_wrong_value_and_takes_none_that_was_kept(
    faulty: ForkServer, tmp_path: Path
) -> None:
    path = tmp_path / "0" / "values.db"
    path.parent.mkdir()
    said = faults.run(faulty, "put_with_fault", path, faults.Fault(), puts=PUTS)
    assert said["kept"] == list(range(PUTS))
    assert {"open", "pwrite", "fcntl", "mmap"} <= set(said["calls"]), "the layer sees no calls"
    lost = 0
    for call in range(FIRST, len(said["calls"]) + 1, EVERY):
        fault = faults.Fault(call, *WAYS[(call + proof.SEED) % len(WAYS)])
        lost += PUTS - len(check(faulty, tmp_path / str(call), fault))
        proof.done["fault points"] += 1
    assert lost > 0, "a fault keeps some value from being kept"


def test_a_lock_that_can_not_be_given_back_is_waited_for_once(
    faulty: ForkServer, tmp_path: Path
) -> None:
    (tmp_path / "0").mkdir()
    puts = 6
    said = faults.run(faulty, "put_with_fault", tmp_path / "0/values.db", faults.Fault(), puts=puts)
    for call in locks_between_puts(said["calls"]):
        path = tmp_path / str(call) / "values.db"
        path.parent.mkdir()
        fault = faults.Fault(call, errno.EIO, lasting=True)
        said = faults.run(faulty, "put_with_fault", path, fault, puts=puts)
        assert said["waits"] <= 1, f"{said['waits']} puts of {puts} were long, with {fault}"


def locks_between_puts(calls: list[str]) -> list[int]:
    """Numbers of the calls by which one put gives its locks back and the next takes its own.

    Between puts after which there are more.
    """
    runs = [
        [number for number, _ in run] for _, run in groupby(enumerate(calls, 1), lambda x: x[1])
    ]
    return [run for run in runs if calls[run[0] - 1] == "fcntl" and len(run) > 4][-3]


def check(faulty: ForkServer, folder: Path, fault: faults.Fault) -> list[int]:
    """The numbers of the values that the store said it had kept."""
    folder.mkdir()
    path = folder / "values.db"
    said = faults.run(faulty, "put_with_fault", path, fault, puts=PUTS)
    kept: list[int] = said["kept"]
    try:
        store = SQLiteStore(path)
        found = store.get_many([key_of(number) for number in range(PUTS)])
        assert right(found, range(PUTS)) == len(found)
        missing = [number for number in kept if key_of(number) not in found]
        assert not missing, f"{missing} were kept and are not there"
        assert (store.info().entries, store.info().damaged) == (len(found), 0)
        assert len(kept) == PUTS or said["refused"] or said["errors"] > 0, "a failure is counted"
        store.close()
    except Exception as error:
        error.add_note(str(fault))
        raise
    return kept
