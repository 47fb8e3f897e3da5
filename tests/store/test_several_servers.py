"""Claims: servers that know nothing of each other share the keys, in the same way for whoever names
them, in any order; what one that is down has is a miss; with one more or one less most keys stay
where they are, and the others are misses.
"""

from __future__ import annotations

import random
import re
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from redis.crc import key_slot

from forwardcache.store import redis as redis_store
from forwardcache.store.breaker import Breaker
from forwardcache.store.redis import RedisStore
from forwardcache.store.redis_calls import Elsewhere
from forwardcache.store.request_worker import BusyError, RequestWorker
from forwardcache.store.servers import _chunks, _tell_what_was_taken
from forwardcache.store.slots import SLOTS, Ring, shared_out, slot_of, told_by_cluster
from tests.patience import PATIENCE_S
from tests.store.clusters import asked
from tests.store.servers import RedisServer, answering, silent
from tests.store.test_redis import key, record, records
from tests.store.test_redis_outages import assert_is_a_tenth, job_of

COUNT = 600


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[list[RedisServer]]:
    with ExitStack() as stack:
        made = []
        for name in "abc":
            (tmp_path / name).mkdir()
            made.append(RedisServer(tmp_path / name))
            stack.callback(made[-1].kill)
        yield made


def address(servers: Sequence[RedisServer]) -> str:
    return "redis://" + ",".join(f"127.0.0.1:{each.port}" for each in servers)


def found(store: RedisStore) -> set[bytes]:
    return set(store.get_many([key(number) for number in range(COUNT)]))


def test_several_servers_share_the_keys(servers: list[RedisServer], patient: None) -> None:
    store = RedisStore(address(servers))
    assert store.put_many(records(COUNT)) == COUNT
    there = [int(asked(each, "DBSIZE")) for each in servers]
    assert sum(there) == COUNT
    assert min(there) > COUNT / 5
    other = RedisStore(address([servers[2], servers[0], servers[1]]))
    assert other.get_many([key(n) for n in range(COUNT)]) == {
        one.key: one.blob for one in records(COUNT)
    }
    assert (other.info().entries, other.verify().ok) == (COUNT, COUNT)
    assert other.prune(max_bytes=10 * len(record(0).blob)) == COUNT - 10
    assert (store.errors, other.errors, store.skipped, other.skipped) == (0, 0, 0, 0)


def test_a_server_less_is_a_miss_for_its_keys_alone(
    servers: list[RedisServer], patient: None, caplog: pytest.LogCaptureFixture
) -> None:
    store = RedisStore(address(servers))
    store.put_many(records(COUNT))
    there = int(asked(servers[1], "DBSIZE"))
    servers[1].kill()
    left = found(store)
    assert len(left) == COUNT - there
    assert store.put_many(records(COUNT)) == COUNT - there
    assert (store.errors, store.skipped) == (1, there)
    [said] = [each.getMessage() for each in caplog.records]
    assert f"reads of 127.0.0.1:{servers[1].port} fail" in said
    # Named no more, it costs nothing of what the others have, and they share its keys.
    fewer = RedisStore(address([servers[0], servers[2]]))
    assert found(fewer) == left
    assert fewer.put_many(records(COUNT)) == COUNT
    assert len(found(fewer)) == COUNT


def test_a_server_killed_under_many_threads_is_no_error_to_any(
    servers: list[RedisServer], patient: None
) -> None:
    store = RedisStore(address(servers))
    values = records(COUNT)
    assert store.put_many(values) == COUNT
    expected = {one.key: one.blob for one in values}

    def work(seed: int) -> int:
        chance, seen = random.Random(seed), 0
        for turn in range(40):
            if seed == 0 and turn == 10:
                servers[2].kill()
            some = chance.sample(values, 30)
            found = store.get_many([one.key for one in some])
            assert found.items() <= expected.items()
            seen += len(found)
            assert store.put_many(some[:10]) <= 10
        return seen

    with ThreadPoolExecutor(4) as pool:
        seen = list(pool.map(work, range(4)))
    assert sum(seen) > 4 * 40 * 30 / 3
    assert 0 < store.errors <= 8
    assert len(found(store)) > COUNT / 3


@pytest.mark.alone
def test_servers_that_do_not_answer_cost_little(servers: list[RedisServer]) -> None:
    with answering(silent) as one, answering(silent) as other:
        hosts = [each.removeprefix("redis://") for each in (one, other)]

        def job() -> tuple[float, float]:
            store = RedisStore(",".join([address(servers[:1]), *hosts]))
            took = job_of(store, finds=True, batches=100)
            assert store.errors > 0
            return took

        assert_is_a_tenth(job)


def test_servers_are_asked_at_the_same_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(redis_store, "_CALL_S", PATIENCE_S / 10)
    all_asked = threading.Barrier(8)

    def serve(connection: socket.socket) -> None:
        """Ends a connection that asks when the other servers are asked too."""
        assert connection.recv(65536)
        # Less than a call may take, so those that are asked in turn don't meet.
        all_asked.wait(PATIENCE_S / 20)

    with ExitStack() as stack:
        urls = [stack.enter_context(answering(serve)) for _ in range(8)]
        store = RedisStore(
            ",".join([urls[0], *(each.removeprefix("redis://") for each in urls[1:])])
        )
        assert found(store) == set()
        assert not all_asked.broken
        assert all_asked.n_waiting == 0
    assert store.errors == 8


