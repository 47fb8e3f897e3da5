"""A store that machines share: Redis or Valkey.

A value's key in Redis is the namespace and the store's key; what is stored there is the sealed
value after a short header that says when it was written and for which model, view and op. The
sealed value is given back as it came: whoever reads it checks it.

A job never waits long for the server. Every round trip has 50 ms (``request_worker``); after an
error or a slow answer the store is left alone for at least forty times as long as that took
(``breaker``), and what would have been read or written then is a miss or isn't kept. A server that
is full is still read (``link``).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

from forwardcache.errors import InvalidInputError
from forwardcache.extras import extra_named
from forwardcache.store.address import milliseconds, parse
from forwardcache.store.base import Record, StoreCheck, StoreInfo
from forwardcache.store.breaker import Breaker
from forwardcache.store.header import MOST_HEADER_BYTES, Header, split
from forwardcache.store.link import Link, said_by
from forwardcache.store.seal import unseal

with extra_named("a shared store"):
    import redis
    from redis.backoff import NoBackoff
    from redis.exceptions import ClusterCrossSlotError, MovedError
    from redis.retry import Retry

Result = TypeVar("Result")

DEFAULT_TTL_S = 30 * 24 * 3600.0

# Looking through all that is there is no part of a job and may take longer.
_CALL_S, _SURVEY_S = 0.050, 5.0
_MOST_ITEMS, _MOST_BYTES = 256, 2**20

# A value that is there has saved at least this much of a forward; one that is not has only cost.
_HIT_S = 0.001
# What writing a value may take.
_WRITE_S = 0.00005

_NAMESPACE = re.compile(r"[A-Za-z0-9_.-]{1,64}")


@dataclass(frozen=True, slots=True)
class _Entry:
    """A value that is there: its name in Redis, the bytes after its header, and the header."""

    name: bytes
    nbytes: int
    header: Header


class RedisStore:
    """Sealed values in a Redis or Valkey server. Never raises once it is made.

    Made without asking the server, which may come and go. Serves several threads, and goes on in a
    forked child with connections of its own. One server, or one that is a whole cluster by itself;
    where other nodes hold part of the keys it asks no more after the first answer that says so.

    Args:
        url: ``redis://[[user]:password@]host[:port][/database]``; ``rediss://`` for TLS;
            ``valkey://`` and ``valkeys://`` mean the same. ``namespace``, ``ttl_s`` and options of
            the connection may be in its query: ``redis://host/0?namespace=team&ttl_s=86400``. A
            time-out there only shortens this store's own.
        namespace: Who shares values: 1 to 64 letters, digits and ``_.-``.
        ttl_s: Seconds after which a value that was not written again is dropped; None for never.

    Attributes:
        namespace: As given.
        damaged: Values without a header of ours that were met.
        refused: Values that the server did not take (it is full, or only to be read).
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
        self._is_cluster = False
        breaker = Breaker()
        self._reading, self._writing = self._link("reads", breaker), self._link("writes", breaker)
        self._survey_errors = 0
        self._survey_error: str | None = None

    def __repr__(self) -> str:
        # Without the URL, which may hold a password.
        return f"<{type(self).__name__} {self._address.host}, {self.namespace}>"

    @property
    def errors(self) -> int:
        """Calls that failed or were not answered in time."""
        return self._reading.errors + self._writing.errors + self._survey_errors

    @property
    def last_error(self) -> str | None:
        """What the last call that failed said."""
        return self._survey_error or self._reading.last_error or self._writing.last_error

    @property
    def skipped(self) -> int:
        """Values that were not asked for, or not written, while the server was left alone."""
        return self._reading.skipped + self._writing.skipped

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
        found: list[Record] = []
        for begin in range(0, len(keys), _MOST_ITEMS):
            found += self._read(list(keys[begin : begin + _MOST_ITEMS]))
        return found

    def put_many(self, records: Sequence[Record]) -> int:
        """Writes values over what was there.

        Args:
            records: Sealed values.

        Returns:
            How many the server took.
        """
        return sum(self._write(chunk) for chunk in _chunks(records))

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
        for names in self._names():
            values = self._slowly(partial(self._values, names)) or []
            pairs = zip(names, values, strict=False)
            # One that has gone since its name was read is neither whole nor damaged.
            there = [(name, value) for name, value in pairs if value is not None]
            broken = [name for name, value in there if not self._is_whole(name, value)]
            ok, damaged = ok + len(there) - len(broken), damaged + len(broken)
            self._drop(broken)
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
            gone += _oldest_beyond(max_bytes, entries, {entry.name for entry in gone})
        return self._drop([entry.name for entry in gone])

    def close(self) -> None:
        """Closes the connections; what comes later opens others."""
        self._reading.close()
        self._writing.close()

    def _read(self, keys: list[bytes]) -> list[Record]:
        names = [self._prefix + key for key in keys]
        values = self._reading.ask(partial(self._values, names), items=len(keys), worth_s=_saved_s)
        pairs = zip(keys, values or [], strict=False)
        records = [self._record(key, value) for key, value in pairs if value is not None]
        found = [record for record in records if record is not None]
        self.damaged += len(records) - len(found)
        return found

    def _record(self, key: bytes, value: bytes) -> Record | None:
        if (parts := split(value)) is None:
            return None
        header, end = parts
        return Record(key, value[end:], header.model, header.view, header.op)

    def _write(self, records: Sequence[Record]) -> int:
        now = int(_now_ms())
        pairs = [
            (self._prefix + one.key, Header(now, one.model, one.view, one.op).packed() + one.blob)
            for one in records
        ]
        job, worth_s = partial(_set, pairs, self._ttl_ms), len(pairs) * _WRITE_S
        answers = self._writing.ask(job, items=len(pairs), worth_s=lambda _: worth_s) or []
        kept = sum(answer is True for answer in answers)
        self.refused += len(answers) - kept
        if kept:
            self._writing.accepted()
        elif answers:
            # Full, or only to be read: asking again at once would cost as much for nothing.
            self._writing.refused(answers[0])
        return kept

    def _survey(self) -> Iterator[_Entry]:
        """The header of every value."""
        for names in self._names():
            headers = self._slowly(partial(_headers, names)) or []
            for name, (header, nbytes) in zip(names, headers, strict=False):
                # A value of another type has none; somebody else wrote it.
                if isinstance(header, bytes) and (parts := split(header)) is not None:
                    yield _Entry(name, nbytes - parts[1], parts[0])

    def _names(self) -> Iterator[list[bytes]]:
        """The names of all values, some hundred at a time; each once."""
        seen: set[bytes] = set()
        cursor = 0
        while (answer := self._slowly(partial(_scan, cursor, self._prefix))) is not None:
            cursor, names = answer
            fresh = [name for name in names if name not in seen]
            seen.update(fresh)
            if fresh:
                yield fresh
            if cursor == 0:
                return

    def _slowly(self, job: Callable[[Any], Result]) -> Result | None:
        """An answer outside a job: at once, however long the server took before."""
        try:
            with self._client(_SURVEY_S) as client:
                return job(client)
        except Exception as error:
            # As in a job; whoever asked sees it in ``errors``.
            self._survey_errors += 1
            self._survey_error = said_by(error)
            return None

    def _values(self, names: list[bytes], client: Any) -> list[bytes | None]:
        """What is stored under those names; a cluster is asked for one after the other."""
        if not self._is_cluster:
            try:
                return _mget(names, client)
            except ClusterCrossSlotError:
                self._is_cluster = True
        return _gets(names, client)

    def _is_whole(self, name: bytes, value: bytes) -> bool:
        parts = split(value)
        key = name.removeprefix(self._prefix)
        return parts is not None and unseal(key, value[parts[1] :]) is not None

    def _drop(self, names: list[bytes]) -> int:
        chunks = (names[at : at + _MOST_ITEMS] for at in range(0, len(names), _MOST_ITEMS))
        return sum(self._slowly(partial(_delete, chunk)) or 0 for chunk in chunks)

    def _link(self, name: str, breaker: Breaker) -> Link:
        connect = partial(self._client, _CALL_S)
        return Link(
            name, connect, _cut_off, breaker=breaker, timeout_s=_CALL_S, ends_it=_is_of_cluster
        )

    def _client(self, timeout_s: float) -> Any:
        address = self._address
        longest_s = min(timeout_s, address.timeout_s or timeout_s)
        # What this store needs comes last: nothing in an address may change it.
        options = {"protocol": 2, **address.options} | {
            "socket_timeout": longest_s,
            "socket_connect_timeout": longest_s,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
        }
        kind = redis.SSLConnection if address.has_tls else redis.Connection
        return redis.Redis.from_pool(redis.ConnectionPool(connection_class=kind, **options))


