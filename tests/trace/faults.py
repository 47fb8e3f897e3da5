"""Lets each call of the system fail once, in a process that traces or recovers.

The layer below is ``shim/faults.c``. A script is first run without a fault, to learn which calls it
makes; then once for every call and kind of fault.
"""

import errno
import json
import shlex
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.trace import events
from tests.trace.fork_server import ForkServer

SHORT, TORN = -1, -2
"""A write that writes half, and one after which the next write fails, as the layer knows them."""


@dataclass(frozen=True)
class Fault:
    """Which call fails, from 1 (0: none), how, and whether those after it do so too."""

    call: int = 0
    error: int = 0
    lasting: bool = False

    def __str__(self) -> str:
        halves = {SHORT: "short", TORN: "torn", 0: "none"}
        error = halves.get(self.error) or errno.errorcode[self.error]
        return f"{error} {'from' if self.lasting else 'at'} call {self.call}"


ONCE = (errno.ENOSPC, errno.EIO, errno.EINTR, SHORT, TORN)
LASTING = (errno.ENOSPC, errno.EIO)


def every_fault(calls: int) -> list[Fault]:
    """Every call failing in every way."""
    return [
        *(Fault(call, error) for call in range(1, calls + 1) for error in ONCE),
        *(Fault(call, error, True) for call in range(1, calls + 1) for error in LASTING),
    ]


def built_shim(folder: Path) -> Path:
    """The layer, for ``LD_PRELOAD``."""
    source, built = Path(__file__).parent / "shim" / "faults.c", folder / "faults.so"
    command = shlex.split("cc -shared -fPIC -O1 -Wall -Wno-nonnull-compare -o")
    subprocess.run([*command, built, source, "-ldl", "-lpthread"], check=True)
    return built


def run(server: ForkServer, job: str, path: Path, fault: Fault, **arguments: object) -> Any:
    """Does a job of ``jobs`` with a fault; gives what it reports."""
    report = path.parent.with_suffix(".report")
    server.run(job, path=path, fault=asdict(fault), report=report, **arguments)
    return json.loads(report.read_text())


def assert_all_there_but(lost: int, lines: list[events.Line], made: int, how: str) -> None:
    """Of ``made`` events of one view at most ``lost`` are missing; the others are there once."""
    events.assert_no_line_twice(lines)
    events.assert_in_order(lines)
    numbers = events.numbers_by_view(events.events_of(lines), how).get("view", [])
    assert numbers == sorted(set(numbers)), "doubled or out of order"
    missing = set(range(made)) - set(numbers)
    assert len(missing) <= lost, f"{len(missing)} are missing, first {min(missing)}: {lost} lost"
