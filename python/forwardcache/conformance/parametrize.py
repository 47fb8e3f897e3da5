"""The checks as tests: one callable a check, for pytest, unittest or a plain loop.

The checks of one engine share it: it is made and started when the first of them needs it, whatever
the order, and is put away by ``close``, by the pytest plugin after the engine's last item, or at
the latest when the interpreter ends.
"""

from __future__ import annotations

import atexit
import threading
from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack
from unittest import SkipTest

from forwardcache.conformance.checks import Check, checks_of, names_of_checks
from forwardcache.conformance.expected import ExpectedFailures
from forwardcache.conformance.expected import expected_failures as expectations
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.loop_thread import LoopBlockedError, LoopThread
from forwardcache.conformance.render import named
from forwardcache.conformance.report import CheckResult
from forwardcache.conformance.run import Run, judged, origin_of, watched
from forwardcache.conformance.subject import Factory, FactoryRaisedError, Options, Settings

if TYPE_CHECKING:
    import pytest

__all__ = ["EngineCheck", "EngineSession", "conformance_checks", "parametrize_with_checks"]


class EngineSession:
    """One engine that several checks share, and the loop that it lives in."""

    def __init__(self, factory: Factory, settings: Settings) -> None:
        self._factory = factory
        self._settings = settings
        self._expected = expectations(
            settings.expected_failures, kit="engine", checks=names_of_checks()
        )
        self._thread: LoopThread | None = None
        self._run: Run | None = None
        # A runner of tests in parallel may ask from several threads; the engine is one.
        self._one_at_a_time = threading.RLock()

    def check(self, check: Check) -> CheckResult:
        """Run one check, on a started engine where it needs one.

        Raises:
            Exception: what the factory has raised.
        """
        with self._one_at_a_time:
            return judged(self._checked(check), self._expected)

    def _checked(self, check: Check) -> CheckResult:
        thread, run = self._opened()
        try:
            result: CheckResult = watched(thread, run, run.check(check))
        except FactoryRaisedError as error:
            raise origin_of(error) from None
        except LoopBlockedError as blocked:
            self._forget()
            failure = run.timed_out(stack=str(blocked))
            seconds = self._settings.check_timeout
            return CheckResult(check.name, "failed", seconds, (failure,))
        return result

    def close(self) -> None:
        """Put the engine away and end its loop; the next check begins anew."""
        thread, run = self._thread, self._run
        self._forget()
        if thread is None or run is None:
            return
        with thread:
            try:
                watched(thread, run, run.put_away())
            except LoopBlockedError:
                return

    def _opened(self) -> tuple[LoopThread, Run]:
        if self._thread is None or self._run is None:
            self._thread, self._run = LoopThread(), Run(self._factory, self._settings)
            atexit.register(self.close)
        return self._thread, self._run

    def _forget(self) -> None:
        self._thread = self._run = None
        atexit.unregister(self.close)


class EngineCheck:
    """One check of one engine, to be called.

    Attributes:
        name: The check's name.
        session: The engine that it shares with its siblings.
    """

    def __init__(self, check: Check, session: EngineSession) -> None:
        self.name = check.name
        self.session = session
        self._check = check

    def __call__(self) -> None:
        """Run the check.

        Raises:
            ConformanceFailure: the engine breaks a rule.
            unittest.SkipTest: the check can't be judged, the engine did not start, or it fails as
                expected; pytest skips on it too.
        """
        __tracebackhide__ = True
        result = self.session.check(self._check)
        if result.outcome == "expected":
            raise SkipTest(f"fails, as expected: {result.reason}")
        if result.failures:
            raise _annotated(result)
        if result.reason is not None:
            raise SkipTest(result.reason)

    def __repr__(self) -> str:
        return f"EngineCheck({self.name!r})"


def conformance_checks(factory: Factory, **options: Unpack[Options]) -> list[EngineCheck]:
    """The checks of a profile as callables, in order.

    They share one engine. Whoever runs only some of them outside pytest ends it with
    ``checks[0].session.close()``; running all of them does so too.

    Args:
        factory: Makes an engine, and may be a coroutine function.
        **options: As for ``run_conformance``.

    Raises:
        ValueError: an option is out of range.
    """
    settings = Settings(**options)
    session = EngineSession(factory, settings)
    return [EngineCheck(check, session) for check in checks_of(settings.profile)]


def parametrize_with_checks(
    engines: Mapping[str, Factory],
    **options: Unpack[Options],
) -> pytest.MarkDecorator:
    """Turn a test function that takes ``check`` and calls it into one item a check and engine.

    Items have ids like ``name-cancellation``; each can be run alone, and none needs a plugin for
    asyncio. An item whose engine does not start is skipped, with the reason.

    Args:
        engines: Factories by the name that is in the ids.
        **options: As for ``run_conformance``. What ``expected_failures`` names, by check or by id
            for one engine of several, is marked ``xfail``; an entry of a file whose item passes is
            stale, and fails.

    Raises:
        ValueError: an expected failure names no check, or an option is out of range.
    """
    import pytest

    given = options.pop("expected_failures", None)
    items = {
        f"{name}-{check.name}": check
        for name, factory in engines.items()
        for check in conformance_checks(factory, **options)
    }
    known = expectations(given, kit="engine", checks=names_of_checks())
    _require_known(known, items)
    strict = known.source is not None
    params = []
    for item, check in items.items():
        name = item.removesuffix(f"-{check.name}")
        marks = known.marks(check.name, name, raises=ConformanceFailure, is_strict=strict)
        params.append(pytest.param(check, id=item, marks=marks))
    return pytest.mark.parametrize("check", params)


def _require_known(known: ExpectedFailures, items: Mapping[str, EngineCheck]) -> None:
    """Refuse reasons that are about none of the items; a file may be about other profiles too."""
    if known.source is not None:
        return
    names = {*items, *(check.name for check in items.values())}
    for name in known.reasons:
        if name not in names:
            allowed = ", ".join(sorted({check.name for check in items.values()}))
            raise ValueError(f"expected_failures names no check: {name!r}; checks are {allowed}")


def _annotated(result: CheckResult) -> ConformanceFailure:
    first, *others = result.failures
    if others:
        first.add_note(f"also broken: {named(others)}")
    return first
