"""Jobs of up to 1,000 workers in virtual time, on the schedule that jobs run on.

``python -m tools.simulate`` draws 10,000 jobs from seeds: workers of which some are many times
slower, machines that stop for a while (a slow disk), deaths, and a driver that dies and is started
again. Of each it asks: is every chunk's result there, once, is it the chunk's own, in order where
that is asked for, is no chunk done again whose receipt was kept, and was the job done within 5 % of
the ideal? A job that breaks one of these is named by its seed, and ``--seed N`` runs
it again.

What is simulated are workers, time and receipts; what decides is ``distributed.schedule.Schedule``
itself, asked as ``Crew.stream`` asks it. Time that the driver itself takes is left out.

The ideal
    Work is counted in chunks of the usual size. A machine has a speed, in such chunks a second, its
    disk included; it works from when its worker has loaded the model, but for the times at which
    it stands still, and from the death of a worker until the next one has loaded the model. These
    times are drawn beforehand and are the same for the ideal. The ideal is the moment at which the
    machines would have done all work if it could be cut anywhere and nobody ever waited: no
    schedule is quicker. What a death destroys (what was done of a chunk that nobody else had, or
    was done and had no receipt when the driver died) is work that has to be done again, in the
    ideal too: nobody knows of a death beforehand. What a second copy costs is not in the ideal.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import pairwise
from random import Random

from forwardcache.distributed.crew import AHEAD
from forwardcache.distributed.schedule import Schedule
from forwardcache.errors import WorkerError

SCENARIOS = 10_000
BOUND = 1.05
"""How much longer than the ideal a job may take."""
FEWEST_CHUNKS = 50
"""A worker: with fewer the last one, which nobody can cut, is too large a part of the whole."""

# Receipts are kept when there are so many, or the first one waits for so long.
_RECEIPTS, _RECEIPTS_S = 64, 1.0
_NEVER = float("inf")


class Broken(AssertionError):
    """A claim does not hold; the message says which and where."""


@dataclass(frozen=True, slots=True)
class Machine:
    """Where one worker after the other runs.

    Attributes:
        speed: Chunks of the usual size a second.
        load_s: What loading the model takes.
        stops: Sorted times at which it stands still: from, to (s).
        deaths: Sorted moments at which its worker dies (s).
    """

    speed: float
    load_s: float
    stops: tuple[tuple[float, float], ...] = ()
    deaths: tuple[float, ...] = ()

    def works(self, began_s: float, until_s: float) -> float:
        """Seconds between two moments at which it doesn't stand still."""
        found = until_s - began_s
        for start, stop in self._stops_after(began_s):
            if start >= until_s:
                break
            found -= min(stop, until_s) - max(start, began_s)
        return found

    def end_of(self, began_s: float, seconds: float) -> float:
        """When something is done that takes so many seconds of its time."""
        end_s = began_s + seconds
        for start, stop in self._stops_after(began_s):
            if start >= end_s:
                break
            end_s += stop - max(start, began_s)
        return end_s

    def _stops_after(self, moment_s: float) -> tuple[tuple[float, float], ...]:
        first = bisect_right(self.stops, moment_s, key=lambda stop: stop[1])
        return self.stops[first:]

    def rates(self) -> Iterator[tuple[float, float]]:
        """From which moment on it works at which speed, in order."""
        # A worker that dies while it loads doesn't begin to work.
        pauses = [(moment, self.end_of(moment, self.load_s)) for moment in (0.0, *self.deaths)]
        pauses += self.stops
        edges = [edge for start, stop in pauses for edge in ((start, 1), (stop, -1))]
        reasons = 0
        for moment, more in sorted(edges, key=lambda edge: (edge[0], -edge[1])):
            reasons += more
            yield moment, 0.0 if reasons else self.speed


@dataclass(frozen=True, slots=True)
class Scenario:
    """One job, drawn from a seed.

    Attributes:
        seed: What it was drawn from.
        sizes: Of each chunk, 1 is the usual one.
        lives: The machines of each driver in turn, and when it dies, since it began (s).
        is_ordered: Whether rows are written in order, as without parts.
    """

    seed: int
    sizes: tuple[float, ...]
    lives: tuple[tuple[tuple[Machine, ...], float], ...]
    is_ordered: bool


@dataclass(slots=True)
class Outcome:
    """What came of a job.

    Attributes:
        took_s: From its begin to its end; the pauses between two drivers are left out.
        ideal_s: What the ideal takes.
        drivers: How many there were.
        deaths: Of workers.
        again: Work that was done for nothing, as a share of all: copies, and what deaths destroyed.
    """

    took_s: float = 0.0
    ideal_s: float = 0.0
    drivers: int = 0
    deaths: int = 0
    again: float = 0.0


