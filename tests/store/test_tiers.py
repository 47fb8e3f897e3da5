"""Claims: the nearest store is asked first; what a farther one has goes into the nearer ones, with
its names; what is put goes into all; a tier that has nothing or fails is as if it were not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.store import Record, StoreCheck, StoreInfo, open_store
from forwardcache.store.redis import RedisStore
from forwardcache.store.sqlite import SQLiteStore
from forwardcache.store.tiers import Tiers
from tests.store.servers import RedisServer, free_port


class MemoryStore:
    """A store in memory that notes what it is asked."""

    def __init__(self, *records: Record) -> None:
        self.there = {one.key: one for one in records}
        self.asked: list[list[bytes]] = []
        self.pruned: list[dict[str, Any]] = []
        self.closed = False

    def get_records(self, keys: Sequence[bytes]) -> list[Record]:
        self.asked.append(list(keys))
        return [self.there[key] for key in keys if key in self.there]

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {one.key: one.blob for one in self.get_records(keys)}

    def put_many(self, records: Sequence[Record]) -> int:
        self.there |= {one.key: one for one in records}
        return len(records)

    def info(self) -> StoreInfo:
        return info_of(entries=len(self.there), errors=1, damaged=2)

    def verify(self) -> StoreCheck:
        return StoreCheck(ok=len(self.there), damaged=1)

    def prune(self, **limits: Any) -> int:
        self.pruned.append(limits)
        return len(self.there)

    def close(self) -> None:
        self.closed = True


class Full(MemoryStore):
    def put_many(self, records: Sequence[Record]) -> int:
        return 0


class ValuesOnly(MemoryStore):
    get_records = None  # type: ignore[assignment]

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        return {key: self.there[key].blob for key in keys if key in self.there}


def info_of(*, entries: int, errors: int, damaged: int) -> StoreInfo:
    return StoreInfo(entries=entries, nbytes=0, by_kind={}, errors=errors, damaged=damaged)


def record(number: int) -> Record:
    return Record(number.to_bytes(32, "big"), b"value %d" % number, "m", "base", "logprob_of")


ONE, TWO, THREE, FOUR = (record(number) for number in range(1, 5))
KEYS = [one.key for one in (ONE, TWO, THREE, FOUR)]


def test_the_nearest_is_asked_first_and_the_next_only_for_what_is_missing() -> None:
    near, middle, far = MemoryStore(ONE), MemoryStore(TWO), MemoryStore(ONE, THREE)
    found = Tiers([near, middle, far]).get_many(KEYS)
    assert found == {one.key: one.blob for one in (ONE, TWO, THREE)}
    assert near.asked == [KEYS]
    assert middle.asked == [KEYS[1:]]
    assert far.asked == [KEYS[2:]]


def test_what_is_all_near_asks_nobody_else() -> None:
    near, far = MemoryStore(ONE), MemoryStore(ONE)
    Tiers([near, far]).get_many([ONE.key, ONE.key])
    assert near.asked == [[ONE.key]]
    assert far.asked == []


def test_what_is_found_goes_up_with_its_names() -> None:
    near, middle, far = MemoryStore(), MemoryStore(TWO), MemoryStore(ONE)
    Tiers([near, middle, far]).get_many(KEYS)
    assert near.there == {one.key: one for one in (ONE, TWO)}
    assert middle.there == {one.key: one for one in (ONE, TWO)}
    assert set(far.there) == {ONE.key}


def test_what_is_put_goes_into_all() -> None:
    near, far = MemoryStore(), MemoryStore()
    assert Tiers([near, far]).put_many([ONE, TWO]) == 2
    assert near.there == far.there == {one.key: one for one in (ONE, TWO)}


def test_a_tier_that_takes_nothing_is_only_a_tier_less() -> None:
    near, far = Full(), MemoryStore(ONE)
    tiers = Tiers([near, far])
    assert tiers.put_many([TWO]) == 1
    assert set(tiers.get_many(KEYS)) == {ONE.key, TWO.key}


def test_a_store_of_values_only_leaves_the_names_empty() -> None:
    near = MemoryStore()
    assert Tiers([near, ValuesOnly(ONE)]).get_many([ONE.key]) == {ONE.key: ONE.blob}
    assert near.there[ONE.key] == Record(ONE.key, ONE.blob, "", "", "")


def test_the_rest_is_for_all() -> None:
    near, far = MemoryStore(ONE), MemoryStore(ONE, TWO)
    tiers = Tiers([near, far])
    assert tiers.info() == info_of(entries=1, errors=2, damaged=4)
    assert tiers.verify() == StoreCheck(ok=3, damaged=2)
    assert tiers.prune(model="m", max_bytes=5) == 3
    limits = {"older_than_s": None, "model": "m", "view": None, "max_bytes": 5}
    assert near.pruned == far.pruned == [limits]
    tiers.close()
    assert near.closed
    assert far.closed


def test_no_store_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="at least one store"):
        Tiers([])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RedisServer]:
    server = RedisServer(tmp_path)
    yield server
    server.kill()


def test_a_shared_server_fills_what_is_near(server: RedisServer, patient: None) -> None:
    assert Tiers([MemoryStore(), RedisStore(server.url)]).put_many([ONE, TWO]) == 2
    near = MemoryStore()
    tiers = Tiers([near, RedisStore(server.url)])
    assert tiers.get_many(KEYS) == {one.key: one.blob for one in (ONE, TWO)}
    assert near.there == {one.key: one for one in (ONE, TWO)}


def test_several_addresses_open_as_tiers(server: RedisServer, patient: None) -> None:
    addresses = [f"{server.url}/0?namespace={name}" for name in ("near", "far")]
    far = open_store(addresses[1])
    far.put_many([ONE])
    both = open_store(",".join(addresses))
    assert isinstance(both, Tiers)
    assert both.get_many([ONE.key]) == {ONE.key: ONE.blob}
    near = open_store(addresses[0])
    assert isinstance(near, RedisStore)
    assert near.get_records([ONE.key]) == [ONE]


def test_a_shared_server_that_is_down_leaves_what_is_near() -> None:
    tiers = Tiers([MemoryStore(ONE), RedisStore(f"redis://127.0.0.1:{free_port()}")])
    assert tiers.put_many([TWO]) == 1
    assert set(tiers.get_many(KEYS)) == {ONE.key, TWO.key}


def test_a_file_gives_a_nearer_file_its_names(tmp_path: Path) -> None:
    records = [Record(bytes([n]) * 32, b"blob", f"m{n}", f"v{n}", f"op{n}") for n in range(3)]
    near, far = (SQLiteStore(tmp_path / name) for name in ("near.db", "far.db"))
    far.put_many(records)
    tiers = Tiers([near, far])
    tiers.get_many([one.key for one in records])
    assert near.info().by_kind == {(f"m{n}", f"v{n}", f"op{n}"): (1, 4) for n in range(3)}
    assert near.get_records([one.key for one in records]) == records
    tiers.close()
