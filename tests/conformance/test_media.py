"""Profiles "encode" and "raw": every rule of Dynamo's kit for encoders and raw engines.

Checked here: each faulty engine gets exactly its failure, the near misses pass, the order of the
checks, and that neither profile asks for the other's requests.
"""

import pytest

from forwardcache.conformance import media_failures
from forwardcache.conformance.checks import checks_of
from tests.conformance.cases import MEDIA_FAULTS, MEDIA_PASSES, Case


@pytest.mark.parametrize("case", MEDIA_FAULTS, ids=lambda case: f"{case.profile} {case.id}")
def test_a_faulty_engine_gets_exactly_its_failure(case: Case) -> None:
    failure = case.verdict()
    assert type(failure) is case.expected
    assert failure is not None
    assert failure.check == case.check


@pytest.mark.parametrize("case", MEDIA_PASSES, ids=lambda case: case.id)
def test_a_near_miss_passes(case: Case) -> None:
    assert case.verdict() is None


def test_the_six_failures_of_these_kits_have_a_faulty_engine() -> None:
    names = {case.expected.__name__ for case in MEDIA_FAULTS if case.expected}
    assert len(media_failures.__all__) == 6
    assert set(media_failures.__all__) <= names


def test_the_order_is_that_of_the_origin() -> None:
    assert [check.name for check in checks_of("encode")] == [
        "start",
        "kv_event_sources",
        "setup_metrics",
        "encode_generate",
        "encode_concurrent_generates",
        "encode_cancellation",
        "cleanup",
        "cleanup_without_start",
    ]
    assert [check.name for check in checks_of("raw")] == [
        "raw_start",
        "raw_generate",
        "raw_concurrent_generates",
        "raw_cancellation",
        "cleanup",
        "cleanup_without_start",
    ]
