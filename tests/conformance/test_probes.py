"""What no verdict shows; the claims are the functions of ``probes``."""

from collections.abc import Callable

import pytest

from tests.conformance.probes import PROBES


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: probe.__name__)
def test_claim(probe: Callable[[], None]) -> None:
    probe()
