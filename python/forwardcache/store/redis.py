"""A store that machines share: one Redis or Valkey, several, or a cluster of them.

A value's key in Redis is the namespace and the store's key; what is stored there is the sealed
value after a short header that says when it was written and for which model, view and op. The
sealed value is given back as it came: whoever reads it checks it.

A job never waits long for a server. Every round trip has 50 ms (``request_worker``); after an
error or a slow answer the server is left alone for at least forty times as long as that took
(``breaker``), and what would have been read or written then is a miss or isn't kept. A server that
is full is still read (``link``). Which server has a key is in ``servers``.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.store.address import milliseconds, parse
from forwardcache.store.base import Record, StoreCheck, StoreInfo
from forwardcache.store.header import Header, split
from forwardcache.store.redis_calls import MOST_ITEMS, Answers, Way, delete, headers, read, scan
from forwardcache.store.redis_calls import write as write_values
from forwardcache.store.seal import unseal
from forwardcache.store.server import Server
from forwardcache.store.servers import Servers, Task

DEFAULT_TTL_S = 30 * 24 * 3600.0

# The longest wait of a job for a round trip.
_CALL_S = 0.050

# A value that is there has saved at least this much of a forward; one that is not has only cost.
_HIT_S = 0.001
# What writing a value may take.
_WRITE_S = 0.00005

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A value that is there: its server and name, the bytes after its header, and the header."""

    server: Server
    name: bytes
    nbytes: int
    header: Header


