"""Starts, kills and reaps processes in milliseconds: forks of one that has imported everything.

``python -m tests.trace.fork_server JOBS`` reads jobs from standard input, a line of JSON each: the
name of a function of the module ``JOBS`` and its arguments. It answers with the process id of a
fork that does the job, waits for ``wait``, and answers with the status that the fork ended with. It
reaps the fork only then, so a signal never meets a stranger with the same process id.
"""

import contextlib
import importlib
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import IO, Any, NoReturn, Self

from tests.patience import HANG_S

ROOT = Path(__file__).parents[2]
KILLED = -signal.SIGKILL


class ForkServer:
    """One process at a time; for several at once, take several servers.

    Args:
        variables: Set in the environment, besides those of this process.
        jobs: The module with the jobs.
    """

    def __init__(
        self, variables: Mapping[str, str] | None = None, jobs: str = "tests.trace.jobs"
    ) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.trace.fork_server", jobs],
            cwd=ROOT,
            env={**os.environ, **(variables or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        self._server.wait(HANG_S)

    def start(self, job: str, **arguments: object) -> int:
        """Begins a job and returns its process id."""
        self._say(json.dumps([job, arguments], default=str))
        self._child = self._answer()
        return self._child

    def kill(self) -> int:
        """Kills the job; returns how it ended, as ``subprocess`` says it."""
        os.kill(self._child, signal.SIGKILL)
        return self.wait()

    def wait(self) -> int:
        """Waits for the end of the job; returns how it ended, as ``subprocess`` says it."""
        self._say("wait")
        try:
            return self._answer()
        except TimeoutError:
            self._server.terminate()
            raise

    def run(self, job: str, **arguments: object) -> None:
        """Does a job that has to succeed."""
        self.start(job, **arguments)
        status = self.wait()
        assert status == 0, f"{job} {arguments} ended with {status}"

    def _say(self, text: str) -> None:
        pipe = self._pipe(self._server.stdin)
        pipe.write(text.encode() + b"\n")

    def _answer(self) -> int:
        pipe = self._pipe(self._server.stdout)
        ready, _, _ = select.select([pipe], [], [], HANG_S)
        if not ready:
            raise TimeoutError(f"no answer within {HANG_S} s: the process hangs")
        return int(pipe.readline())

    @staticmethod
    def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
        assert pipe is not None
        return pipe


@contextlib.contextmanager
def servers(count: int, jobs: str = "tests.trace.jobs") -> Iterator[list[ForkServer]]:
    """So many servers, all of them ended afterwards."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(ForkServer(jobs=jobs)) for _ in range(count)]


# The server's side


def serve(jobs: ModuleType) -> None:
    requests = iter(sys.stdin.readline, "")
    # A server that is told to go takes its child along.
    signal.signal(signal.SIGTERM, _terminate)
    for request in requests:
        job, arguments = json.loads(request)
        child = os.fork()
        if child == 0:
            _do(getattr(jobs, job), arguments)
        _answer(child)
        _CHILDREN.append(child)
        if next(requests, None) is None:
            _terminate()
        _answer(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        _CHILDREN.remove(child)


_CHILDREN: list[int] = []


def _terminate(*_: object) -> NoReturn:
    for child in _CHILDREN:
        os.kill(child, signal.SIGKILL)
    os._exit(1)


def _do(job: Callable[..., object], arguments: dict[str, Any]) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # The server's pipes are not for a job that prints or reads.
    nowhere = os.open(os.devnull, os.O_RDWR)
    os.dup2(nowhere, 0)
    os.dup2(nowhere, 1)
    job(**arguments)
    os._exit(0)


def _answer(number: int) -> None:
    sys.stdout.write(f"{number}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    serve(importlib.import_module(sys.argv[1]))
