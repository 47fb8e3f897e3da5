"""One server of a shared store: its connections, and when it is left alone."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from forwardcache.extras import extra_named
from forwardcache.store.address import Address
from forwardcache.store.breaker import Breaker
from forwardcache.store.link import Link, said_by
from forwardcache.store.redis_calls import cut_off
from forwardcache.store.slots import Node

with extra_named("a shared store"):
    import redis
    from redis.backoff import NoBackoff
    from redis.retry import Retry

Result = TypeVar("Result")

# Looking through all that is there is no part of a job and may take longer.
_SURVEY_S = 5.0


class Server:
    """A server, asked by a job through two links, and by surveys directly.

    Args:
        node: Its host and port.
        address: How it is reached beyond that.
        call_s: The longest wait for one round trip of a job, in seconds.
        servers: How many the job asks, this one among them.

    Attributes:
        node: As given.
        reading: The link for reading.
        writing: The link for writing.
    """

    def __init__(self, node: Node, address: Address, *, call_s: float, servers: int) -> None:
        self.node = node
        self._address = address
        breaker, of = Breaker(servers=servers), f" of {node[0]}:{node[1]}" if servers > 1 else ""
        connect = partial(self._client, call_s)
        self.reading = Link(f"reads{of}", connect, cut_off, breaker=breaker)
        self.writing = Link(f"writes{of}", connect, cut_off, breaker=breaker)
        self._survey_errors = 0
        self._survey_error: str | None = None

    @property
    def errors(self) -> int:
        """Calls that failed or were not answered in time."""
        return self.reading.errors + self.writing.errors + self._survey_errors

    @property
    def last_error(self) -> str | None:
        """What the last call that failed said."""
        return self._survey_error or self.reading.last_error or self.writing.last_error

    @property
    def skipped(self) -> int:
        """Values that were not asked for, or not written, while the server was left alone."""
        return self.reading.skipped + self.writing.skipped

    def slowly(self, job: Callable[[Any], Result], *, counts: bool = True) -> Result | None:
        """An answer outside a job: at once, however long the server took before; None if it fails.

        Args:
            job: One round trip, given the client.
            counts: Whether a failure is an error.
        """
        try:
            with self._client(_SURVEY_S) as client:
                return job(client)
        except Exception as error:
            # As in a job; whoever asked sees it in ``errors``.
            if counts:
                self._survey_errors += 1
                self._survey_error = said_by(error)
            return None

    def close(self) -> None:
        """Closes the connections; what comes later opens others."""
        self.reading.close()
        self.writing.close()

    def _client(self, timeout_s: float) -> Any:
        address = self._address
        longest_s = min(timeout_s, address.timeout_s or timeout_s)
        host, port = self.node
        # What this store needs comes last: nothing in an address may change it.
        options = {"protocol": 2, **address.options} | {
            "host": host,
            "port": port,
            "socket_timeout": longest_s,
            "socket_connect_timeout": longest_s,
            "retry": Retry(NoBackoff(), 0),
            "decode_responses": False,
        }
        kind = redis.SSLConnection if address.has_tls else redis.Connection
        return redis.Redis.from_pool(redis.ConnectionPool(connection_class=kind, **options))