@pytest.mark.parametrize(
    "word",
    ["MOVED {slot} 127.0.0.1:{port}", "ASK {slot} :{port}", "MOVED {slot} 127.0.0.1:1",
     "MOVED 99999 127.0.0.1:{port}", "MOVED {slot} x:0", "MOVED {slot}", "ASK a b:c",
     "CLUSTERDOWN Hash slot not served", "TRYAGAIN later", "CROSSSLOT no"],
)  # fmt: skip
def test_servers_that_send_one_round_in_circles_are_left_after_one_more(
    word: str, patient: None
) -> None:
    asked = 0

    def serve(connection: socket.socket) -> None:
        nonlocal asked
        port = connection.getsockname()[1]
        line = f"-{word.format(slot=7, port=port)}\r\n".encode()
        while data := connection.recv(65536):
            asked += 1
            connection.sendall(line * len(re.findall(rb"\*\d+\r\n\$", data)))

    with answering(serve) as url:
        store = RedisStore(url)
        for _ in range(3):
            assert store.get_many([key(n) for n in range(20)]) == {}
            assert store.put_many(records(20)) == 0
        assert (store.info().entries, store.verify().ok) == (0, 0)
        # Of each connection the first words, and then at most two rounds a call, are its own.
        assert asked < 60
        store.close()


def test_the_slot_of_a_key_is_that_of_a_cluster() -> None:
    chance = random.Random(5)
    for _ in range(5000):
        name = bytes(chance.choices(b"{}ab\xff\x00", k=chance.randrange(12)))
        assert slot_of(name) == key_slot(name)


def test_slots_stay_where_they_are_with_a_server_more_or_less() -> None:
    three = [("a", 6379), ("b", 6379), ("c", 7000)]
    ring, more = shared_out(three), shared_out([*three, ("d", 1)])
    # Every process has to share them out alike, so also one of another version.
    digest = sha256(bytes(ring.table)).hexdigest()
    assert digest.startswith("f45343efce202bd9")
    assert [owners(ring, node) > SLOTS * 0.3 for node in three] == [True] * 3
    moved = [at for at in range(SLOTS) if node_at(ring, at) != node_at(more, at)]
    assert {node_at(more, at) for at in moved} == {("d", 1)}
    assert SLOTS * 0.22 < len(moved) < SLOTS * 0.28
    turned = shared_out(three[::-1])
    assert all(node_at(ring, at) == node_at(turned, at) for at in range(SLOTS))


def node_at(ring: Ring, slot: int) -> tuple[str, int]:
    return ring.nodes[ring.table[slot]]


def owners(ring: Ring, node: tuple[str, int]) -> int:
    return sum(node_at(ring, at) == node for at in range(SLOTS))


@pytest.mark.parametrize(
    "answer",
    [None, b"OK", 7, [], [[0]], [[0, 1]], [[5, 1, [b"a", 1]]], [[0, SLOTS, [b"a", 1]]],
     [[0, 1, [b"a", 0]]], [[0, 1, [b"\xff", 1]]], [[0, 1, [b"a", b"x"]]], [[b"0", 1, [b"a", 1]]],
     {"a": 1}],
)  # fmt: skip
def test_what_is_no_answer_about_slots_is_taken_for_none(answer: object) -> None:
    assert told_by_cluster(answer, ("asked", 1)) is None


def test_a_node_may_leave_its_own_name_out() -> None:
    answer = [
        [0, 99, [b"", 7000, b"id"]],
        [100, 200, [None, 7001]],
        [300, 300, [b"x", 1], [b"y", 2]],
    ]
    ring = told_by_cluster(answer, ("asked", 6379))
    assert ring is not None
    assert ring.nodes == (("asked", 7000), ("asked", 7001), ("x", 1))
    free = next(n for n in range(10_000) if 200 < slot_of(b"%d" % n) < 300)
    assert ring.node_of(b"%d" % free) is None


def test_the_breaker_rests_longer_where_there_are_more_servers() -> None:
    now = [0.0]
    breaker = Breaker(lambda: now[0], servers=10)
    breaker.answered(0.1)
    now[0] = 39.9
    assert breaker.is_open
    now[0] = 40.1
    assert not breaker.is_open


def test_a_round_trip_has_so_many_bytes() -> None:
    assert list(_chunks(range(5), [2**19] * 5)) == [[0, 1], [2, 3], [4]]
    assert list(_chunks([3, 1], [0, 2**21, 0, 1])) == [[3], [1]]


def test_a_server_that_takes_nothing_is_told_apart_from_one_that_has_no_key() -> None:
    told: list[object] = []
    link: Any = SimpleNamespace(accepted=lambda: told.append("took"), refused=told.append)
    elsewhere = Elsewhere(("a", 1), 3)
    for each in ([False, True], ["full", None], [elsewhere, "only read"], [elsewhere, None], []):
        _tell_what_was_taken(link, each)
    assert told == ["took", "full", "only read"]


def test_a_worker_that_was_closed_takes_no_call() -> None:
    worker = RequestWorker(lambda: None, lambda _: None)
    worker.close()
    # Behind the word that ends its thread a call would wait for nothing until its time is over.
    with pytest.raises(BusyError):
        worker.begin(lambda _: None, time.perf_counter() + 5.0)
