"""Traced hits while the trace's writer is at work: ``python -m benches.busy_writer``.

The question: what does a traced hit cost when nothing waits for the journal to be drained, as in a
loop that does nothing else? ``benches.run`` has the figures in its table; this module prints, for
one process, the nanoseconds of thread CPU time of an untraced hit, of a traced one, and of a traced
one of the plain-Python model, which flushes each line.
"""

from __future__ import annotations

import statistics
import tempfile
from pathlib import Path

from benches import cases, contenders
from benches.contenders import OURS, PLAIN, Loop
from benches.measure import one_sample

MEMORY = "/dev/shm"
BLOCKS = 15
# Samples of a block: the writer falls behind within the first of them, and stays so.
IN_A_BLOCK = {OURS: 20, PLAIN: 2}


def figures() -> tuple[float, float, float]:
    """Medians of the blocks: untraced, traced, traced by the plain-Python model."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as made:
        folder = Path(made)
        loops = {
            "untraced": (contenders.single(OURS, cases.CAPACITY), IN_A_BLOCK[OURS]),
            OURS: (contenders.traced(OURS, folder / "ours.jsonl"), IN_A_BLOCK[OURS]),
            PLAIN: (contenders.traced(PLAIN, folder / "plain.jsonl"), IN_A_BLOCK[PLAIN]),
        }
        taken: dict[str, list[float]] = {name: [] for name in loops}
        for _ in range(BLOCKS):
            for name, (loop, samples) in loops.items():
                taken[name].append(block(loop, samples))
    untraced, ours, plain = (statistics.median(each) for each in taken.values())
    return untraced, ours, plain


def block(loop: Loop, samples: int) -> float:
    """Nanoseconds of a hit, one sample after the other, with nothing between them."""
    prompts = cases.same(40)()
    return statistics.median([one_sample(loop, prompts) for _ in range(samples)])


if __name__ == "__main__":
    print(*figures())
