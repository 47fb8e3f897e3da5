"""Claims: what is put into Redis is read by others in the same namespace, whole, until its time is
over; info, verify and prune tell and do what they say; other bytes under our names are misses; a
fork goes on; wrong options are refused. Against a real redis-server.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from forwardcache.errors import InvalidInputError
from forwardcache.store import redis as redis_store
from forwardcache.store.base import Record
from forwardcache.store.redis import RedisStore
from forwardcache.store.seal import seal, unseal
from tests.store.servers import RedisServer


@pytest.fixture(autouse=True)
def patience(patient: None) -> None:
    """What is read and written here is no matter of time."""


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path_factory.mktemp("redis"))
    yield server
    server.kill()


@pytest.fixture
def client(server: RedisServer) -> redis.Redis:
    client = redis.Redis(port=server.port)
    client.flushall()
    return client


@pytest.fixture
def store(server: RedisServer, client: redis.Redis) -> Iterator[RedisStore]:
    store = RedisStore(server.url)
    yield store
    store.close()


def key(number: int) -> bytes:
    return number.to_bytes(32, "big")


def record(number: int, *, model: str = "m1", view: str = "base") -> Record:
    return Record(key(number), seal(key(number), float(number)), model, view, "logprob_of")


def records(count: int) -> list[Record]:
    return [record(number) for number in range(count)]


def names(client: redis.Redis) -> list[Any]:
    return list(client.scan_iter())


def test_what_one_puts_another_gets(store: RedisStore, server: RedisServer) -> None:
    assert store.put_many(records(700)) == 700
    other = RedisStore(server.url)
    found = other.get_many([key(number) for number in range(800)])
    assert found == {one.key: one.blob for one in records(700)}
    assert unseal(key(5), found[key(5)]) == 5.0
    assert other.get_records([key(1)]) == [record(1)]
    assert (store.errors, store.skipped, other.errors) == (0, 0, 0)


def test_values_of_any_size_come_back(store: RedisStore) -> None:
    blobs = [os.urandom(size) for size in (0, 1, 2**20, 3 * 2**20, 100)]
    given = [Record(key(at), blob, "m", "v", "o") for at, blob in enumerate(blobs)]
    assert store.put_many(given) == 5
    assert store.get_records([one.key for one in given]) == given


def test_nothing_asked_is_nothing_found(store: RedisStore) -> None:
    assert store.get_many([]) == {}
    assert store.put_many([]) == 0


def test_namespaces_do_not_see_each_other(store: RedisStore, server: RedisServer) -> None:
    store.put_many(records(3))
    other = RedisStore(server.url, namespace="default.2")
    assert other.get_many([key(0)]) == {}
    other.put_many(records(1))
    assert (store.info().entries, other.info().entries) == (3, 1)
    assert other.prune(older_than_s=0.0) == 1
    assert store.info().entries == 3


def test_values_go_when_their_time_is_over(server: RedisServer, client: redis.Redis) -> None:
    store = RedisStore(server.url, ttl_s=0.05)
    store.put_many(records(2))
    time.sleep(0.1)
    assert store.get_many([key(0), key(1)]) == {}
    RedisStore(f"{server.url}/0?ttl_s=100&namespace=q").put_many(records(1))
    RedisStore(server.url, namespace="kept", ttl_s=None).put_many(records(1))
    ttl = {name.split(b":")[1]: client.pttl(name) for name in names(client)}
    assert 90_000 < ttl[b"q"] <= 100_000
    assert ttl[b"kept"] == -1


def test_info_tells_entries_and_bytes_of_each_kind(store: RedisStore) -> None:
    store.put_many([record(1), record(2, view="ft"), record(3, view="ft"), record(4, model="m2")])
    info = store.info()
    size = len(record(1).blob)
    assert (info.entries, info.nbytes, info.errors, info.damaged) == (4, 4 * size, 0, 0)
    assert info.by_kind == {
        ("m1", "base", "logprob_of"): (1, size),
        ("m1", "ft", "logprob_of"): (2, 2 * size),
        ("m2", "base", "logprob_of"): (1, size),
    }


def test_damaged_values_are_found_and_dropped(store: RedisStore, client: redis.Redis) -> None:
    store.put_many(records(600))
    there = sorted(names(client))
    client.setrange(there[0], 60, b"\xff\xff")
    client.set(there[1], b"")
    client.set(there[2], client.get(there[3]) or b"")
    check = store.verify()
    assert (check.ok, check.damaged) == (597, 3)
    assert client.dbsize() == 597


@pytest.fixture
def now_ms(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The time that values are written at; it passes only when a test says so."""
    now = [redis_store._now_ms()]
    monkeypatch.setattr(redis_store, "_now_ms", lambda: now[0])
    return now


