"""How it is measured: in one process, interleaved, thread CPU time, medians of many rounds.

In every round each contender runs the same number of lookups, and the order turns by one from round
to round, so that a slow moment of the machine meets all of them. A ratio is the median of the
rounds' own ratios. CPU time of the thread leaves out what other processes take.
"""

import gc
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from benches.cases import Prompts
from benches.contenders import Loop


@dataclass(frozen=True)
class Samples:
    """Nanoseconds a lookup, for each contender, round by round."""

    of: dict[str, list[float]]

    def ns(self, name: str) -> float:
        return statistics.median(self.of[name])

    def ratio(self, name: str, to: str) -> float:
        """How many times as long ``name`` takes as ``to``."""
        pairs = zip(self.of[name], self.of[to], strict=True)
        return statistics.median(one / other for one, other in pairs)


def interleaved(loops: dict[str, Loop], prompts: Callable[[], Prompts], rounds: int) -> Samples:
    """Measures all loops; ``prompts`` makes the prompts of a sample, outside the measured time."""
    for loop in loops.values():
        loop(prompts())
    samples: dict[str, list[float]] = {name: [] for name in loops}
    gc.collect()
    gc.disable()
    try:
        for number in range(rounds):
            for name in turned(list(loops), number):
                samples[name].append(one_sample(loops[name], prompts()))
    finally:
        gc.enable()
    return Samples(samples)


def turned(names: Sequence[str], number: int) -> list[str]:
    first = number % len(names)
    return [*names[first:], *names[:first]]


def one_sample(loop: Loop, prompts: Prompts) -> float:
    began = time.thread_time_ns()
    loop(prompts)
    return (time.thread_time_ns() - began) / len(prompts)
