"""The suite of ``pytest benches --benchmark-only``; ``python -m benches.run`` makes the tables."""

import pytest

from benches.machine import refuse_debug_build


def pytest_configure() -> None:
    try:
        refuse_debug_build()
    except SystemExit as refusal:
        raise pytest.UsageError(str(refusal)) from None