def test_prune_drops_what_it_is_told(store: RedisStore, now_ms: list[float]) -> None:
    store.put_many([record(1), record(2, view="ft"), record(3, model="m2")])
    assert store.prune() == 0
    assert store.prune(older_than_s=60.0) == 0
    assert store.prune(model="m1", view="ft") == 1
    assert set(store.get_many([key(n) for n in range(4)])) == {key(1), key(3)}
    now_ms[0] += 2000.0
    store.put_many([record(4)])
    assert store.prune(older_than_s=1.0) == 2
    assert set(store.get_many([key(n) for n in range(5)])) == {key(4)}


def test_prune_to_a_size_drops_the_oldest(store: RedisStore, now_ms: list[float]) -> None:
    for number in range(4):
        store.put_many([record(number)])
        now_ms[0] += 1.0
    size = len(record(0).blob)
    assert store.prune(max_bytes=2 * size + 1) == 2
    assert set(store.get_many([key(n) for n in range(4)])) == {key(2), key(3)}
    assert store.prune(max_bytes=0) == 2


@pytest.mark.parametrize("value", [b"", b"x", b"fcr1", b"fcr1" + b"\xff" * 20, os.urandom(500)])
def test_other_bytes_under_our_name_are_a_miss(
    store: RedisStore, client: redis.Redis, value: bytes
) -> None:
    store.put_many(records(2))
    [name] = [name for name in names(client) if name.endswith(key(0))]
    client.set(name, value)
    assert set(store.get_many([key(0), key(1)])) == {key(1)}
    assert store.damaged == 1
    store.put_many(records(1))
    assert set(store.get_many([key(0)])) == {key(0)}


def test_another_type_under_our_name_is_a_miss(store: RedisStore, client: redis.Redis) -> None:
    store.put_many(records(2))
    [name] = [name for name in names(client) if name.endswith(key(0))]
    client.delete(name)
    client.lpush(name, b"x")
    assert set(store.get_many([key(0), key(1)])) == {key(1)}
    assert store.info().entries >= 0


def test_a_forked_child_has_a_connection_of_its_own(store: RedisStore) -> None:
    store.put_many(records(1))
    child = os.fork()
    if child == 0:
        mine = [store.get_many([key(0)]) == {key(0): record(0).blob} for _ in range(20)]
        os._exit(0 if all(mine) and store.put_many([record(1)]) == 1 else 1)
    ours = [store.get_many([key(0)]) for _ in range(20)]
    assert os.waitpid(child, 0)[1] == 0
    assert ours == [{key(0): record(0).blob}] * 20
    assert set(store.get_many([key(1)])) == {key(1)}
    assert store.errors == 0


def test_a_closed_store_opens_again(store: RedisStore) -> None:
    store.put_many(records(1))
    store.close()
    assert set(store.get_many([key(0)])) == {key(0)}


@pytest.mark.parametrize(
    ("url", "options", "names"),
    [
        ("http://host", {}, "http"),
        ("redis://", {}, "redis://HOST"),
        ("redis://host", {"namespace": "a b"}, "'a b'"),
        ("redis://host", {"namespace": "a" * 65}, "aaa"),
        ("redis://host", {"ttl_s": 0}, "ttl_s must be a positive number of seconds, got 0"),
        ("redis://host", {"ttl_s": float("nan")}, "nan"),
        ("redis://host?ttl_s=soon", {}, "'soon'"),
    ],
)
def test_wrong_options_are_refused(url: str, options: dict[str, object], names: str) -> None:
    with pytest.raises(InvalidInputError, match=names.replace("*", ".")):
        RedisStore(url, **options)  # type: ignore[arg-type]


def test_the_password_is_not_shown(server: RedisServer, caplog: pytest.LogCaptureFixture) -> None:
    store = RedisStore(f"redis://user:secret@127.0.0.1:{server.port}")
    assert store.get_many([key(0)]) == {}
    assert store.errors == 1
    assert "secret" not in f"{store!r}{caplog.text}"


@pytest.mark.parametrize("scheme", ["redis", "valkey"])
def test_valkey_is_the_same(server: RedisServer, client: redis.Redis, scheme: str) -> None:
    store = RedisStore(f"{scheme}://127.0.0.1:{server.port}")
    assert store.put_many(records(1)) == 1