@dataclass(slots=True)
class _Worker:
    """A worker: where it is, and what it does."""

    machine: int
    task: int | None = None
    began_s: float = 0.0


@dataclass(slots=True)
class Life:
    """One driver with its workers, until the job is done or it dies."""

    scenario: Scenario
    machines: tuple[Machine, ...]
    end_s: float
    todo: list[int]
    kept: set[int]
    outcome: Outcome
    now_s: float = 0.0
    destroyed: float = 0.0
    done: list[int] = field(default_factory=list)
    _unkept: list[int] = field(default_factory=list)
    _unkept_since_s: float = _NEVER
    _workers: dict[int, _Worker] = field(default_factory=dict)
    _idle: set[int] = field(default_factory=set)
    _events: list[tuple[float, int, str, int, int]] = field(default_factory=list)
    _hired: int = 0
    _count: int = 0
    _look_s: float = _NEVER
    _waiting: set[int] = field(default_factory=set)

    def run(self) -> bool:
        """Whether the job was done."""
        ahead = AHEAD * len(self.machines) if self.scenario.is_ordered else None
        schedule = Schedule(self.todo, ahead=ahead, copies=True)
        for place, machine in enumerate(self.machines):
            self._hire(place)
            for moment in machine.deaths:
                self._at(moment, "death", place)
        try:
            while not schedule.is_done:
                self._give(schedule)
                if not self._next(schedule):
                    self._die(schedule)
                    return False
        except WorkerError:
            # As a driver that dies: whoever starts the job again goes on.
            self._die(schedule)
            return False
        self._keep()
        return True

    def _at(self, moment_s: float, kind: str, which: int, task: int = -1) -> None:
        self._count += 1
        heappush(self._events, (moment_s, self._count, kind, which, task))

    def _hire(self, place: int) -> None:
        number, self._hired = self._hired, self._hired + 1
        self._workers[number] = _Worker(place)
        machine = self.machines[place]
        self._at(machine.end_of(self.now_s, machine.load_s), "loaded", number)

    def _give(self, schedule: Schedule[int]) -> None:
        for number in schedule.quickest_first(self._idle):
            if (given := schedule.take(number, self.now_s)) is None:
                break
            self._idle.remove(number)
            worker, chunk = self._workers[number], schedule.task(given)
            if chunk in self.kept:
                raise Broken(f"chunk {chunk} is done again, and its receipt was kept")
            worker.task, worker.began_s = given, self.now_s
            machine = self.machines[worker.machine]
            seconds = self.scenario.sizes[chunk] / machine.speed
            self._at(machine.end_of(self.now_s, seconds), "done", number, given)
        if self._idle and self._look_s == _NEVER:
            self._look_s = self.now_s + schedule.look_s
            self._at(self._look_s, "look", 0)

    def _next(self, schedule: Schedule[int]) -> bool:
        """Lets one thing happen; False if the driver died first."""
        moment_s, _, kind, which, task = heappop(self._events)
        if min(moment_s, self._unkept_since_s + _RECEIPTS_S) >= self.end_s:
            self.now_s = self.end_s
            return False
        if moment_s >= self._unkept_since_s + _RECEIPTS_S:
            self._keep()
        self.now_s = moment_s
        if kind == "death":
            self._lose(which, schedule)
        elif kind == "look":
            self._look_s = _NEVER
        elif which in self._workers:
            worker = self._workers[which]
            if kind == "done":
                self._finish(which, worker, task, schedule)
            worker.task = None
            self._idle.add(which)
        return True

    def _finish(self, number: int, worker: _Worker, task: int, schedule: Schedule[int]) -> None:
        if schedule.finish(task, b"%d" % self.todo[task], number, self.now_s):
            self._waiting.add(self.todo[task])
            for chunk, result in schedule.ready():
                if result != b"%d" % chunk:
                    raise Broken(f"chunk {chunk} has the result {result!r}")
                self._take(chunk)
        else:
            self.outcome.again += self.scenario.sizes[self.todo[task]]

    def _take(self, chunk: int) -> None:
        """The driver has a result: rows are written at once, receipts of parts in groups."""
        if chunk not in self._waiting:
            raise Broken(f"chunk {chunk} is handed out twice")
        self._waiting.remove(chunk)
        if self.scenario.is_ordered and self.done and chunk < self.done[-1]:
            raise Broken(f"chunk {chunk} comes after {self.done[-1]}")
        self.done.append(chunk)
        self._unkept.append(chunk)
        self._unkept_since_s = min(self._unkept_since_s, self.now_s)
        if self.scenario.is_ordered or len(self._unkept) >= _RECEIPTS:
            self._keep()

    def _keep(self) -> None:
        if not self.kept.isdisjoint(self._unkept):
            raise Broken(f"of {sorted(self._unkept)} one has a receipt already")
        self.kept.update(self._unkept)
        self._unkept.clear()
        self._unkept_since_s = _NEVER

    def _lose(self, place: int, schedule: Schedule[int]) -> None:
        """A machine's worker dies, and another one takes its place."""
        number = next(n for n, worker in self._workers.items() if worker.machine == place)
        worker = self._workers.pop(number)
        self._idle.discard(number)
        self.outcome.deaths += 1
        self._hire(place)
        if worker.task is not None:
            if self._is_alone(worker, schedule):
                self.destroyed += self._did(worker)
            schedule.lose(worker.task, number)

    def _is_alone(self, worker: _Worker, schedule: Schedule[int]) -> bool:
        others = (other for other in self._workers.values() if other is not worker)
        is_open = worker.task is not None and schedule.is_open(worker.task)
        return is_open and all(other.task != worker.task for other in others)

    def _did(self, worker: _Worker) -> float:
        machine = self.machines[worker.machine]
        return machine.works(worker.began_s, self.now_s) * machine.speed

    def _die(self, schedule: Schedule[int]) -> None:
        """The driver dies, and with it what its workers did and what has no receipt."""
        most: dict[int, float] = {}
        for worker in self._workers.values():
            if worker.task is not None and schedule.is_open(worker.task):
                most[worker.task] = max(most.get(worker.task, 0.0), self._did(worker))
        lost = [*self._unkept, *self._waiting]
        self.destroyed += sum(most.values()) + sum(self.scenario.sizes[one] for one in lost)


