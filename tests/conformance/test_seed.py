"""Profile "seed": every row of its table, and every near miss.

Checked here: each faulty engine gets exactly its failure from the check that the table names, the
near misses pass, the order of precedence. Not here: what the fronts do with a verdict.
"""

import pytest

from tests.conformance.cases import SEED_FAULTS, SEED_PASSES, Case


@pytest.mark.parametrize("case", SEED_FAULTS, ids=lambda case: case.id)
def test_a_faulty_engine_gets_exactly_its_failure(case: Case) -> None:
    failure = case.verdict()
    assert type(failure) is case.expected
    assert failure is not None
    assert failure.check == case.check


@pytest.mark.parametrize("case", SEED_PASSES, ids=lambda case: case.id)
def test_a_near_miss_passes(case: Case) -> None:
    assert case.verdict() is None


def test_all_eighteen_failures_of_the_table_have_a_faulty_engine() -> None:
    assert len({case.expected for case in SEED_FAULTS}) == 18
