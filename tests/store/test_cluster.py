"""Claims: of a cluster any node may be named; every node is asked for its own keys, all at the same
time and once; keys that have moved or are on their way are found where they are; what a node that
is down has is a miss and the rest is found, and a node that takes over is asked in its place.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis

from forwardcache.store import link as link_module
from forwardcache.store.redis import RedisStore
from forwardcache.store.slots import slot_of
from tests.store.clusters import (
    asked,
    cluster,
    identity,
    nodes,
    share_slots,
    until,
    wait_until_known,
    wait_until_served,
)
from tests.store.servers import RedisServer
from tests.store.test_redis import key, record, records

COUNT = 300


@pytest.fixture(autouse=True)
def patience(patient: None) -> None:
    """What is read and written here is no matter of time."""


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[RedisServer]]:
    with cluster(tmp_path_factory.mktemp("cluster"), 3) as servers:
        yield servers


@pytest.fixture
def servers(running: list[RedisServer]) -> list[RedisServer]:
    for server in running:
        asked(server, "FLUSHALL")
    return running


def blobs(count: int) -> dict[bytes, bytes]:
    return {one.key: one.blob for one in records(count)}


def keys(count: int) -> list[bytes]:
    return [key(number) for number in range(count)]


def slots_of_keys(count: int) -> list[int]:
    return [slot_of(b"forwardcache:default:" + each) for each in keys(count)]


def holds(servers: Sequence[RedisServer]) -> list[int]:
    return [int(asked(server, "DBSIZE")) for server in servers]


@pytest.fixture
def round_trips(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often a server was asked, by what each link is for."""
    count: Counter[str] = Counter()
    begin = link_module.Link.begin

    def counted(self: link_module.Link, *args: Any, **options: Any) -> Any:
        count[self._name] += 1
        return begin(self, *args, **options)

    monkeypatch.setattr(link_module.Link, "begin", counted)
    return count


def test_a_cluster_of_one_node_keeps_and_finds_values(tmp_path: Path) -> None:
    with nodes(tmp_path, 1) as [whole]:
        share_slots([whole])
        wait_until_served([whole])
        store = RedisStore(whole.url)
        assert store.put_many(records(COUNT)) == COUNT
        other = RedisStore(whole.url)
        assert other.get_many(keys(400)) == blobs(COUNT)
        assert (other.info().entries, other.verify().ok) == (COUNT, COUNT)
        assert other.prune(older_than_s=-1.0) == COUNT
        assert (store.errors, other.errors) == (0, 0)


def test_any_node_of_a_cluster_may_be_named(servers: list[RedisServer]) -> None:
    store = RedisStore(servers[0].url)
    assert store.put_many(records(COUNT)) == COUNT
    assert sum(there := holds(servers)) == COUNT
    assert min(there) > COUNT / 5
    for named, options in zip(servers, ("", "?protocol=3", "/0?client_name=me"), strict=True):
        other = RedisStore(f"{named.url}{options}")
        assert other.get_many(keys(400)) == blobs(COUNT)
        assert other.put_many(records(COUNT)) == COUNT
        assert (other.errors, other.skipped, other.refused, other.damaged) == (0, 0, 0, 0)
    assert store.errors == 0


def test_a_cluster_is_looked_through_as_one_store(servers: list[RedisServer]) -> None:
    RedisStore(servers[0].url).put_many([*records(COUNT), record(COUNT, view="ft")])
    other = RedisStore(servers[2].url)
    info = other.info()
    assert (info.entries, info.by_kind["m1", "ft", "logprob_of"][0]) == (COUNT + 1, 1)
    assert other.prune(view="ft") == 1
    [name, *_] = redis.Redis(port=servers[1].port).keys()
    asked(servers[1], "SETRANGE", name, 60, b"\xff\xff")
    check = other.verify()
    assert (check.ok, check.damaged) == (COUNT - 1, 1)
    assert other.prune(max_bytes=10 * len(record(0).blob)) == COUNT - 11
    assert sum(holds(servers)) == 10
    assert other.errors == 0


def test_each_node_is_asked_once_and_for_its_own_keys(
    servers: list[RedisServer], round_trips: Counter[str]
) -> None:
    store = RedisStore(servers[1].url)
    # By these few it learns who has which key.
    store.put_many(records(10))
    round_trips.clear()
    for server in servers:
        asked(server, "CONFIG RESETSTAT")
    assert store.put_many(records(COUNT)) == COUNT
    assert len(store.get_many(keys(COUNT))) == COUNT
    assert sum(round_trips.values()) == 6
    assert len(round_trips) == 6
    calls = [asked(server, "INFO", "commandstats") for server in servers]
    assert sum(each["cmdstat_get"]["calls"] for each in calls) == COUNT
    assert not any("errorstat_MOVED" in asked(each, "INFO", "errorstats") for each in servers)


