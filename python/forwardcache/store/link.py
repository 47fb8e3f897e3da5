"""Asking a server that may be down, slow or full, without the job paying for it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from forwardcache.store.breaker import Breaker
from forwardcache.store.request_worker import BusyError, Pending, RequestWorker

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

# What a round trip may take beyond what its answer is worth.
_TRIP_S = 0.001
# Characters of what a server says; one that speaks another protocol may say anything.
_MOST_WORDS = 200


@dataclass(frozen=True, slots=True)
class _Begun:
    """A call that has begun, and whether its connection is made for it."""

    call: Pending[Any]
    worker: RequestWorker
    is_new: bool


class Link:
    """One connection to a server: for reading, or for writing.

    Args:
        name: What it is for, in the one warning that it gives.
        connect: Makes the client, without waiting for the network.
        disconnect: Cuts a client off.
        breaker: Says when the server is left alone; links to one server share it.

    Attributes:
        errors: Calls that failed or were not answered in time.
        skipped: Items that were not asked for because the server was left alone or busy.
        last_error: What the last call that failed said; None before.
    """

    def __init__(
        self,
        name: str,
        connect: Callable[[], Any],
        disconnect: Callable[[Any], None],
        *,
        breaker: Breaker,
    ) -> None:
        self._name = name
        self._connect, self._disconnect = connect, disconnect
        self._breaker, self._refusals = breaker, Breaker()
        self._worker: RequestWorker | None = None
        self._pid = 0
        self._warned = False
        self.errors = self.skipped = 0
        self.last_error: str | None = None

    @property
    def rests(self) -> bool:
        """Whether the server is left alone now."""
        return self._breaker.is_open or self._refusals.is_open

    def begin(self, job: Callable[[Any], Result], *, items: int, until: float) -> _Begun | None:
        """Begins to ask the server; None if it is left alone or busy.

        Args:
            job: One round trip, given the client.
            items: How many values it is about.
            until: When nobody waits any longer, in seconds of ``time.perf_counter``.
        """
        if self.rests:
            self.skipped += items
            return None
        is_new = self._worker is None
        try:
            worker = self._own_worker()
            return _Begun(worker.begin(job, until), worker, is_new)
        except BusyError:
            self.skipped += items
            return None
        except Exception as error:
            self._failed(0.0, error)
            return None

    def end(self, begun: _Begun, *, until: float, worth_s: Callable[[Any], float]) -> Any | None:
        """What the server answered; None if that fails or takes too long.

        Args:
            begun: What ``begin`` gave.
            until: As in ``begin``.
            worth_s: Seconds that an answer may take: what it saves, or what it may cost.
        """
        try:
            answer = begun.call.result(until)
            late_s = begun.call.took_s - _TRIP_S - worth_s(answer)
        except Exception as error:
            # Whatever a library makes of bytes that are no answer is no reason to stop a job.
            self._failed(begun.call.took_s, error, begun.worker)
            return None
        # A new connection costs some round trips, once.
        self._breaker.answered(0.0 if begun.is_new else late_s)
        return answer

    def refused(self, reason: object) -> None:
        """The server answered and took nothing: this link rests, others to it don't."""
        self._refusals.failed(0.0)
        self._warn(str(reason))

    def accepted(self) -> None:
        """The server took something."""
        self._refusals.answered(0.0)

    def close(self) -> None:
        """Gives the connection up; the next call makes another."""
        worker, self._worker = self._worker, None
        # A parent's connection isn't the child's to close.
        if worker is not None and self._pid == os.getpid():
            worker.close()

    def _own_worker(self) -> RequestWorker:
        if self._worker is None or self._pid != os.getpid():
            self._worker, self._pid = RequestWorker(self._connect, self._disconnect), os.getpid()
        return self._worker

    def _failed(self, lost_s: float, error: Exception, worker: RequestWorker | None = None) -> None:
        self.errors += 1
        # Another thread may have begun a new one meanwhile.
        if worker is self._worker or worker is None:
            self.close()
        self._breaker.failed(lost_s)
        self.last_error = said_by(error)
        self._warn(self.last_error)

    def _warn(self, reason: str) -> None:
        if not self._warned:
            self._warned = True
            _log.warning("shared store: %s fail (%s); the run goes on", self._name, reason)


def said_by(error: BaseException) -> str:
    """What an error says, in one line: its kind, and the server's or the library's words."""
    words = " ".join(str(error).split())
    if isinstance(error, TimeoutError) and not words:
        words = "no answer in time"
    kind = type(error).__name__
    return f"{kind}: {words[:_MOST_WORDS]}" if words else kind
