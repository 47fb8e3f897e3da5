"""The checks of any engine, without code: ``pytest --pyargs`` this module ``--engine`` its factory.

::

    pytest --pyargs forwardcache.conformance.suite --engine pkg.mod:factory
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from forwardcache.conformance.locate import FactorySpecError, locate
from forwardcache.conformance.parametrize import parametrize_with_checks
from forwardcache.conformance.subject import Factory


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One item a check and engine of the command line."""
    option = metafunc.config.getoption
    engines = _engines(option("--engine", None))
    try:
        mark = parametrize_with_checks(
            engines,
            profile=option("--engine-profile"),
            cancel_deadline=option("--cancel-deadline"),
            check_timeout=option("--check-timeout"),
            max_tokens=option("--max-tokens"),
            long_max_tokens=option("--long-max-tokens"),
            concurrency=option("--concurrency"),
            drive_abort=option("--drive-abort"),
            expected_failures=option("--expected-failures"),
        )
    except ValueError as error:
        raise pytest.UsageError(str(error)) from error
    metafunc.parametrize(*mark.args, **mark.kwargs)


def test_engine(check: Callable[[], None]) -> None:
    """The engine passes the check."""
    __tracebackhide__ = True
    check()


def _engines(specs: list[str] | None) -> dict[str, Factory]:
    if not specs:
        raise pytest.UsageError("this suite needs an engine: --engine pkg.mod:factory")
    try:
        return {spec.partition(":")[2]: locate(spec) for spec in specs}
    except FactorySpecError as error:
        raise pytest.UsageError(str(error)) from error