class RedisStore:
    """Sealed values in Redis or Valkey. Never raises once it is made.

    Made without asking a server, which may come and go. Serves several threads, and goes on in a
    forked child with connections of its own. The servers tell by their answers whether they are a
    cluster. What a server that is down has is a miss, and its part of what is put isn't kept.

    Args:
        url: ``redis://[[user]:password@]host[:port][/database]``; ``rediss://`` for TLS;
            ``valkey://`` and ``valkeys://`` mean the same. Several hosts with commas between share
            the keys, or are some nodes of one cluster: ``redis://a:6379,b:6379,c``. Every process
            has to name them in the same words. ``namespace``, ``ttl_s`` and options of the
            connection may be in its query: ``redis://host/0?namespace=team&ttl_s=86400``. A
            time-out there only shortens this store's own.
        namespace: Who shares values: 1 to 64 letters, digits and ``_.-``.
        ttl_s: Seconds after which a value that was not written again is dropped; None for never.

    Attributes:
        namespace: As given.
        damaged: Values without a header of ours that were met.
        refused: Values that a server did not take (it is full, or only to be read).
        last_error: What the last call that failed said; None before.

    Raises:
        InvalidInputError: the URL, an option in it, the namespace or the time is not one of those.
    """

    def __init__(
        self, url: str, *, namespace: str | None = None, ttl_s: float | None = DEFAULT_TTL_S
    ) -> None:
        self._address = parse(url)
        named = self._address.namespace if namespace is None else namespace
        self.namespace = _namespace("default" if named is None else named)
        self._ttl_ms = milliseconds(ttl_s if self._address.ttl_s is None else self._address.ttl_s)
        self._prefix = f"forwardcache:{self.namespace}:".encode()
        self.damaged = self.refused = 0
        self._servers = Servers(self._address, _CALL_S)

    def __repr__(self) -> str:
        # Without the URL, which may hold a password.
        hosts = ",".join(host for host, _ in self._address.nodes)
        return f"<{type(self).__name__} {hosts}, {self.namespace}>"

    @property
    def errors(self) -> int:
        """Calls that failed or were not answered in time."""
        return sum(server.errors for server in self._servers.all)

    @property
    def last_error(self) -> str | None:
        """What the last call that failed said, of the first server that knows."""
        said = (server.last_error for server in self._servers.all)
        return next((each for each in said if each is not None), None)

    @property
    def skipped(self) -> int:
        """Values that were not asked for, or not written, while their server was left alone."""
        return self._servers.unserved + sum(server.skipped for server in self._servers.all)

    def get_many(self, keys: Sequence[bytes]) -> dict[bytes, bytes]:
        """The sealed values of those keys that are there.

        Args:
            keys: 32 bytes each.
        """
        return {record.key: record.blob for record in self.get_records(keys)}

    def get_records(self, keys: Sequence[bytes]) -> list[Record]:
        """Those keys that are there, with what was written with them.

        Args:
            keys: 32 bytes each.
        """
        names = [self._prefix + key for key in keys]

        def call(places: Sequence[int], way: Way, client: Any) -> Answers:
            return read([names[at] for at in places], way, client)

        values = self._servers.ask(Task("reading", names, [0] * len(names), call, _saved_s))
        pairs = zip(keys, values, strict=True)
        records = [self._record(key, value) for key, value in pairs if value is not None]
        found = [record for record in records if record is not None]
        self.damaged += len(records) - len(found)
        return found

    def put_many(self, records: Sequence[Record]) -> int:
        """Writes values over what was there.

        Args:
            records: Sealed values.

        Returns:
            How many the servers took.
        """
        now = int(_now_ms())
        pairs = [
            (self._prefix + one.key, Header(now, one.model, one.view, one.op).packed() + one.blob)
            for one in records
        ]

        def call(places: Sequence[int], way: Way, client: Any) -> Answers:
            return write_values([pairs[at] for at in places], self._ttl_ms, way, client)

        names, sizes = [name for name, _ in pairs], [len(value) for _, value in pairs]
        answers = self._servers.ask(Task("writing", names, sizes, call, _worth_of_writing_s))
        kept = sum(answer is True for answer in answers)
        self.refused += sum(answer is not None for answer in answers) - kept
        return kept

    def info(self) -> StoreInfo:
        """What is there, as far as the server says so; an error shows in ``errors``."""
        by_kind: dict[tuple[str, str, str], tuple[int, int]] = {}
        for entry in self._survey():
            kind = (entry.header.model, entry.header.view, entry.header.op)
            entries, size = by_kind.get(kind, (0, 0))
            by_kind[kind] = entries + 1, size + entry.nbytes
        return StoreInfo(
            entries=sum(entries for entries, _ in by_kind.values()),
            nbytes=sum(size for _, size in by_kind.values()),
            by_kind=by_kind,
            errors=self.errors,
            damaged=self.damaged,
        )

    def verify(self) -> StoreCheck:
        """Reads every value, checks it, and drops what is damaged."""
        ok = damaged = 0
        for server, names in self._names():
            # Of what a server says that it has, it has every key, in whichever slot.
            found = server.slowly(partial(read, names, Way(server.node, of_cluster=True)))
            pairs = zip(names, found.each if found else [], strict=False)
            # One that has gone since its name was read is neither whole nor damaged.
            there = [(name, value) for name, value in pairs if isinstance(value, bytes)]
            broken = [name for name, value in there if not self._is_whole(name, value)]
            ok, damaged = ok + len(there) - len(broken), damaged + len(broken)
            _drop(server, broken)
        return StoreCheck(ok=ok, damaged=damaged)

    def prune(
        self,
        *,
        older_than_s: float | None = None,
        model: str | None = None,
        view: str | None = None,
        max_bytes: int | None = None,
    ) -> int:
        """Drops values by age, model and view, then the oldest beyond a size.

        Args:
            older_than_s: Only those written longer ago than so many seconds.
            model: Only those of this model's fingerprint, hex.
            view: Only those of this view's id.
            max_bytes: Then also the oldest of all, until no more bytes than this are left.

        Returns:
            How many were dropped.
        """
        entries = sorted(self._survey(), key=lambda entry: entry.header.written_ms)
        selects = not (older_than_s is None and model is None and view is None)
        before_ms = _now_ms() - 1000.0 * (older_than_s or 0.0)
        gone = [
            entry
            for entry in entries
            if selects
            and entry.header.written_ms <= before_ms
            and model in (None, entry.header.model)
            and view in (None, entry.header.view)
        ]
        if max_bytes is not None:
            gone += _oldest_beyond(max_bytes, entries, {id(entry) for entry in gone})
        by_server: dict[Server, list[bytes]] = {}
        for entry in gone:
            by_server.setdefault(entry.server, []).append(entry.name)
        return sum(_drop(server, names) for server, names in by_server.items())

    def close(self) -> None:
        """Closes the connections; what comes later opens others."""
        self._servers.close()

    def _record(self, key: bytes, value: bytes) -> Record | None:
        if (parts := split(value)) is None:
            return None
        header, end = parts
        return Record(key, value[end:], header.model, header.view, header.op)

    def _survey(self) -> Iterator[_Entry]:
        """The header of every value."""
        for server, names in self._names():
            found = server.slowly(partial(headers, names)) or []
            for name, (header, nbytes) in zip(names, found, strict=False):
                # A value of another type has none; somebody else wrote it.
                if isinstance(header, bytes) and (parts := split(header)) is not None:
                    yield _Entry(server, name, nbytes - parts[1], parts[0])

    def _names(self) -> Iterator[tuple[Server, list[bytes]]]:
        """The names of all values, some hundred of a server at a time; each once."""
        for server in self._servers.for_survey():
            seen: set[bytes] = set()
            cursor = 0
            while (answer := server.slowly(partial(scan, cursor, self._prefix))) is not None:
                cursor, names = answer
                fresh = [name for name in names if name not in seen]
                seen.update(fresh)
                if fresh:
                    yield server, fresh
                if cursor == 0:
                    break

    def _is_whole(self, name: bytes, value: bytes) -> bool:
        parts = split(value)
        key = name.removeprefix(self._prefix)
        return parts is not None and unseal(key, value[parts[1] :]) is not None


def _drop(server: Server, names: list[bytes]) -> int:
    chunks = (names[at : at + MOST_ITEMS] for at in range(0, len(names), MOST_ITEMS))
    return sum(server.slowly(partial(delete, chunk)) or 0 for chunk in chunks)


def _oldest_beyond(max_bytes: int, entries: Sequence[_Entry], gone: set[int]) -> Iterator[_Entry]:
    """The first of ``entries`` without which the rest is at most ``max_bytes``."""
    kept = [entry for entry in entries if id(entry) not in gone]
    total = sum(entry.nbytes for entry in kept)
    for entry in kept:
        if total <= max_bytes:
            return
        total -= entry.nbytes
        yield entry


def _saved_s(answers: Answers) -> float:
    return _HIT_S * sum(isinstance(value, bytes) for value in answers.each)


def _worth_of_writing_s(answers: Answers) -> float:
    return _WRITE_S * len(answers.each)


def _namespace(name: str) -> str:
    if not _NAMESPACE.fullmatch(name):
        raise InvalidInputError(
            f"namespace must be 1 to 64 letters, digits and any of _.-, got {name!r}"
        )
    return name


def _now_ms() -> float:
    return time.time() * 1000.0
