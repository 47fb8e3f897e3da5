"""Prompts of an attacker who knows CPython's hash without its seed, and what they cost.

``python flood.py choose FILE`` searches them, under ``PYTHONHASHSEED=0``; ``python flood.py measure
FILE`` prints, for each kind, how many times the CPU time of random prompts they take.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count, islice
from pathlib import Path
from time import process_time

from forwardcache.instrumentation import BackendInstrumentation

PROMPTS = 100_000
_BITS = 5
_MANY_BITS = 20
_ROUNDS = 2

Prompt = str | tuple[str, str]


def chosen() -> dict[str, list[Prompt]]:
    """Prompts that meet in a table which goes by some bits of CPython's own hash, by kind.

    A table's index is made of low bits, and hashbrown tells entries apart by the high ones. All
    other fields of a key are equal here, so with factors that are not secret the sum of the fields'
    hashes is such a hash too.
    """
    mask = (1 << _BITS) - 1
    kinds: dict[str, tuple[Callable[[int], Prompt], int]] = {
        "low bits": (lambda number: f"prompt {number}", 0),
        "high bits": (lambda number: f"prompt {number}", 64 - _BITS),
        "middle bits": (lambda number: f"prompt {number}", 16),
        "low bits of two fields": (lambda number: ("prompt", str(number)), 0),
    }
    return {
        kind: list(islice(_meeting(made, mask << shift), PROMPTS))
        for kind, (made, shift) in kinds.items()
    }


def _meeting(made: Callable[[int], Prompt], mask: int) -> Iterator[Prompt]:
    wanted = hash(made(0)) & mask
    return (prompt for number in count() if hash(prompt := made(number)) & mask == wanted)


def cost_s(prompts: list[Prompt]) -> float:
    """CPU seconds of a miss and a hit of each prompt, one by one and in a batch."""
    one_by_one = BackendInstrumentation(cache_maxsize=len(prompts))
    batched = BackendInstrumentation(cache_maxsize=len(prompts))
    began = process_time()
    for _ in range(2):
        for prompt in prompts:
            one_by_one.cached("op", "base", prompt, 8, int)
        batched.cached_batch("op", "base", prompts, 8, lambda missed: missed)
    spent = process_time() - began
    for inst in (one_by_one, batched):
        assert (inst.stats.cache_misses, inst.stats.cache_hits) == (len(prompts), len(prompts))
    return spent


def cost_of_numbers_s(numbers: list[int]) -> float:
    """CPU seconds of a miss and a hit of keys that differ in a number."""
    inst = BackendInstrumentation(cache_maxsize=len(numbers))
    began = process_time()
    for _ in range(2):
        for number in numbers:
            inst.cached("op", "base", "prompt", number, int)
    return process_time() - began


def ratio(attack: Callable[[], float], usual: Callable[[], float]) -> float:
    """The least of several rounds of each, in turns: whatever else runs only adds."""
    rounds = [(attack(), usual()) for _ in range(_ROUNDS)]
    return min(attacked for attacked, _ in rounds) / min(plain for _, plain in rounds)


def ratio_of_numbers() -> float:
    """For fields whose hashes share more bits than a search in Python finds: an integer is its own
    hash, and so stands for a prompt that a faster search would find.
    """
    attack = [number << _MANY_BITS for number in range(PROMPTS)]
    usual = [number * 0x9E3779B97F4A7C15 >> 8 & (1 << 60) - 1 for number in range(PROMPTS)]
    return ratio(lambda: cost_of_numbers_s(attack), lambda: cost_of_numbers_s(usual))


def main() -> None:
    """Choose or measure."""
    what, name = sys.argv[1:]
    file = Path(name)
    if what == "choose":
        file.write_text(json.dumps(chosen()))
        return
    for kind, listed in json.loads(file.read_text()).items():
        attack = [tuple(prompt) if isinstance(prompt, list) else prompt for prompt in listed]
        is_tuple = isinstance(attack[0], tuple)
        usual = [("usual", str(i)) if is_tuple else f"usual {i}" for i in range(PROMPTS)]
        compared = ratio(partial(cost_s, attack), partial(cost_s, usual))
        print(json.dumps([kind, compared]))
    print(json.dumps(["numbers", ratio_of_numbers()]))


if __name__ == "__main__":
    main()