def simulate(scenario: Scenario) -> Outcome:
    """Runs a job to its end, however many drivers that takes.

    Raises:
        Broken: a claim does not hold.
    """
    outcome, kept = Outcome(), set[int]()
    chunks, destroyed = range(len(scenario.sizes)), 0.0
    lives: list[tuple[tuple[Machine, ...], float]] = []
    written: list[int] = []
    while len(kept) < len(chunks) or not lives:
        # A driver that ends because a chunk's workers die is followed by one more.
        machines, end_s = scenario.lives[min(len(lives), len(scenario.lives) - 1)]
        todo = [chunk for chunk in chunks if chunk not in kept]
        life = Life(scenario, machines, end_s, todo, kept, outcome)
        is_done = life.run()
        lives.append((machines, life.now_s))
        destroyed += life.destroyed
        written += [chunk for chunk in life.done if chunk in kept]
        if is_done and len(kept) < len(chunks):
            raise Broken(f"the job is done, and {len(chunks) - len(kept)} chunks are lost")
    if sorted(written) != list(chunks):
        raise Broken("a chunk is missing in what was written, or stands there twice")
    if scenario.is_ordered and written != list(chunks):
        raise Broken("rows are not in order")
    work = sum(scenario.sizes)
    outcome.drivers = len(lives)
    outcome.took_s = sum(end_s for _, end_s in lives)
    outcome.ideal_s = ideal_s(work + destroyed, lives)
    outcome.again = (outcome.again + destroyed) / work
    return outcome


def ideal_s(work: float, lives: Iterable[tuple[tuple[Machine, ...], float]]) -> float:
    """The moment at which the machines would have done ``work``; see above.

    Args:
        work: In chunks of the usual size.
        lives: The machines of each driver, and how long it lived (s).
    """
    before_s = 0.0
    for machines, end_s in lives:
        changes: list[tuple[float, float]] = [(end_s, 0.0)]
        for machine in machines:
            rates = list(machine.rates())
            changes.append(rates[0])
            changes += [(at, new - old) for (_, old), (at, new) in pairwise(rates) if new != old]
        rate = 0.0
        for (at, more), (following, _) in pairwise(sorted(changes)):
            rate += more
            until = min(following, end_s)
            if work <= rate * (until - at):
                return before_s + at + work / rate
            work -= rate * max(0.0, until - at)
        before_s += end_s
    return before_s


