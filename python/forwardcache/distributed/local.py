"""Workers as processes of this machine, without Ray."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import IO, Any, cast

from forwardcache.distributed.crew import Crew, Hired, check_count
from forwardcache.distributed.shares import shares
from forwardcache.distributed.wire import SEPARATOR
from forwardcache.distributed.worker import Worker
from forwardcache.errors import InvalidInputError

_MODULE = "forwardcache.distributed.process"
_CLOSE_S = 60.0
_ENDING_S = 2.0
# Of what a worker said before it died.
_LAST_BYTES = 4096
_LONGEST_WORDS = 300


@dataclass(eq=False)
class Process(Hired):
    """One worker.

    Attributes:
        place: Whose threads and GPU it has, from 0 to the number of workers; a dead one's is taken.
        process: What runs.
        socket: Where it is asked.
        said: Its standard output and error.
    """

    place: int
    process: subprocess.Popen[bytes]
    socket: Connection[bytes, bytes]
    said: IO[bytes]


class LocalCrew(Crew[Process]):
    """Workers as processes of this machine.

    They end when this process does, however it ends. An interrupt of the terminal is for this
    process alone: what becomes of the workers is its business.

    Args:
        workers: As of ``Crew``.
        options: As of ``Crew``.
        on_gpu: Whether the GPUs that this process may use are shared out, where there are any.
        worker_cpus: Threads that a worker computes with. None: as many as ``OMP_NUM_THREADS`` says,
            or its share of the cores.
        kind: What a worker is: made of its options, with ``load`` and ``close`` as of ``Worker``; a
            class that can be imported.
        copies: As of ``Crew``.

    Raises:
        InvalidInputError: ``workers`` or ``worker_cpus`` is out of range, or no process can be
            started.
    """

    def __init__(
        self,
        workers: int,
        options: Callable[[int], bytes],
        *,
        on_gpu: bool,
        worker_cpus: int | None = None,
        kind: type[Any] = Worker,
        copies: bool = False,
    ) -> None:
        super().__init__(workers, options, copies=copies)
        check_count("worker_cpus", worker_cpus)
        self._shares = shares(workers, on_gpu=on_gpu, worker_cpus=worker_cpus)
        self._kind = f"{kind.__module__}:{kind.__qualname__}"
        try:
            for _ in range(workers):
                self._hire()
        except BaseException:
            self.close()
            raise

    @property
    def shared_out(self) -> str:
        """How many workers there are, and what each has of this machine, in words."""
        return str(self._shares)

    def close(self) -> int:
        """Ends the workers; again it does nothing.

        Those that are still at work are ended at once: a trace loses nothing by that.

        Returns:
            Events that the workers' traces lack.
        """
        closing = [self._call(member, "close") for member in self._idle.values() if member.facts]
        missing, end_s = 0, time.monotonic() + _CLOSE_S
        with suppress(Exception):
            while closing and (done := wait(closing, max(0.0, end_s - time.monotonic()))):
                for each in done:
                    closing.remove(cast(Any, each))
                    if (result := self._result(each)) is not None:
                        with suppress(Exception):
                            missing += self._missing_events(result)
        for member in self.members:
            member.process.kill()
        for member in self.members:
            _end(member)
            member.said.close()
        self.members.clear()
        self._running.clear()
        self._idle.clear()
        return missing

    def _start(self, number: int) -> tuple[Process, Any]:
        taken = {member.place for member in self.members}
        place = next(place for place in range(self._size) if place not in taken)
        ours, theirs = socket.socketpair()
        said = tempfile.TemporaryFile()  # noqa: SIM115 - it is read when the worker is dead
        with theirs:
            try:
                process = subprocess.Popen(
                    [_python(), "-P", "-m", _MODULE, str(theirs.fileno()), self._kind],
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                    pass_fds=[theirs.fileno()],
                    env={**os.environ, **_imports(), **self._shares.environment(place)},
                    process_group=0,
                )
            except OSError as error:
                raise InvalidInputError(f"worker {number} can't be started: {error}") from None
        member = Process(number, place, process, Connection(ours.detach()), said)
        with suppress(OSError):
            member.socket.send_bytes(self._options(number))
        return member, self._call(member, "load")

    def _call(self, member: Process, method: str, data: bytes | None = None) -> Any:
        call = method.encode("ascii")
        # That it is dead is seen when its answer is looked for.
        with suppress(OSError):
            member.socket.send_bytes(call if data is None else call + SEPARATOR + data)
        return member.socket

    def _first_done(self, look_s: float | None = None) -> Any:
        done = wait(list(self._running), look_s)
        return done[0] if done else None

    def _result(self, call: Any) -> bytes | None:
        try:
            result: bytes = call.recv_bytes()
        except (EOFError, OSError):
            return None
        return result

    def _why_dead(self, member: Process) -> str:
        code = _end(member)
        with member.said as said:
            said.seek(max(0, said.seek(0, os.SEEK_END) - _LAST_BYTES))
            lines = said.read().decode("utf-8", "replace").split("\n")
        words = [" ".join(line.split()) for line in lines if line.strip()]
        return f" ({_status_in_words(code)})" + (f": {words[-1][:_LONGEST_WORDS]}" if words else "")


def _end(member: Process) -> int:
    """Ends a worker, whose socket may be closed because it is just ending; its status."""
    member.socket.close()
    with suppress(subprocess.TimeoutExpired):
        return member.process.wait(_ENDING_S)
    member.process.kill()
    return member.process.wait()


def _status_in_words(code: int) -> str:
    if code >= 0:
        return f"exit status {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"


def _python() -> str:
    """The interpreter that runs.

    Raises:
        InvalidInputError: nobody knows which.
    """
    if not sys.executable:
        raise InvalidInputError("workers need an interpreter, and sys.executable is empty")
    return sys.executable


def _imports() -> dict[str, str]:
    """What a process has to be told to import what this one would."""
    return {"PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path)}
