"""A killed process loses no event whose call returned; nothing is doubled, torn or out of order.

The kit is ``kill``; ``FORWARDCACHE_KILLS`` and ``FORWARDCACHE_SEED`` make the proof longer, or
another. Not checked here: loss of power, faults of the system (``test_faults``), threads and forks
(``test_threads``, ``test_forks``).
"""

from tests import proof
from tests.trace import kill

KILLS = proof.knob("KILLS", 100)


def test_kills_lose_nothing_whose_call_had_returned() -> None:
    tally = kill.prove(KILLS, 1_000 * proof.SEED)
    print(*tally.lines(), f"seeds from {1_000 * proof.SEED}", sep="\n")
    assert tally.kills >= KILLS
    proof.done["kills"] += tally.kills
    proof.done["trace events"] += tally.events
    assert tally.met["journals left"] > 0
    assert min(tally.ends[end] for end in ("killed", "killed closing", "killed recovering")) > 0
