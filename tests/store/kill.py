"""Kills processes that put into one store, or open it, and looks whether it has what it must have.

As ``tests.trace.kill``, and with its moments: a round puts numbered batches in 1 or 4 processes,
kills them and then some that open what is left. Each batch whose call had returned has to be there,
whole and right; the one under way is there as a whole or not at all.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from forwardcache.store.sqlite import SQLiteStore
from tests.store.jobs import BATCH, batch
from tests.store.test_sqlite import key_of, right
from tests.trace.fork_server import KILLED, ForkServer, servers
from tests.trace.kill import FOLDERS, PROCESSES, Moment, folder_of
from tests.trace.progress import Phase, Progress

ENDS = {"opening": Phase.STARTING, "putting": Phase.WORKING, "closing": Phase.CLOSING}
MANY = 10**9


@dataclass
class Counters:
    """What the rounds of a proof met."""

    rounds: int = 0
    values: int = 0
    kills: Counter[str] = field(default_factory=Counter)


@dataclass(frozen=True)
class Round:
    """A round: how each process ends, and the openings that are killed afterwards."""

    seed: int
    folder: str
    ends: list[tuple[str, int, Moment]]
    openings: list[Moment]

    @classmethod
    def of(cls, seed: int) -> Round:
        random = Random(seed)
        ends = [
            (random.choice(["opening", "putting", "putting", "closing"]), random.randrange(1, 12))
            for _ in range(random.choice([1, PROCESSES]))
        ]
        return cls(
            seed=seed,
            folder=random.choice(FOLDERS),
            ends=[(end, batches, Moment.of(random, 2e-2)) for end, batches in ends],
            openings=[Moment.of(random, 1e-2) for _ in range(random.choice([0, 1, 3]))],
        )


def play(plan: Round, players: Sequence[ForkServer], counters: Counters) -> None:
    """Plays a round; raises ``AssertionError`` with its plan if the store is wrong."""
    with folder_of(plan, plan.folder) as folder:
        _play(plan, players, folder, counters)


def _play(plan: Round, players: Sequence[ForkServer], folder: Path, counters: Counters) -> None:
    path, log = folder / "values.db", folder / "values.db-wal"
    for process, ((end, batches, _), player) in enumerate(zip(plan.ends, players, strict=False)):
        most = batches if end == "closing" else MANY
        told = folder / f"progress {process}"
        player.start("put", path=path, progress=told, process=process, batches=most)
    returned = []
    for process, ((end, _, moment), player) in enumerate(zip(plan.ends, players, strict=False)):
        with Progress(folder / f"progress {process}") as said:
            said.wait_for(ENDS[end])
            moment.wait(log)
            counters.kills[end] += player.kill() == KILLED
            returned.append(said.returned(0))
    for moment in plan.openings:
        counters.kills["opening what is left"] += _kill_opening(path, log, moment, players[0])
    counters.values += check(path, returned)
    counters.rounds += 1


def _kill_opening(path: Path, log: Path, moment: Moment, player: ForkServer) -> bool:
    said = path.with_name("opening")
    said.unlink(missing_ok=True)
    player.start("look", path=path, progress=said)
    with Progress(said) as looking:
        looking.wait_for(Phase.WORKING)
        moment.wait(log)
    return player.kill() == KILLED


def check(path: Path, returned: Sequence[int]) -> int:
    """How many values are there, which are all that must be and may be."""
    store = SQLiteStore(path)
    entries = 0
    for process, batches in enumerate(returned):
        # The batch after those that returned may have been committed, and no later one.
        held = [_held(store, batch(process, number)) for number in range(batches + 2)]
        assert held[:batches] == [BATCH] * batches, f"process {process} lost some of {batches}"
        assert held[batches] in (0, BATCH), f"process {process} left a part of a batch"
        assert held[batches + 1] == 0, f"process {process} did not say that it had come so far"
        entries += sum(held)
    info = store.info()
    assert (info.entries, info.errors, info.damaged) == (entries, 0, 0)
    store.close()
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    connection.close()
    return entries


def _held(store: SQLiteStore, numbers: range) -> int:
    found = store.get_many([key_of(number) for number in numbers])
    held = right(found, numbers)
    assert held == len(found), "a value that is there is whole"
    return held


def prove(kills: int, first_seed: int) -> Counters:
    """Plays rounds until so many processes were killed."""
    counters = Counters()
    with servers(PROCESSES, jobs="tests.store.jobs") as players:
        for seed in range(first_seed, first_seed + 100 * kills):
            if counters.kills.total() >= kills:
                break
            play(Round.of(seed), players, counters)
    return counters