def test_named_nodes_that_are_down_or_new_do_no_harm(
    servers: list[RedisServer], tmp_path: Path
) -> None:
    RedisStore(servers[0].url).put_many(records(COUNT))
    gone = RedisServer(tmp_path)
    gone.kill()
    address = f"{gone.url},127.0.0.1:{servers[1].port},localhost:{servers[2].port}"
    other = RedisStore(address)
    # At first the one that is down is asked for its share.
    other.get_many(keys(COUNT))
    assert other.get_many(keys(COUNT)) == blobs(COUNT)
    assert RedisStore(address).info().entries == COUNT


def move_slot(
    slot: int, source: RedisServer, target: RedisServer, servers: Sequence[RedisServer]
) -> Callable[[], None]:
    """Puts a slot on its way from one node to another; what is returned ends it for all nodes."""
    asked(target, "CLUSTER SETSLOT", slot, "IMPORTING", identity(source))
    asked(source, "CLUSTER SETSLOT", slot, "MIGRATING", identity(target))

    def end() -> None:
        for name in asked(source, "CLUSTER GETKEYSINSLOT", slot, 1000):
            asked(source, "MIGRATE", "127.0.0.1", target.port, name, 0, 5000)
        for server in (target, source):
            asked(server, "CLUSTER SETSLOT", slot, "NODE", identity(target))
        # The others hear of it: until then one names who had the slot.
        wait_until_known(servers, slot, target)

    return end


def owner(servers: Sequence[RedisServer], slot: int) -> RedisServer:
    return servers[slot * len(servers) // 16_384]


def test_keys_that_move_are_found_on_the_way_and_at_its_end(servers: list[RedisServer]) -> None:
    slot = slots_of_keys(1)[0]
    source = owner(servers, slot)
    target = next(server for server in servers if server is not source)
    store, other = RedisStore(source.url), RedisStore(target.url)
    for each in (store, other):
        # Both know who has which key.
        each.put_many(records(COUNT)[1:])
        assert len(each.get_many(keys(COUNT)[1:])) == COUNT - 1
    end = move_slot(slot, source, target, servers)
    try:
        assert store.put_many(records(1)) == 1
        assert sum(holds(servers)) == COUNT
        assert other.get_many(keys(COUNT)) == blobs(COUNT)
        assert store.get_many(keys(COUNT)) == blobs(COUNT)
    finally:
        end()
    for each in (store, other):
        assert each.get_many(keys(COUNT)) == blobs(COUNT)
        assert each.put_many(records(COUNT)) == COUNT
        assert (each.errors, each.skipped, each.refused) == (0, 0, 0)
    move_slot(slot, target, source, servers)()


@pytest.fixture
def breaking(tmp_path: Path) -> Iterator[tuple[list[RedisServer], RedisServer]]:
    """A cluster whose first node has a replica, and goes on without a node; the replica."""
    options = [
        *("--cluster-require-full-coverage", "no", "--cluster-node-timeout", "60000"),
        # Otherwise a node waits for five seconds whether more replicas come.
        *("--repl-diskless-sync-delay", "0"),
    ]
    with cluster(tmp_path / "nodes", 3, *options) as servers, nodes(tmp_path / "more", 1) as [one]:
        yield servers, one


def test_a_node_that_is_down_is_a_miss_until_another_takes_over(
    breaking: tuple[list[RedisServer], RedisServer],
    clock: list[float],
    caplog: pytest.LogCaptureFixture,
) -> None:
    servers, replica = breaking
    store = RedisStore(servers[2].url)
    assert store.put_many(records(COUNT)) == COUNT
    asked(replica, "CLUSTER MEET", "127.0.0.1", servers[0].port, servers[0].bus)
    wait_until_served([*servers, replica])
    asked(replica, "CLUSTER REPLICATE", identity(servers[0]))
    until(lambda: asked(replica, "INFO", "replication")["master_link_status"] == "up")
    until(lambda: holds([replica]) == holds(servers[:1]))
    first = slots_of_keys(COUNT)
    lost = {each for each, slot in zip(keys(COUNT), first, strict=True)
            if owner(servers, slot) is servers[0]}  # fmt: skip
    assert 0 < len(lost) < COUNT
    servers[0].kill()
    for _ in range(3):
        assert set(store.get_many(keys(COUNT))) == set(keys(COUNT)) - lost
        assert store.put_many(records(COUNT)) == COUNT - len(lost)
    assert store.errors == 1
    assert store.skipped == 5 * len(lost)
    [said] = [each.getMessage() for each in caplog.records]
    assert f"reads of 127.0.0.1:{servers[0].port} fail" in said
    asked(replica, "CLUSTER FAILOVER", "TAKEOVER")

    def finds_all_after_a_while() -> bool:
        clock[0] += 60.0
        return store.get_many(keys(COUNT)) == blobs(COUNT)

    until(finds_all_after_a_while)
    assert store.put_many(records(COUNT)) == COUNT