def _oldest_beyond(max_bytes: int, entries: Sequence[_Entry], gone: set[bytes]) -> Iterator[_Entry]:
    """The first of ``entries`` without which the rest is at most ``max_bytes``."""
    kept = [entry for entry in entries if entry.name not in gone]
    total = sum(entry.nbytes for entry in kept)
    for entry in kept:
        if total <= max_bytes:
            return
        total -= entry.nbytes
        yield entry


def _mget(names: list[bytes], client: Any) -> list[bytes | None]:
    values = client.mget(names)
    if not isinstance(values, list) or len(values) != len(names):
        raise ValueError("the server's answer is not one value a key")
    if any(value is not None and not isinstance(value, bytes) for value in values):
        raise ValueError("the server's values are not bytes")
    return values


def _gets(names: list[bytes], client: Any) -> list[bytes | None]:
    """As ``_mget``, for keys that are in several slots of a cluster."""
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.get(name)
    answers = pipeline.execute(raise_on_error=False)
    _check_no_other_node(answers)
    for answer in answers:
        # A value of another type is somebody else's.
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            raise answer
    return [answer if isinstance(answer, bytes) else None for answer in answers]


def _check_no_other_node(answers: Sequence[Any]) -> None:
    for answer in answers:
        if isinstance(answer, MovedError):
            raise answer


