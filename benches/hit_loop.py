"""Runs one loop of hits and nothing else, for a profiler: ``python -m benches.hit_loop NAME N``."""

import sys

from benches import cases, contenders
from benches.contenders import Loop
from benches.machine import refuse_debug_build


def loops() -> dict[str, Loop]:
    loop = contenders.single(contenders.OURS, cases.CAPACITY)
    batch = contenders.batch(contenders.OURS, cases.CAPACITY)
    return {
        "loop": contenders.no_call,
        "empty": contenders.empty_native_call,
        "hit": loop,
        "batch": batch,
        "miss": loop,
        "lru_cache": contenders.single(contenders.LRU_CACHE, cases.CAPACITY),
    }


def main() -> None:
    refuse_debug_build()
    name, count = sys.argv[1:]
    prompts = [cases.text(0, 40)] * int(count)
    if name == "miss":
        prompts = [cases.text(number, 40) for number in range(int(count))]
    loop = loops()[name]
    # So that a batch has nothing but hits.
    loop(prompts[:1])
    loop(prompts)


if __name__ == "__main__":
    main()
