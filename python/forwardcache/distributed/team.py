"""Workers as actors of a Ray cluster: started, given tasks, replaced when they die."""

from __future__ import annotations

import logging
import os
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

# Before Ray is imported: a library does not report to anybody that it is used.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

from forwardcache.distributed.crew import Crew, Hired, check_count
from forwardcache.distributed.shares import cores
from forwardcache.distributed.worker import Worker
from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.extras import extra_named
from forwardcache.jobs.reasons import first_line

with extra_named("a Ray cluster"):
    import ray
    from ray.exceptions import RayActorError, RayError

_log = logging.getLogger(__name__)

LOCAL = "local"

# Only small messages go through it.
_OBJECT_STORE_BYTES = 128 * 2**20
_CLOSE_S = 60.0
# Ray says no more than that it failed to connect, where something answers and the token is missing
# or wrong (2.60).
_TOKEN_HINT = (
    "; something answers there: if that cluster wants a token, set RAY_AUTH_MODE=token, and "
    "RAY_AUTH_TOKEN to its token if that isn't in ~/.ray/auth_token"
)
_REACH_S = 10.0
# How often to look whether workers wait for the cluster, and to say so: soon, then now and then.
_LOOK_S = 1.0
_FIRST_WORD_S = 5.0
_WORD_EVERY_S = 60.0


@dataclass(eq=False)
class Member(Hired):
    """One worker.

    Attributes:
        actor: Its handle in Ray.
        begun: What is done when its process runs; until then it waits for the cluster.
    """

    actor: Any
    begun: Any


