"""Calls for long, from eight threads at once, in a process of its own whose memory is looked at.

``python -m tests.instrumentation.soak CALLS SEED`` prints what it has done. Each thread looks
prompts up of which not all fit: hits, misses, evictions, batches, now and then an invalidation, and
in every tenth round at least a trace that begins anew. Memory is measured after half of the calls
and at the end, while all threads rest. Run it with ``MALLOC_ARENA_MAX=1``: else each thread that
drains a trace may begin another arena of the allocator, up to eight for a processor.
"""

import gc
import sys
import tempfile
import threading
import time
from pathlib import Path
from random import Random

from forwardcache.instrumentation import BackendInstrumentation, TraceWriter

THREADS = 8
ROUNDS = 100
PROMPTS = [f"prompt {number} " + "x" * (number % 90) for number in range(600)]
VALUES = {prompt: (prompt, number) for number, prompt in enumerate(PROMPTS)}
MOST_DRIFT = 0.01


class Soak:
    """The threads, which wait for each other after every round."""

    def __init__(self, calls: int, seed: int, folder: Path) -> None:
        self.inst = BackendInstrumentation(cache_maxsize=512)
        self.calls, self.seed, self.folder = calls // THREADS // ROUNDS, seed, folder
        self.resident: list[int] = []
        self.failures: list[BaseException] = []
        self.barrier = threading.Barrier(THREADS, self.between)
        self.round = 0

    def run(self) -> int:
        """How many calls were made."""
        threads = [threading.Thread(target=self.work, args=(each,)) for each in range(THREADS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self.failures:
            raise self.failures[0]
        return self.calls * THREADS * ROUNDS

    def work(self, thread: int) -> None:
        random = Random(f"{self.seed} {thread}")
        prompts = random.choices(PROMPTS, k=4096)
        try:
            for _ in range(ROUNDS):
                self.call(prompts)
                self.inst.invalidate("view", op="batch")
                self.barrier.wait()
        except BaseException as error:
            self.failures.append(error)
            self.barrier.abort()

    def call(self, prompts: list[str]) -> None:
        cached, values = self.inst.cached, VALUES
        for turn in range(self.calls):
            prompt = prompts[turn & 4095]
            value = cached("op", "view", prompt, 8, lambda: VALUES[prompt])  # noqa: B023
            assert value is values[prompt]
            if turn & 255 == 0:
                self.call_batch(prompts[turn & 4095 : (turn & 4095) + 8])

    def call_batch(self, prompts: list[str]) -> None:
        def compute(indices: list[int]) -> list[tuple[str, int]]:
            return [VALUES[prompts[index]] for index in indices]

        found = self.inst.cached_batch("batch", "view", prompts, 8, compute)
        assert found == [VALUES[prompt] for prompt in prompts]

    def between(self) -> None:
        """All threads rest: the trace is changed and memory is looked at."""
        self.round += 1
        old, path = self.inst.trace, self.folder / f"{self.round}.jsonl"
        self.inst.trace = TraceWriter(path if self.is_traced() else None)
        assert old.close() == 0
        (self.folder / f"{self.round - 1}.jsonl").unlink(missing_ok=True)
        if self.round in (ROUNDS // 2, ROUNDS):
            self.resident.append(resident_bytes())

    def is_traced(self) -> bool:
        # Often at first, so that the buffers of a trace have been as large as they get.
        return self.round % (2 if self.round < 40 else 10) == 1


def resident_bytes() -> int:
    gc.collect()
    return 4096 * int(Path("/proc/self/statm").read_text().split()[1])


def main() -> None:
    calls, seed = map(int, sys.argv[1:])
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(calls, seed, Path(folder))
        made = soak.run()
        soak.inst.close()
    before, after = soak.resident
    drift = (after - before) / before
    print(f"{made} calls in {time.monotonic() - began:.1f} s, {before} bytes, then {drift:+.2%}")
    assert abs(drift) < MOST_DRIFT, f"memory went from {before} to {after} bytes"
    stats = soak.inst.stats
    assert stats.total_lookups == made + batched(soak)
    assert stats.cache_misses == stats.forward_passes


def batched(soak: Soak) -> int:
    """Prompts of the batches."""
    turns = range(0, soak.calls, 256)
    lengths = sum(min(8, 4096 - (turn & 4095)) for turn in turns)
    return lengths * THREADS * ROUNDS


if __name__ == "__main__":
    main()
