"""How much the tests do, and what they have done: ``make prove`` asks for more and adds it up.

A run of pytest ends with a line for each unit that was counted, in the words that
``tools/prove.py`` reads (``tests/conftest.py``).
"""

import os
from collections import Counter

done: Counter[str] = Counter()


def knob(name: str, default: int) -> int:
    """``FORWARDCACHE_<name>`` of the environment, or what the tests do without it."""
    return int(os.environ.get(f"FORWARDCACHE_{name}", default))


SEED = knob("SEED", 0)
EXAMPLES = knob("EXAMPLES", 1)
"""How many times as many examples Hypothesis tries."""


def lines() -> list[str]:
    """What has been done in this process."""
    return [f"prove: {count} {unit}" for unit, count in sorted(done.items())]
