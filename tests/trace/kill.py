"""Kills processes that trace, close or recover, and looks whether the trace has what it must have.

``python -m tests.trace.kill --kills 10000 --seed 7`` is the long proof; the tests run a short one.
A round traces numbered events in 1 to 4 processes of 1 or 4 threads, ends them in some way, kills
some recoveries, recovers, and checks the trace (``events.assert_exactly``). Its seed repeats its
plan; when a signal arrives is the machine's affair.
"""

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

from tests.trace import events
from tests.trace.fork_server import KILLED, ForkServer, servers
from tests.trace.progress import Phase, Progress

PROCESSES = 4
ENDS = ("killed", "killed closing", "killed opening", "_exit", "abort", "closed")
"""How a process of a round ends; the last leaves nothing to recover."""

# A kill stops a write at a page in memory file systems, and hardly ever on a disk: both are asked.
FOLDERS = [folder for folder in (tempfile.gettempdir(), "/dev/shm") if os.path.isdir(folder)]


@dataclass(frozen=True)
class Process:
    """What one process of a round does."""

    views: list[str]
    end: str
    moment: "Moment"
    """From its beginning to work, or to close, to the signal."""
    steps: int
    """Before it closes or exits by itself."""


@dataclass(frozen=True)
class Plan:
    """A round."""

    seed: int
    folder: str
    how: str
    options: dict[str, float | int]
    processes: list[Process]
    recoveries: list[tuple[str, "Moment"]]
    """Those that are killed: by which call, and when."""

    @classmethod
    def of(cls, seed: int) -> "Plan":
        random = Random(seed)
        threads = random.choice([1, 4])
        return cls(
            seed=seed,
            folder=random.choice(FOLDERS),
            how=random.choice(list(events.EVENTS_A_STEP)),
            options={
                "interval_s": random.choice([0.0005, 0.005, 0.2]),
                "journal_events": random.choice([64, 1024, 32768]),
            },
            processes=[
                process(random, [f"{number} {thread}" for thread in range(threads)])
                for number in range(random.choice([1, 1, 1, PROCESSES]))
            ],
            recoveries=[
                (random.choice(["recover", "open"]), Moment.of(random, 3e-3))
                for _ in range(random.choice([0, 1, 3]))
            ],
        )


def process(random: Random, views: list[str]) -> Process:
    end = random.choices(ENDS, [8, 4, 1, 1, 1, 1])[0]
    most_s = {"killed": 3e-2, "killed closing": 3e-3, "killed opening": 1e-3}.get(end, 0.0)
    return Process(views, end, Moment.of(random, most_s), random.randrange(1, 5000))


@dataclass(frozen=True)
class Moment:
    """When a process is killed that has come to the phase it is to be killed in."""

    delay_s: float
    in_a_write: bool
    """As soon as the trace grows, if it does within the delay."""

    @classmethod
    def of(cls, random: Random, most_s: float) -> "Moment":
        """Half of the time any, else as often early as late: all scales of a thousand."""
        share = random.choice([random.random(), 10 ** random.uniform(-3, 0)])
        return cls(most_s * share, random.random() < 0.5)

    def wait(self, path: Path) -> None:
        if not self.in_a_write:
            time.sleep(self.delay_s)
            return
        size, give_up = size_of(path), time.monotonic() + self.delay_s
        while size_of(path) == size and time.monotonic() < give_up:
            pass


def size_of(path: Path) -> int:
    # It may go at any time.
    with contextlib.suppress(FileNotFoundError):
        return path.stat().st_size
    return 0


@dataclass
class Tally:
    """What the rounds of a proof met."""

    rounds: int = 0
    events: int = 0
    ends: Counter[str] = field(default_factory=Counter)
    met: Counter[str] = field(default_factory=Counter)

    @property
    def kills(self) -> int:
        return sum(count for end, count in self.ends.items() if end.startswith("killed"))

    def lines(self) -> list[str]:
        counts = {"rounds": self.rounds, "kills": self.kills, **self.ends, **self.met}
        return [
            f"{name:28}{count:12,}" for name, count in {**counts, "events": self.events}.items()
        ]


