"""A killed process loses no event whose call returned; nothing is doubled, torn or out of order.

The kit is ``kill``; ``FORWARDCACHE_KILLS`` and ``FORWARDCACHE_SEED`` make the proof longer, or
another. Not checked here: loss of power, faults of the system (``test_faults``), threads and forks
(``test_threads``, ``test_forks``).
"""

import os

from tests.trace import kill

KILLS = int(os.environ.get("FORWARDCACHE_KILLS", "100"))
SEED = int(os.environ.get("FORWARDCACHE_SEED", "0"))


def test_kills_lose_nothing_whose_call_had_returned() -> None:
    tally = kill.prove(KILLS, SEED)
    print(*tally.lines(), f"seeds from {SEED}", sep="\n")
    assert tally.kills >= KILLS
    assert tally.met["journals left"] > 0
    assert min(tally.ends[end] for end in ("killed", "killed closing", "killed recovering")) > 0
