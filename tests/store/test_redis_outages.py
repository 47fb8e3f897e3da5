"""Claims: a server that is down, killed, slow, silent, full or talks nonsense is no exception and
costs a job less than a tenth; while it is down everything is a miss; afterwards it serves again.
"""

from __future__ import annotations

import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from operator import ge
from pathlib import Path

import pytest

from forwardcache.store import redis as redis_store
from forwardcache.store.base import Record
from forwardcache.store.breaker import Breaker
from forwardcache.store.redis import RedisStore
from forwardcache.store.seal import seal
from tests.patience import PATIENCE_S
from tests.store.clusters import until
from tests.store.servers import (
    RedisServer,
    Serve,
    answering,
    dribbling,
    free_port,
    saying,
    silent,
    slowed,
)

# So many that the handshakes of two connections, and the first short rests, are a small part of it.
BATCH, BATCHES, BATCH_S = 32, 300, 0.03
JOBS = 3

# Whatever a breaker makes of a call on a busy machine.
LONG_REST_S = 1e6

NONSENSE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"-ERR unknown command\r\n",
    b":1\r\n",
    b"+OK\r\n",
    b"$-7\r\n",
    b"$99999999999999999999\r\n",
    b"$9223372036854775807\r\nxx",
    b"$3\r\nabcdef\r\n",
    b"*-9\r\n",
    b"*1000000000\r\n",
    b"*1\r\n" * 5000,
    b"*2\r\n$1\r\na\r\n:1\r\n",
    b"\r\n" * 100,
    b"\x00" * 5000,
    b"%2\r\n+a\r\n+b\r\n",
    *(random.Random(seed).randbytes(300) for seed in range(10)),
]


def record(number: int) -> Record:
    key = number.to_bytes(32, "big")
    return Record(key, seal(key, float(number)), "m", "base", "logprob_of")


def job_of(
    store: RedisStore, *, finds: bool = False, batches: int = BATCHES
) -> tuple[float, float]:
    """A job that computes for ``batches`` times ``BATCH_S`` and finds nothing: that, and the rest.

    Or ``finds`` some, where a server of several is well.

    Seconds of computing, as long as they were on this machine; seconds in the store.
    """
    computing = inside = 0.0
    for batch in range(batches):
        records = [record(number) for number in range(batch * BATCH, (batch + 1) * BATCH)]
        began = time.perf_counter()
        found = store.get_many([one.key for one in records])
        assert finds or not found
        computes = time.perf_counter()
        inside += computes - began
        time.sleep(BATCH_S)
        began = time.perf_counter()
        computing += began - computes
        store.put_many(records)
        inside += time.perf_counter() - began
    return computing, inside


def assert_is_a_tenth(job: Callable[[], tuple[float, float]]) -> None:
    """Of what a job computes its store costs less than a tenth.

    What else a machine does may make any one of them slow; a slow store is slow every time.
    """
    said = []
    for _ in range(JOBS):
        computing, inside = job()
        if inside < 0.1 * computing:
            return
        said.append(f"{inside:.3f} s for {computing:.1f} s")
    raise AssertionError("; ".join(said))


def assert_costs_little(url: str) -> None:
    def job() -> tuple[float, float]:
        store = RedisStore(url)
        took = job_of(store)
        assert store.errors + store.refused > 0
        assert store.skipped > 0
        store.close()
        return took

    assert_is_a_tenth(job)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.kill()


@pytest.mark.alone
def test_a_server_that_is_down_costs_little() -> None:
    assert_costs_little(f"redis://127.0.0.1:{free_port()}")


@pytest.mark.alone
@pytest.mark.parametrize("serve", [silent, dribbling], ids=["silent", "dribbling"])
def test_a_server_that_does_not_come_to_an_end_costs_little(serve: Serve) -> None:
    with answering(serve) as url:
        assert_costs_little(url)


@pytest.mark.alone
@pytest.mark.parametrize("delay_s", [0.003, 0.008, 0.045, 0.3])
def test_a_slow_server_costs_little(server: RedisServer, delay_s: float) -> None:
    with answering(slowed(server.port, delay_s)) as url:
        assert_is_a_tenth(lambda: job_of(RedisStore(url)))


@pytest.fixture
def full(tmp_path: Path, patient: None) -> Iterator[tuple[RedisServer, list[Record]]]:
    """A server with no memory left, and the first of what is in it."""
    server = RedisServer(tmp_path, None, "--maxmemory", "2mb")
    store = RedisStore(server.url)
    filling = [record(number) for number in range(10**6, 10**6 + 20_000)]
    assert 0 < store.put_many(filling) < len(filling)
    assert store.refused > 0
    assert store.errors == 0
    yield server, filling[:100]
    server.kill()


def test_a_full_server_is_still_read(full: tuple[RedisServer, list[Record]]) -> None:
    server, there = full
    store = RedisStore(server.url)
    assert store.put_many([record(1)]) == 0
    assert store.put_many([record(1)]) == 0
    assert (store.refused, store.skipped) == (1, 1)
    assert store.get_many([one.key for one in there]) == {one.key: one.blob for one in there}