def draw(seed: int, most_workers: int = 1000) -> Scenario:
    """The job of a seed.

    Args:
        seed: Any number.
        most_workers: Jobs that would have more have as many.
    """
    chance = Random(seed)
    bounds = chance.choices([(1, 8), (9, 60), (61, 300), (1000, 1000)], [760, 200, 38, 2])[0]
    workers = min(chance.randint(*bounds), most_workers)
    usual_s = 10 ** chance.uniform(-0.3, 1.5)
    count = int(workers * chance.uniform(FEWEST_CHUNKS, 1.5 * FEWEST_CHUNKS)) + 1
    width = chance.choice((0.0, 0.3))
    sizes = [chance.uniform(1 - width, 1 + width) for _ in range(count)]
    # What is left over.
    sizes[-1] = chance.uniform(0.05, 1.0)
    scale_s = sum(sizes) / workers * usual_s
    lives = [(_machines(chance, workers, usual_s, scale_s), _NEVER)]
    if chance.random() < 0.3:
        first = _machines(chance, chance.randint(1, workers), usual_s, scale_s)
        lives.insert(0, (first, scale_s * chance.uniform(0.1, 0.4)))
    return Scenario(seed, tuple(sizes), tuple(lives), chance.random() < 0.3)


def _machines(chance: Random, count: int, usual_s: float, scale_s: float) -> tuple[Machine, ...]:
    """Machines of one crew.

    Args:
        chance: What decides.
        count: How many.
        usual_s: What a chunk takes.
        scale_s: About how long the job takes.
    """
    slow, most_times = chance.choice((0.0, 0.05, 0.3)), chance.uniform(2, 10)
    stopping, dying = chance.choice((0.0, 0.1, 0.5)), chance.choice((0.0, 0.05, 0.3))
    load_s = usual_s * chance.uniform(0, 5)
    found = []
    for _ in range(count):
        times = chance.uniform(1, most_times) if chance.random() < slow else 1.0
        speed = chance.uniform(0.8, 1.2) / usual_s / times
        moments = [chance.uniform(0, 1.5) * scale_s for _ in range(chance.randint(1, 3))]
        stops, last = [], 0.0
        for start in sorted(moments) if chance.random() < stopping else ():
            stops.append((max(start, last), max(start, last) + usual_s * chance.uniform(0.5, 20)))
            last = stops[-1][1]
        deaths = sorted(moments) if chance.random() < dying else []
        machine = Machine(speed, load_s * chance.uniform(0.8, 1.2), tuple(stops), tuple(deaths))
        found.append(machine)
    return tuple(found)


def check(scenario: Scenario) -> Outcome:
    """Runs a job and holds its time against the ideal.

    Raises:
        Broken: a claim does not hold.
    """
    outcome = simulate(scenario)
    if outcome.took_s < outcome.ideal_s * (1 - 1e-9):
        raise Broken(f"{outcome.took_s:,.1f} s are less than the ideal {outcome.ideal_s:,.1f} s")
    if outcome.took_s > outcome.ideal_s * BOUND:
        share = outcome.took_s / outcome.ideal_s
        raise Broken(f"{share:.3f} times the ideal {outcome.ideal_s:,.1f} s")
    return outcome


def _summary(found: list[Outcome]) -> str:
    shares = sorted(each.took_s / each.ideal_s for each in found)
    return (
        f"{sum(each.deaths for each in found):,} workers and "
        f"{sum(each.drivers - 1 for each in found):,} drivers died; "
        f"time over the ideal: median {statistics.median(shares):.4f}, "
        f"99 of 100 within {shares[len(shares) * 99 // 100]:.4f}, most {shares[-1]:.4f}; "
        f"done again: median {statistics.median(each.again for each in found):.2%} of the work"
    )


def main(argv: list[str] | None = None) -> int:
    """Checks many jobs; 1 if a claim didn't hold."""
    parser = argparse.ArgumentParser(prog="python -m tools.simulate")
    parser.add_argument("--scenarios", type=int, default=SCENARIOS, help="default: %(default)s")
    parser.add_argument("--first", type=int, default=0, help="the first seed; default: 0")
    parser.add_argument("--seed", type=int, help="only the job of this seed, and what came of it")
    given = parser.parse_args(argv)
    if given.seed is not None:
        print(check(draw(given.seed)))
        return 0
    began, broken = time.monotonic(), 0
    found: list[Outcome] = []
    chunks = 0
    for seed in range(given.first, given.first + given.scenarios):
        scenario = draw(seed)
        chunks += len(scenario.sizes)
        try:
            found.append(check(scenario))
        except Broken as error:
            broken += 1
            workers = len(scenario.lives[-1][0])
            print(f"seed {seed} ({workers} workers): {error}", flush=True)
    print(f"{given.scenarios:,} jobs with {chunks:,} chunks, {broken} broke a claim")
    if found:
        print(_summary(found))
    print(f"took {time.monotonic() - began:,.0f} s", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