def _is_of_cluster(error: Exception) -> str | None:
    """Why a server is not asked again after ``error``; None if it may be."""
    if not isinstance(error, MovedError):
        return None
    return (
        f"the server is one node of a cluster, and others hold part of the keys (MOVED {error}): "
        "name a server that is no part of one"
    )


def _set(pairs: Sequence[tuple[bytes, bytes]], ttl_ms: int | None, client: Any) -> list[Any]:
    pipeline = client.pipeline(transaction=False)
    for name, value in pairs:
        pipeline.set(name, value, px=ttl_ms)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    if len(answers) != len(pairs):
        raise ValueError("the server's answer is not one word a value")
    _check_no_other_node(answers)
    return answers


def _scan(cursor: int, prefix: bytes, client: Any) -> tuple[int, list[bytes]]:
    following, names = client.scan(cursor, match=prefix + b"*", count=_MOST_ITEMS)
    return int(following), list(names)


def _headers(names: list[bytes], client: Any) -> list[tuple[Any, Any]]:
    """The first bytes and the whole length of each value."""
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.getrange(name, 0, MOST_HEADER_BYTES - 1)
        pipeline.strlen(name)
    answers = pipeline.execute(raise_on_error=False)
    return list(zip(answers[::2], answers[1::2], strict=True))


def _delete(names: list[bytes], client: Any) -> int:
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.delete(name)
    return sum(pipeline.execute())


def _saved_s(values: Sequence[bytes | None]) -> float:
    return _HIT_S * sum(value is not None for value in values)


def _cut_off(client: Any) -> None:
    client.connection_pool.disconnect(inuse_connections=True)


def _chunks(records: Sequence[Record]) -> Iterator[list[Record]]:
    """Records in parts of one round trip each."""
    chunk: list[Record] = []
    size = 0
    for record in records:
        if chunk and (len(chunk) >= _MOST_ITEMS or size + len(record.blob) > _MOST_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += len(record.blob)
    if chunk:
        yield chunk


def _namespace(name: str) -> str:
    if not _NAMESPACE.fullmatch(name):
        raise InvalidInputError(
            f"namespace must be 1 to 64 letters, digits and any of _.-, got {name!r}"
        )
    return name


def _now_ms() -> float:
    return time.time() * 1000.0
