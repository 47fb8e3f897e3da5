"""The targets of the fuzzers over their first inputs and random changes of them.

Without coverage; ``python -m tests.fuzz`` is the long proof.
"""

from random import Random

import pytest

from forwardcache.store.seal import seal, unseal
from tests import proof
from tests.fuzz import corpus
from tests.fuzz.targets import KEY, TARGETS

CHANGES = 300


def changed(data: bytes, random: Random) -> bytes:
    """``data`` with a few bytes overwritten, cut out or put in."""
    bytes_ = bytearray(data)
    for _ in range(random.randrange(1, 4)):
        at = random.randrange(len(bytes_) + 1)
        bytes_[at : at + random.randrange(3)] = random.randbytes(random.randrange(3))
    return bytes(bytes_)


@pytest.mark.parametrize("target", TARGETS)
def test_first_inputs_and_changes_of_them_break_nothing(target: str) -> None:
    random, first = Random(f"{target} {proof.SEED}"), corpus.of(target)
    for data in first:
        TARGETS[target](data)
    for _ in range(CHANGES):
        TARGETS[target](changed(random.choice(first), random))


def test_the_first_values_get_past_the_checks() -> None:
    whole = [unseal(KEY, seal(KEY, value)) for value in corpus.VALUES]
    assert [type(value) for value in whole] == [type(value) for value in corpus.VALUES]