@contextmanager
def folder_of(plan: object, beside: str) -> Iterator[Path]:
    """A new folder for a round; what goes wrong in it is told with the plan."""
    with tempfile.TemporaryDirectory(prefix="kill-", dir=beside) as folder:
        try:
            yield Path(folder)
        except Exception as error:
            error.add_note(f"{plan}")
            raise


def play(plan: Plan, players: Sequence[ForkServer], tally: Tally) -> None:
    """Plays a round; raises ``AssertionError`` with its plan if the trace is wrong."""
    with folder_of(plan, plan.folder) as folder:
        _play(plan, players, folder, tally)


def _play(plan: Plan, players: Sequence[ForkServer], folder: Path, tally: Tally) -> None:
    path = folder / "trace.jsonl"
    progress = [folder / f"progress {number}" for number, _ in enumerate(plan.processes)]
    returned: dict[str, int] = {}
    for process, said, player in zip(plan.processes, progress, players, strict=False):
        begin(plan, process, path, said, player)
    for process, said, player in zip(plan.processes, progress, players, strict=False):
        tally.ends[end(process, path, said, player)] += 1
        with Progress(said) as working:
            returned |= {view: working.returned(n) for n, view in enumerate(process.views)}
    tally.met["journals left"] += len(events.companions(path))
    look(path, tally)
    for by, moment in plan.recoveries:
        tally.ends[kill_recovery(path, by, moment, players[0])] += 1
        look(path, tally)
    if path.exists():
        players[0].run("recover", path=path, progress=folder / "recovered")
        lines = events.read_whole_lines(path)
    else:
        lines = []
    tally.events += events.assert_exactly(lines, returned, plan.how)
    assert events.companions(path) == []
    tally.rounds += 1


def begin(plan: Plan, process: Process, path: Path, said: Path, player: ForkServer) -> None:
    closes = process.end in ("closed", "killed closing")
    exits = process.end in ("_exit", "abort")
    # What is killed at work never comes to its end.
    limit = {"steps": process.steps} if closes or exits else {}
    player.start(
        "trace",
        path=path,
        progress=said,
        how=plan.how,
        views=process.views,
        end=process.end if exits else "close",
        options=plan.options,
        **limit,
    )


def end(process: Process, path: Path, said: Path, player: ForkServer) -> str:
    """Ends a process as planned; says how it did end."""
    moments = {
        "killed opening": Phase.STARTING,
        "killed": Phase.WORKING,
        "killed closing": Phase.CLOSING,
    }
    if process.end not in moments:
        status = player.wait()
        assert status in (0, -6), f"{process} ended with {status}"
        return process.end
    with Progress(said) as working:
        working.wait_for(moments[process.end])
    process.moment.wait(path)
    return process.end if player.kill() == KILLED else "closed before the kill"


def look(path: Path, tally: Tally) -> None:
    """Counts what the dead left, so that a proof that meets nothing is seen as such."""
    if path.exists():
        text = path.read_bytes()
        tally.met["torn last lines"] += not text.endswith(b"\n") and len(text) > 0


def kill_recovery(path: Path, by: str, moment: Moment, player: ForkServer) -> str:
    if not path.exists():
        return "nothing to recover"
    said = path.parent / "recovery"
    said.unlink(missing_ok=True)
    player.start("recover", path=path, progress=said, by=by)
    with Progress(said) as recovering:
        recovering.wait_for(Phase.WORKING)
    moment.wait(path)
    return "killed recovering" if player.kill() == KILLED else "recovered before the kill"


def prove(kills: int, first_seed: int) -> Tally:
    """Plays rounds until so many processes were killed."""
    tally = Tally()
    with servers(PROCESSES) as players:
        for seed in range(first_seed, first_seed + 100 * kills):
            if tally.kills >= kills:
                break
            play(Plan.of(seed), players, tally)
    return tally


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0, help="of the first round")
    arguments = parser.parse_args()
    began = time.monotonic()
    tally = prove(arguments.kills, arguments.seed)
    print(*tally.lines(), f"{'seconds':28}{time.monotonic() - began:12.1f}", sep="\n")
    print(f"none lost, none doubled, none torn; seeds {arguments.seed} and on", file=sys.stderr)


if __name__ == "__main__":
    main()
