"""Claims: a server in cluster mode that holds all keys serves as any other; one that holds part of
them is asked no more after its first answer, and one line says so.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from forwardcache.store.redis import RedisStore
from tests.store.servers import RedisServer, free_port
from tests.store.test_redis import key, records

SLOTS = 16_384


@pytest.fixture(autouse=True)
def patience(patient: None) -> None:
    """What is read and written here is no matter of time."""


def node(folder: Path, first: int, last: int, bus: int) -> RedisServer:
    folder.mkdir()
    # By itself a node takes the port 10,000 above its own for its bus, which may be none.
    options = "--cluster-enabled", "yes", "--cluster-port", str(bus)
    server = RedisServer(folder, None, *options)
    slots = [str(slot) for slot in range(first, last)]
    redis.Redis(port=server.port).cluster("ADDSLOTS", *slots)
    return server


def wait_until_served(*servers: RedisServer) -> None:
    deadline = time.monotonic() + 30
    while any(
        redis.Redis(port=each.port).cluster("INFO")["cluster_state"] != "ok" for each in servers
    ):
        assert time.monotonic() < deadline, "the cluster did not come up"
        time.sleep(0.05)


@pytest.fixture
def whole(tmp_path: Path) -> Iterator[RedisServer]:
    server = node(tmp_path / "whole", 0, SLOTS, free_port())
    wait_until_served(server)
    yield server
    server.kill()


@pytest.fixture
def half(tmp_path: Path) -> Iterator[RedisServer]:
    middle, buses = SLOTS // 2, [free_port(), free_port()]
    servers = [
        node(tmp_path / "one", 0, middle, buses[0]),
        node(tmp_path / "other", middle, SLOTS, buses[1]),
    ]
    meet = "MEET", "127.0.0.1", str(servers[1].port), str(buses[1])
    redis.Redis(port=servers[0].port).cluster(*meet)
    wait_until_served(*servers)
    yield servers[0]
    for server in servers:
        server.kill()


def test_a_cluster_of_one_node_keeps_and_finds_values(whole: RedisServer) -> None:
    store = RedisStore(whole.url)
    assert store.put_many(records(300)) == 300
    other = RedisStore(whole.url)
    assert other.get_many([key(n) for n in range(400)]) == {
        one.key: one.blob for one in records(300)
    }
    assert (other.info().entries, other.verify().ok) == (300, 300)
    assert other.prune(older_than_s=-1.0) == 300
    assert (store.errors, other.errors) == (0, 0)


def test_a_node_of_a_larger_cluster_is_asked_once(
    half: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    for is_read in (True, False):
        caplog.clear()
        store = RedisStore(half.url)
        for _ in range(20):
            if is_read:
                assert store.get_many([key(n) for n in range(50)]) == {}
            else:
                assert store.put_many(records(50)) == 0
        assert store.errors == 1
        assert store.skipped == 19 * 50
        [said] = [each.getMessage() for each in caplog.records]
        assert "one node of a cluster, and others hold part of the keys (MOVED" in said
