"""A killed process costs a store no value whose call had returned, and leaves no part of a batch.

The kit is ``kill``; ``FORWARDCACHE_KILLS`` and ``FORWARDCACHE_SEED`` make the proof longer, or
another. Not checked here: loss of power, faults of the system (``test_faults``).
"""

from tests import proof
from tests.store import kill

KILLS = proof.knob("KILLS", 40)


def test_kills_lose_no_value_whose_call_had_returned() -> None:
    counters = kill.prove(KILLS, 1_000 * proof.SEED)
    assert counters.kills.total() >= KILLS
    assert min(counters.kills[end] for end in ("putting", "opening what is left")) > 0
    assert counters.values > 0
    proof.done["kills"] += counters.kills.total()
    proof.done["values in killed stores"] += counters.values
