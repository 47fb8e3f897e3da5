"""Random meetings of threads that miss the same keys, one step at a time, beside a model.

A step begins a call in a thread of its own, ends one of the computations under way, or invalidates
or clears. After each step the machine waits until every thread has returned, computes or sleeps in
a wait, so that what each of them must do next is certain: join, be the next to compute, go on
with the older flight.
"""

import itertools
import threading
from dataclasses import dataclass, field
from queue import SimpleQueue
from typing import NamedTuple

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from forwardcache.instrumentation import _MISS, BackendInstrumentation
from tests import proof
from tests.instrumentation.counted import CountedMachine
from tests.instrumentation.together import LONG, asleep

PROMPTS = "ab"
MOST_CALLERS = 6


class ComputeError(Exception):
    """What a failing computation raises."""


class Heard(NamedTuple):
    """What a thread tells: that it computes (no outcome yet), or how its call ended."""

    caller: "Caller"
    computes: bool
    outcome: object


class Caller:
    """A call in a thread of its own, whose computation waits for orders."""

    def __init__(self, inst: BackendInstrumentation, prompt: str, told: SimpleQueue[Heard]) -> None:
        self.inst, self.prompt, self.told = inst, prompt, told
        self.calling = threading.Event()
        self.orders = SimpleQueue[int | None]()
        self.thread = threading.Thread(target=self.call, daemon=True)
        self.thread.start()

    def call(self) -> None:
        self.calling.set()
        outcome: object
        try:
            outcome = self.inst.cached("op", "view", self.prompt, 8, self.compute)
        except Exception as error:
            outcome = type(error)
        self.told.put(Heard(self, False, outcome))

    def compute(self) -> int:
        self.told.put(Heard(self, True, None))
        order = self.orders.get()
        if order is None:
            raise ComputeError
        return order

    def sleep_in_a_wait(self) -> None:
        """Returns when the thread sleeps, which it does only in the cache or for orders."""
        assert self.calling.wait(LONG)
        asleep(self.thread)


@dataclass
class Flight:
    """A computation under way, and who waits for it."""

    prompt: str
    generation: int
    owner: Caller
    waiters: list[Caller] = field(default_factory=list)


class FlightMachine(CountedMachine):
    def __init__(self) -> None:
        super().__init__()
        self.inst, self.told = BackendInstrumentation(), SimpleQueue[Heard]()
        self.callers: list[Caller] = []
        self.numbers = itertools.count(1)
        self.entries: dict[str, int] = {}
        self.flights: list[Flight] = []
        self.generation = self.hits = self.passes = self.failed = 0

    def hear(self, count: int) -> list[Heard]:
        """What exactly ``count`` threads tell."""
        heard = [self.told.get(timeout=LONG) for _ in range(count)]
        for flight in self.flights:
            for waiter in flight.waiters:
                waiter.sleep_in_a_wait()
        assert self.told.empty(), "a thread did what it should not have done"
        return heard

    def present(self, prompt: str) -> Flight | None:
        """The flight that a caller who comes now joins."""
        meant = (prompt, self.generation)
        return next(
            (each for each in self.flights if (each.prompt, each.generation) == meant), None
        )

    def busy(self) -> int:
        return sum(1 + len(flight.waiters) for flight in self.flights)

    @precondition(lambda self: self.busy() < MOST_CALLERS)
    @rule(prompt=st.sampled_from(PROMPTS))
    def begin(self, prompt: str) -> None:
        caller = Caller(self.inst, prompt, self.told)
        self.callers.append(caller)
        flight = self.present(prompt)
        if prompt in self.entries:
            self.hits += 1
            assert self.hear(1) == [Heard(caller, False, self.entries[prompt])]
        elif flight is not None:
            flight.waiters.append(caller)
            self.hear(0)
        else:
            self.flights.append(Flight(prompt, self.generation, caller))
            assert self.hear(1) == [Heard(caller, True, None)]

    @precondition(lambda self: self.flights)
    @rule(which=st.integers(0, MOST_CALLERS - 1))
    def finish(self, which: int) -> None:
        flight = self.flights.pop(which % len(self.flights))
        number = next(self.numbers)
        flight.owner.orders.put(number)
        self.passes += 1
        self.hits += len(flight.waiters)
        if flight.generation == self.generation:
            self.entries[flight.prompt] = number
        ended = self.hear(1 + len(flight.waiters))
        assert {each.caller for each in ended} == {flight.owner, *flight.waiters}
        assert {each[1:] for each in ended} == {(False, number)}

    @precondition(lambda self: self.flights)
    @rule(which=st.integers(0, MOST_CALLERS - 1))
    def fail(self, which: int) -> None:
        flight = self.flights.pop(which % len(self.flights))
        flight.owner.orders.put(None)
        self.failed += 1
        failure = Heard(flight.owner, False, ComputeError)
        later = self.present(flight.prompt)
        if flight.prompt in self.entries:
            self.hits += len(flight.waiters)
            ended = self.hear(1 + len(flight.waiters))
            value = self.entries[flight.prompt]
            expected = [Heard(waiter, False, value) for waiter in flight.waiters]
            assert failure in ended
            assert all(each in ended for each in expected)
        elif later is not None:
            later.waiters += flight.waiters
            assert self.hear(1) == [failure]
        elif flight.waiters:
            heard = self.hear(2)
            assert failure in heard
            (owner,) = [each.caller for each in heard if each.computes]
            waiters = [waiter for waiter in flight.waiters if waiter is not owner]
            assert len(waiters) == len(flight.waiters) - 1
            self.flights.append(Flight(flight.prompt, self.generation, owner, waiters))
            self.hear(0)
        else:
            assert self.hear(1) == [failure]

    @rule()
    def invalidate(self) -> None:
        assert self.inst.invalidate("view") == len(self.entries)
        self.generation += 1
        self.entries.clear()

    @rule()
    def clear(self) -> None:
        self.inst.cache.clear()
        self.entries.clear()

    @invariant()
    def entries_and_counters_are_those_of_the_model(self) -> None:
        cache, stats = self.inst.cache, self.inst.stats
        held = {prompt: cache.peek(("op", "view", prompt, 8)) for prompt in PROMPTS}
        assert held == {prompt: self.entries.get(prompt, _MISS) for prompt in PROMPTS}
        assert (stats.cache_hits, stats.forward_passes) == (self.hits, self.passes)
        assert stats.failed_computes == self.failed
        assert stats.cache_misses == self.passes + self.failed
        assert stats.duplicate_computes == 0

    def teardown(self) -> None:
        for caller in self.callers:
            caller.orders.put(0)
        for caller in self.callers:
            caller.thread.join(LONG)
            assert not caller.thread.is_alive(), "a thread hangs"


TestFlightMachine = FlightMachine.TestCase
TestFlightMachine.settings = settings(
    max_examples=80 * proof.EXAMPLES, stateful_step_count=40, deadline=None
)