def test_a_full_server_costs_little(
    full: tuple[RedisServer, list[Record]], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, _ = full
    monkeypatch.undo()
    assert_costs_little(server.url)


@pytest.mark.parametrize("answer", NONSENSE, ids=range(len(NONSENSE)))
def test_nonsense_is_a_miss(answer: bytes) -> None:
    def seconds() -> float:
        store = RedisStore(url)
        began = time.perf_counter()
        assert store.get_many([record(1).key, record(2).key]) == {}
        store.close()
        # Past the rest that the first error brings.
        other = RedisStore(url)
        assert other.put_many([record(1)]) in (0, 1)
        took_s = time.perf_counter() - began
        assert store.errors == 1
        other.close()
        return took_s

    with answering(saying(answer)) as url:
        # A busy machine can make any one of them slow.
        assert any(seconds() < 0.5 for _ in range(20))


def test_nonsense_costs_little() -> None:
    with answering(saying(NONSENSE[0])) as url:
        assert_costs_little(url)


def test_looking_through_a_server_that_is_down_tells_of_the_error() -> None:
    store = RedisStore(f"redis://127.0.0.1:{free_port()}")
    assert (store.info().entries, store.info().errors > 0) == (0, True)
    assert (store.verify().ok, store.prune(older_than_s=0.0)) == (0, 0)


def test_a_server_killed_in_the_middle_is_missed_and_then_used_again(
    tmp_path: Path, patient: None, clock: list[float]
) -> None:
    server = RedisServer(tmp_path)
    store = RedisStore(server.url)
    one = record(1)
    assert store.put_many([one]) == 1
    server.kill()
    assert store.get_many([one.key]) == {}
    assert store.put_many([one]) == 0
    assert (store.errors, store.skipped) == (1, 1)
    again = RedisServer(tmp_path, server.port)
    try:
        assert store.put_many([one]) == 0
        clock[0] += LONG_REST_S
        assert store.put_many([one]) == 1
        assert store.get_many([one.key]) == {one.key: one.blob}
    finally:
        again.kill()


def test_a_connection_that_hangs_is_given_up_for_another(
    server: RedisServer, patient: None, clock: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    healthy = slowed(server.port, 0.0)
    answers = [dribbling]

    def serve(connection: socket.socket) -> None:
        (answers.pop() if answers else healthy)(connection)

    with answering(serve) as url:
        monkeypatch.setattr(redis_store, "_CALL_S", 0.05)
        hanging = RedisStore(url)
        one = record(1)
        assert hanging.put_many([one]) == 0
        deadline = time.monotonic() + PATIENCE_S
        # The store's own bound is short for a busy machine: a call may be too late once.
        while hanging.put_many([one]) == 0 and time.monotonic() < deadline:
            clock[0] += LONG_REST_S
        while not (found := hanging.get_many([one.key])) and time.monotonic() < deadline:
            clock[0] += LONG_REST_S
        assert found == {one.key: one.blob}


def test_a_server_killed_under_many_threads_is_no_error_to_any(
    server: RedisServer, patient: None
) -> None:
    store = RedisStore(server.url)
    values = [record(number) for number in range(2000)]
    assert store.put_many(values) == len(values)
    expected = {one.key: one.blob for one in values}
    wrong: list[object] = []
    turns, ended = [0] * 4, threading.Event()

    def read(seed: int) -> None:
        numbers = random.Random(seed)
        while not ended.is_set():
            keys = [one.key for one in numbers.sample(values, 50)]
            try:
                found = store.get_many(keys)
                store.put_many(values[seed * 10 : seed * 10 + 10])
            except Exception as error:
                wrong.append(error)
                return
            wrong.extend(key for key, blob in found.items() if expected.get(key) != blob)
            turns[seed] += 1

    def go_on(more: int) -> None:
        """Returns when each of the threads has read so often again."""
        ends = [each + more for each in turns]
        until(lambda: wrong or all(map(ge, turns, ends)))

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    go_on(20)
    server.kill()
    go_on(20)
    ended.set()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert store.errors > 0


def test_threads_do_not_pile_up_behind_a_server_that_hangs() -> None:
    with answering(dribbling) as url:
        before = threading.active_count()
        for _ in range(5):
            RedisStore(url).get_many([os.urandom(32)])
        deadline = time.monotonic() + PATIENCE_S
        # Each attempt leaves one thread of the server here, which is not the store's.
        while threading.active_count() > before + 5 and time.monotonic() < deadline:
            time.sleep(0.01)
        assert threading.active_count() <= before + 5


def test_the_breaker_rests_longer_after_each_failure_in_a_row_and_forgets() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])

    def rest() -> float:
        begin = now[0]
        while breaker.is_open:
            now[0] += 0.25
        return now[0] - begin

    assert not breaker.is_open
    rests = []
    for _ in range(7):
        breaker.failed(0.05)
        rests.append(rest())
    assert rests == [2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    breaker.failed(4.0)
    assert rest() == 160.0
    breaker.answered(-1.0)
    assert not breaker.is_open
    breaker.failed(0.0)
    assert rest() == 2.0


def test_the_breaker_rests_forty_times_as_long_as_a_late_answer_has_cost() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0])
    breaker.answered(0.001)
    assert not breaker.is_open
    breaker.answered(0.1)
    now[0] = 3.99
    assert breaker.is_open
    now[0] = 4.01
    assert not breaker.is_open
