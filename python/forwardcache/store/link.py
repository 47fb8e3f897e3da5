"""Asking a server that may be down, slow or full, without the job paying for it."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from typing import Any, TypeVar

from forwardcache.store.breaker import Breaker
from forwardcache.store.request_worker import BusyError, RequestWorker

_log = logging.getLogger(__name__)

Result = TypeVar("Result")

# What a round trip may take beyond what its answer is worth.
_TRIP_S = 0.001
# Characters of what a server says; one that speaks another protocol may say anything.
_MOST_WORDS = 200


class Link:
    """One connection to a server: for reading, or for writing.

    Args:
        name: What it is for, in the one warning that it gives.
        connect: Makes the client, without waiting for the network.
        disconnect: Cuts a client off.
        breaker: Says when the server is left alone; links to one server share it.
        timeout_s: Longest wait for an answer.
        ends_it: Why the server is not to be asked again after an error; None if it may be.

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
        timeout_s: float,
        ends_it: Callable[[Exception], str | None] = lambda _: None,
    ) -> None:
        self._name = name
        self._connect, self._disconnect = connect, disconnect
        self._timeout_s, self._ends_it = timeout_s, ends_it
        self._breaker, self._refusals = breaker, Breaker()
        self._worker: RequestWorker | None = None
        self._pid = 0
        self._warned = False
        self.errors = self.skipped = 0
        self.last_error: str | None = None

    def ask(
        self,
        job: Callable[[Any], Result],
        *,
        items: int,
        worth_s: Callable[[Result], float],
    ) -> Result | None:
        """What ``job(client)`` returns; None if it isn't asked, fails, or takes too long.

        Args:
            job: One round trip.
            items: How many values it is about.
            worth_s: Seconds that an answer may take: what it saves, or what it may cost.
        """
        if self._breaker.is_open or self._refusals.is_open:
            self.skipped += items
            return None
        is_new, began = self._worker is None, time.perf_counter()
        try:
            answer = self._own_worker().call(job, self._timeout_s)
        except BusyError:
            self.skipped += items
            return None
        except Exception as error:
            # Whatever a library makes of bytes that are no answer is no reason to stop a job.
            self._failed(time.perf_counter() - began, error)
            return None
        late_s = time.perf_counter() - began - _TRIP_S - worth_s(answer)
        # A new connection costs some round trips, once.
        self._breaker.answered(0.0 if is_new else late_s)
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

    def _failed(self, lost_s: float, error: Exception) -> None:
        self.errors += 1
        self.close()
        self._breaker.failed(lost_s)
        reason = self._ends_it(error)
        if reason is not None:
            self._breaker.stay_open()
        self.last_error = reason or said_by(error)
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
