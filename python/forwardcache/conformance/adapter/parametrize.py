"""The checks as tests: one callable a check, for pytest, unittest or a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from os import PathLike
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from forwardcache.conformance.adapter.checks import Check, checks_of
from forwardcache.conformance.adapter.failures import AdapterFailure
from forwardcache.conformance.adapter.run import (
    ground_of,
    judged,
    left_behind,
    made,
    marks,
    names_of_checks,
    rests_on,
)
from forwardcache.conformance.adapter.session import Session
from forwardcache.conformance.expected import Given
from forwardcache.conformance.expected import expected_failures as expectations

if TYPE_CHECKING:
    import pytest

__all__ = ["AdapterCheck", "adapter_checks", "parametrize_with_adapter_checks"]


class AdapterSession:
    """An engine that several checks share, made when the first is run, and what has failed."""

    def __init__(
        self,
        factory: Callable[[], Any],
        model_dir: str | PathLike[str],
        profile: str,
        timeout: float,
        expected: frozenset[str] = frozenset(),
    ) -> None:
        self._factory, self._model, self._profile = factory, model_dir, profile
        self._timeout, self._expected = timeout, expected
        self._open = ExitStack()
        self._session: Session | None = None
        self._failed: set[str] = set()
        self._measured = False

    def check(self, check: Check) -> None:
        """Run ``check``; raises what ``AdapterCheck`` does."""
        if reason := rests_on(check, self._failed):
            raise SkipTest(reason)
        if not self._measured and check.name != "base":
            # Everything is held against the floor, also where this check runs alone.
            self._run(checks_of(self._profile)[0])
            if reason := rests_on(check, self._failed):
                raise SkipTest(reason)
        self._run(check, raises=True)

    def _run(self, check: Check, *, raises: bool = False) -> None:
        session = self._opened()
        if reason := left_behind(session):
            raise SkipTest(reason)
        result = judged(check, session)
        self._measured = True
        if result.failures:
            # What is known to fail holds nothing up.
            self._failed |= set() if check.name in self._expected else marks(result)
            if raises:
                raise result.failures[0]
        elif result.reason is not None and raises:
            raise SkipTest(result.reason)

    def _opened(self) -> Session:
        if self._session is None:
            ground = self._open.enter_context(ground_of(self._model, self._profile))
            caller = made(self._factory, self._timeout)
            self._open.callback(caller.close)
            self._session = Session(caller, ground)
        return self._session


class AdapterCheck:
    """One check on one engine, to be called; made by ``adapter_checks``.

    Attributes:
        name: The check's name.
    """

    def __init__(self, check: Check, session: AdapterSession) -> None:
        self.name = check.name
        self._check = check
        self._session = session

    def __call__(self) -> None:
        """Run the check.

        Raises:
            AdapterFailure: the engine breaks a rule.
            unittest.SkipTest: the model has nothing of what it is about, or the check rests on one
                that failed; pytest skips on it too.
        """
        __tracebackhide__ = True
        self._session.check(self._check)

    def __repr__(self) -> str:
        return f"AdapterCheck({self.name!r})"


def adapter_checks(
    factory: Callable[[], Any],
    model_dir: str | PathLike[str],
    *,
    profile: str = "quick",
    timeout: float = 120.0,
) -> list[AdapterCheck]:
    """The checks as callables, in order; they share one engine.

    Args:
        factory: As for ``check_adapter_fidelity``; called when the first check is run.
        model_dir: Folder of the model.
        profile: ``"quick"`` or ``"full"``.
        timeout: Seconds after which a call, or calls at once, have failed.

    Raises:
        ValueError: there is no such profile.
    """
    session = AdapterSession(factory, model_dir, profile, timeout)
    return [AdapterCheck(check, session) for check in checks_of(profile)]


def parametrize_with_adapter_checks(
    engines: Mapping[str, Callable[[], Any]],
    model_dir: str | PathLike[str],
    *,
    profile: str = "quick",
    expected_failures: Given = None,
    timeout: float = 120.0,
) -> pytest.MarkDecorator:
    """Turn a test function that takes ``check`` and calls it into one item a check and engine.

    Args:
        engines: Factories by the name that is in the ids (``name-rslora``).
        model_dir: Folder of the model that they serve.
        profile: ``"quick"`` or ``"full"``.
        expected_failures: Reasons by check, or by id for one engine of several, or a TOML file
            with a table ``[adapter]``; these items are marked ``xfail``, and fail when they pass.
        timeout: Seconds after which a call, or calls at once, have failed.

    Raises:
        ValueError: there is no such profile, or an expected failure names no check.
    """
    import pytest

    known = expectations(expected_failures, kit="adapter", checks=names_of_checks())
    params = []
    for name, factory in engines.items():
        checks = checks_of(profile)
        expected_here = frozenset(each.name for each in checks if known.reason_of(each.name, name))
        session = AdapterSession(factory, model_dir, profile, timeout, expected_here)
        for check in (AdapterCheck(each, session) for each in checks):
            known_as = known.marks(check.name, name, raises=AdapterFailure, is_strict=True)
            params.append(pytest.param(check, id=f"{name}-{check.name}", marks=known_as))
    return pytest.mark.parametrize("check", params)
