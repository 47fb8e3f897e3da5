"""Profile "strict": every addition, and what must still pass.

Checked here: each faulty engine passes the seed and gets exactly its failure from the strict check.
"""

import pytest

from forwardcache.conformance import failures
from tests.conformance.cases import SEED_FAULTS, STRICT_FAULTS, STRICT_PASSES, Case


@pytest.mark.parametrize("case", STRICT_FAULTS, ids=lambda case: case.id)
def test_a_faulty_engine_gets_exactly_its_failure(case: Case) -> None:
    failure = case.verdict()
    assert type(failure) is case.expected
    assert failure is not None
    assert failure.check == case.check


@pytest.mark.parametrize("case", STRICT_FAULTS, ids=lambda case: case.id)
def test_the_seed_does_not_see_a_strict_fault(case: Case) -> None:
    assert case.verdict(profile="seed") is None


@pytest.mark.parametrize("case", STRICT_PASSES, ids=lambda case: case.id)
def test_a_near_miss_passes(case: Case) -> None:
    assert case.verdict() is None


def test_every_failure_has_a_faulty_engine() -> None:
    covered = {case.expected.__name__ for case in [*SEED_FAULTS, *STRICT_FAULTS] if case.expected}
    assert covered == set(failures.__all__) - {
        "ConformanceFailure",
        "CheckTimedOut",
        "ExpectedFailurePassed",
    }
