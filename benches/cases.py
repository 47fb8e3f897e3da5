"""What is asked: prompts of four lengths, met again as the same object, as an equal one, or never.

A loop gets a list of prompts and looks each up once. ``same`` is what a probe suite does that
keeps its prompts; ``fresh`` is what happens when they are read or formatted anew: the ``str`` has
no hash yet and has to be compared; ``new`` prompts were never seen: miss, insert and evict. Those
of ``made`` are new too, and each is made in the loop that looks it up, as a job formats its own.
"""

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

OP, VIEW_ID, TOP_K = "next_token_dist", "base", 256
SIZES = {"40 B": 40, "400 B": 400, "4 KB": 4_096, "64 KB": 65_536}
CAPACITY = 256
BATCH = 1_024
MOST_BYTES = 16 << 20

Prompts = Sequence[str]


class Again(Protocol):
    """Which prompts the samples of a loop get: gives their maker for a size."""

    __name__: str

    def __call__(self, size: int, /) -> Callable[[], Prompts]: ...


def count(size: int) -> int:
    """How many lookups one sample holds: many, but no more text than stays cheap to make."""
    return min(2_000, MOST_BYTES // size)


def text(number: int, size: int) -> str:
    return f"{number:016d}".ljust(size, "x")


def copy(prompt: str) -> str:
    """An equal ``str`` that is another object and has no hash yet."""
    return "".join((prompt[:1], prompt[1:]))


def same(size: int) -> Callable[[], Prompts]:
    prompts = [text(0, size)] * count(size)
    return lambda: prompts


def fresh(size: int) -> Callable[[], Prompts]:
    prompt = text(0, size)
    return lambda: [copy(prompt) for _ in range(count(size))]


def new(size: int) -> Callable[[], Prompts]:
    numbers = itertools.count()
    return lambda: [text(next(numbers), size) for _ in range(count(size))]


class Made(Sequence[str]):
    """Prompts that exist only while they are looked up."""

    def __init__(self, numbers: range, size: int) -> None:
        self._numbers, self._make = numbers, f"{{:0{size}d}}".format

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, at: Any) -> Any:
        raise NotImplementedError("a loop goes over them once")

    def __iter__(self) -> Iterator[str]:
        return map(self._make, self._numbers)


def made(size: int) -> Callable[[], Prompts]:
    starts = itertools.count(step=count(size))

    def prompts() -> Prompts:
        start = next(starts)
        return Made(range(start, start + count(size)), size)

    return prompts


def same_batch(size: int) -> Callable[[], Prompts]:
    prompts = [text(number, size) for number in range(BATCH)]
    return lambda: prompts


def fresh_batch(size: int) -> Callable[[], Prompts]:
    prompts = same_batch(size)()
    return lambda: [copy(prompt) for prompt in prompts]
