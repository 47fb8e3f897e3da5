"""Processes that examine cases, some at a time; one that crashes or hangs is replaced.

A crash of the process, or a case that takes too long, is that case's verdict.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from tools.matrix.verdict import Finding, Verdict

ROOT: Final = Path(__file__).resolve().parents[2]
WORKER: Final = (sys.executable, "-m", "tools.matrix.worker")


class Worker:
    """One process, started when it is first needed.

    Args:
        command: What to run; it answers each line with one.
        limit_s: Most seconds for an answer.
    """

    def __init__(self, command: Sequence[str], limit_s: float) -> None:
        self._command, self._limit_s = command, limit_s
        self._process: subprocess.Popen[str] | None = None

    def ask(self, name: str, group: str) -> Verdict:
        """The verdict on a case.

        Args:
            name: The case's.
            group: Its group, for a process that can't say so itself.
        """
        process = self._process = self._process or self._started()
        assert process.stdin is not None
        assert process.stdout is not None
        late = threading.Timer(self._limit_s, process.kill)
        late.start()
        try:
            process.stdin.write(f"{name}\n")
            process.stdin.flush()
            line = process.stdout.readline()
        except OSError:
            line = ""
        is_late = not late.is_alive()
        late.cancel()
        if line.endswith("\n"):
            return Verdict.of_data(json.loads(line))
        return self._died(name, group, is_late)

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _died(self, name: str, group: str, is_late: bool) -> Verdict:
        assert self._process is not None
        self._process.kill()
        code = self._process.wait()
        self._process = None
        how = f"no verdict within {self._limit_s:g} s" if is_late else f"the process {_ended(code)}"
        return Verdict(name, group, {"scoring": Finding("crash", 0.0, how)})

    def _started(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self._command,
            cwd=ROOT,
            env=os.environ | {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )


def _ended(code: int) -> str:
    return f"died of {signal.Signals(-code).name}" if code < 0 else f"exited with {code}"


def verdicts(
    asked: Sequence[tuple[str, str]],
    *,
    processes: int,
    limit_s: float,
    command: Sequence[str] = WORKER,
) -> Iterator[Verdict]:
    """Verdicts on cases as they come, in no order.

    Args:
        asked: Name and group of each case.
        processes: How many run at once.
        limit_s: Most seconds for a case.
        command: What answers.
    """
    waiting: queue.SimpleQueue[tuple[str, str]] = queue.SimpleQueue()
    for each in asked:
        waiting.put(each)
    found: queue.SimpleQueue[Any] = queue.SimpleQueue()
    workers = [Worker(command, limit_s) for _ in range(min(processes, len(asked)))]
    threads = [
        threading.Thread(target=_answer, args=(worker, waiting, found.put), daemon=True)
        for worker in workers
    ]
    for thread in threads:
        thread.start()
    try:
        for _ in asked:
            verdict = found.get()
            if isinstance(verdict, BaseException):
                raise verdict
            yield verdict
    finally:
        for worker in workers:
            worker.close()


def _answer(
    worker: Worker,
    waiting: queue.SimpleQueue[tuple[str, str]],
    put: Callable[[Any], None],
) -> None:
    while True:
        try:
            name, group = waiting.get_nowait()
        except queue.Empty:
            return
        try:
            put(worker.ask(name, group))
        except BaseException as error:
            put(error)
            return