class Team(Crew[Member]):
    """Workers as actors of a Ray cluster.

    Args:
        workers: As of ``Crew``.
        options: As of ``Crew``.
        address: The cluster: "local" for one on this machine, made here; "auto" or HOST:PORT or
            ray://HOST:PORT for one that runs. A connection that the process has is used as it is.
        on_gpu: Whether each takes a GPU where the cluster has any (several share one if there are
            fewer GPUs than workers).
        worker_cpus: Cores that a worker asks the cluster for, and computes with. None: its share of
            the cores of a cluster that is made here, and one of a cluster that runs, where others'
            work may need the rest. A number of threads that is set (``OMP_NUM_THREADS``) is kept.
        kind: What a worker is: made of its options, with ``load`` and ``close`` as of ``Worker``.
        copies: As of ``Crew``.

    Attributes:
        members: Those that are there; loading or loaded.

    Raises:
        InvalidInputError: ``workers`` or ``worker_cpus`` is out of range, or there is no such
            cluster, or it wants a token.
        ForwardCacheError: the model can't be loaded.
        MachineError: Ray can't start a cluster on this machine.
        WorkerError: workers die while they load it.
    """

    def __init__(
        self,
        workers: int,
        options: Callable[[int], bytes],
        *,
        address: str,
        on_gpu: bool,
        worker_cpus: int | None = None,
        kind: type[Any] = Worker,
        copies: bool = False,
    ) -> None:
        super().__init__(workers, options, copies=copies)
        check_count("worker_cpus", worker_cpus)
        self._owns_cluster = _connect(address, workers * (worker_cpus or 1))
        gpus = float(_resources().get("GPU", 0.0)) if on_gpu else 0.0
        # Ray counts GPUs in ten-thousandths.
        share = int(min(1.0, gpus / workers) * 10_000) / 10_000
        there = int(_resources().get("CPU", 1.0)) if self._owns_cluster else 1
        self._asks = {"CPU": worker_cpus or max(1, there // workers), "GPU": share}
        # Ray gives a worker's process as many threads as it asks for cores.
        self._kind = ray.remote(num_cpus=self._asks["CPU"], num_gpus=share)(kind)
        self._next_word_s = 0.0
        for _ in range(workers):
            self._hire()

    @property
    def shared_out(self) -> str:
        """How many workers there are, and what each asks the cluster for, in words."""
        many = f"{self._size} worker{'' if self._size == 1 else 's'} of a Ray cluster"
        return f"{many}: each asks for {self._asked()}"

    def close(self) -> int:
        """Ends the workers, and the cluster if it was made here; again it does nothing.

        Returns:
            Events that the workers' traces lack.
        """
        # Ray begins a cluster of its own for whoever asks it for something and has none.
        missing = self._end_members() if self.members and ray.is_initialized() else 0
        self.members.clear()
        self._running.clear()
        self._idle.clear()
        if self._owns_cluster:
            self._owns_cluster = False
            ray.shutdown()
        return missing

    def _end_members(self) -> int:
        """Ends the workers; how many events their traces lack."""
        late = self._lost_copies()
        closing = [
            member.actor.close.remote()
            for member in self.members
            if member.facts and member.number not in late
        ]
        missing = 0
        with suppress(Exception):
            # One that died has no more to close.
            done, _ = ray.wait(closing, num_returns=len(closing), timeout=_CLOSE_S)
            for each in done:
                with suppress(Exception):
                    missing += self._missing_events(ray.get(each))
        for member in self.members:
            ray.kill(member.actor)
        return missing

    def _first_done(self, look_s: float | None = None) -> Any:
        """The call that is done first; says meanwhile who waits for the cluster."""
        while True:
            done, _ = ray.wait(list(self._running), num_returns=1, timeout=look_s or _LOOK_S)
            if done:
                return done[0]
            self._tell_who_waits()
            if look_s:
                return None

    def _tell_who_waits(self) -> None:
        if time.monotonic() < self._next_word_s:
            return
        _, waiting = ray.wait(
            [member.begun for member in self.members], num_returns=len(self.members), timeout=0
        )
        if not waiting:
            return
        self._next_word_s = time.monotonic() + _WORD_EVERY_S
        there, free = _resources(), _free()
        _log.warning(
            "%d of %d workers wait for the cluster: each asks for %s; free are %s",
            len(waiting),
            len(self.members),
            self._asked(),
            " and ".join(
                f"{free.get(name, 0.0):g} of {there.get(name, 0.0):g} {name}"
                for name, number in self._asks.items()
                if number
            ),
        )

    def _asked(self) -> str:
        return " and ".join(f"{number:g} {name}" for name, number in self._asks.items() if number)

    def _start(self, number: int) -> tuple[Member, Any]:
        actor = self._kind.remote(self._options(number))
        member = Member(number, actor, actor.__ray_ready__.remote())
        self._next_word_s = time.monotonic() + _FIRST_WORD_S
        return member, actor.load.remote()

    def _call(self, member: Member, method: str, data: bytes) -> Any:
        return getattr(member.actor, method).remote(data)

    def _result(self, call: Any) -> bytes | None:
        try:
            result: bytes = ray.get(call)
        except RayActorError:
            return None
        return result


def _resources() -> dict[str, float]:
    found: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return found


def _free() -> dict[str, float]:
    found: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
    return found


def _check_reachable(address: str) -> None:
    """Connects once to an address with a port: Ray itself would try for many minutes.

    Raises:
        OSError: nobody answers there.
        ValueError: the port is no port.
    """
    parts = urlsplit(address if "//" in address else f"//{address}")
    if parts.hostname and parts.port:
        socket.create_connection((parts.hostname, parts.port), _REACH_S).close()


def _connect(address: str, least_cpus: int) -> bool:
    """Whether a cluster was made here."""
    if ray.is_initialized():
        return False
    # Ray would set up its own logging, and say on standard error that it has begun.
    quiet: dict[str, Any] = {"log_to_driver": False, "configure_logging": False}
    try:
        if address == LOCAL:
            ray.init(
                address=LOCAL,
                num_cpus=max(least_cpus, cores()),
                include_dashboard=False,
                object_store_memory=_OBJECT_STORE_BYTES,
                **quiet,
            )
        else:
            _check_reachable(address)
            ray.init(address=address, **quiet)
    except (OSError, ValueError, RuntimeError, RayError) as error:
        reason = first_line(error)
        hint = _TOKEN_HINT if "Failed to connect" in reason and ":" in address else ""
        raise InvalidInputError(f"no Ray cluster at {address!r}: {reason}{hint}") from None
    except Exception as error:
        # What Ray raises where its processes don't start in time has no type of its own (2.60).
        if address != LOCAL or type(error) is not Exception:
            raise
        raise MachineError(f"Ray can't start on this machine: {first_line(error)}") from None
    return True
