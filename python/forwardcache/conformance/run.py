"""From a factory of engines to a verdict.

``run_conformance`` runs in the caller's loop. ``check_conformance`` has a loop of its own in
another thread, and the caller's thread watches over it: an engine that blocks its loop can't keep
the verdict back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import aclosing
from dataclasses import replace
from typing import Any

from forwardcache.conformance.checks import Check, checks_of, names_of_checks, start_of
from forwardcache.conformance.context import mock_context
from forwardcache.conformance.expected import ExpectedFailures, Given
from forwardcache.conformance.expected import expected_failures as expectations
from forwardcache.conformance.failures import (
    CheckTimedOut,
    ConformanceFailure,
    ExpectedFailurePassed,
)
from forwardcache.conformance.guard import (
    EngineRaisedError,
    OverdueError,
    adopt_running_task,
    attempt,
    bounded,
    call,
)
from forwardcache.conformance.loop_thread import LoopBlockedError, LoopThread
from forwardcache.conformance.render import named
from forwardcache.conformance.report import CheckResult, Report
from forwardcache.conformance.subject import (
    CheckSkippedError,
    Factory,
    FactoryRaisedError,
    Settings,
    Subject,
)

__all__ = ["Run", "check_conformance", "judged", "origin_of", "run_conformance", "watched"]

_CLEANUP_S = 10.0
_CLEANUP_AFTER_TIMEOUT_S = 0.3
_LOOP_LAG_S = 0.5
"""How much later than the loop its watcher gives the verdict, so that a loop that runs is first."""


async def run_conformance(
    factory: Factory,
    *,
    profile: str = "seed",
    cancel_deadline: float = 2.0,
    max_tokens: int | None = 8,
    concurrency: int = 8,
    context_factory: Callable[[], Any] = mock_context,
    check_timeout: float = 120.0,
    drive_abort: bool = False,
    failing_factory: Factory | None = None,
    report_all: bool = False,
    block_limit: float = 0.25,
    long_max_tokens: int | None = None,
    expected_failures: Given = None,
) -> Report:
    """Run the checks of a profile on the engines that ``factory`` makes.

    Args:
        factory: Makes an engine, and may be a coroutine function. It is called once before the
            check ``cleanup_without_start``, and once for it.
        profile: ``"seed"``, or ``"strict"``, which adds rules that a server relies on;
            ``"encode"`` or ``"raw"`` for engines of these kinds.
        cancel_deadline: Seconds in which a stopped stream has to end.
        max_tokens: Limit of the short requests; None asks for no limit.
        concurrency: How many streams run at once.
        context_factory: Makes the context of each request.
        check_timeout: Seconds for one check.
        drive_abort: Also call the engine's ``abort`` on a stopped request.
        failing_factory: Makes engines whose ``start`` raises, for the check
            ``cleanup_after_failed_start``.
        report_all: Go on after a failure, so that the report has every broken rule.
        block_limit: Seconds for which an engine may keep the event loop.
        long_max_tokens: Limit of the requests that are stopped; None asks for 10,000, which every
            profile but the seed bounds by the ``context_length`` of what ``start`` returns.
        expected_failures: Reasons by check, or a file with a table ``[engine]`` of them. Such a
            failure is reported and does not count; one of them that passes is stale, and fails.

    Returns:
        What was checked, with times.

    Raises:
        ConformanceFailure: the engine breaks a rule; its ``report`` has the whole run.
        ValueError: an option is out of range.
        Exception: what the factory itself has raised.

    Source:
        ``run_conformance`` of NVIDIA Dynamo's ``dynamo-backend-common``.
    """
    settings = Settings(
        profile=profile,
        cancel_deadline=cancel_deadline,
        max_tokens=max_tokens,
        concurrency=concurrency,
        context_factory=context_factory,
        check_timeout=check_timeout,
        drive_abort=drive_abort,
        failing_factory=failing_factory,
        report_all=report_all,
        block_limit=block_limit,
        long_max_tokens=long_max_tokens,
        expected_failures=expected_failures,
    )
    try:
        return await Run(factory, settings).verdict()
    except FactoryRaisedError as error:
        raise origin_of(error) from None


def check_conformance(
    factory: Factory,
    *,
    profile: str = "seed",
    cancel_deadline: float = 2.0,
    max_tokens: int | None = 8,
    concurrency: int = 8,
    context_factory: Callable[[], Any] = mock_context,
    check_timeout: float = 120.0,
    drive_abort: bool = False,
    failing_factory: Factory | None = None,
    report_all: bool = False,
    block_limit: float = 0.25,
    long_max_tokens: int | None = None,
    expected_failures: Given = None,
) -> Report:
    """Run the checks from synchronous code; options and errors are those of ``run_conformance``.

    The engine lives in a thread of its own, so that this one can give the verdict
    ``CheckTimedOut``, with the stack of that thread as a note, if the engine blocks the loop.
    An engine that needs the main thread, for signal handlers say, needs ``run_conformance``.
    """
    __tracebackhide__ = True
    settings = Settings(
        profile=profile,
        cancel_deadline=cancel_deadline,
        max_tokens=max_tokens,
        concurrency=concurrency,
        context_factory=context_factory,
        check_timeout=check_timeout,
        drive_abort=drive_abort,
        failing_factory=failing_factory,
        report_all=report_all,
        block_limit=block_limit,
        long_max_tokens=long_max_tokens,
        expected_failures=expected_failures,
    )
    return _verdict_from_a_thread(Run(factory, settings))


def _verdict_from_a_thread(run: Run) -> Report:
    __tracebackhide__ = True
    with LoopThread() as thread:
        try:
            report: Report = watched(thread, run, run.verdict())
            return report
        except FactoryRaisedError as error:
            raise origin_of(error) from None
        except LoopBlockedError as blocked:
            raise run.failed_with(run.timed_out(stack=str(blocked))) from None
        except ConformanceFailure as failure:
            # The way through the kit is of no use to who reads this.
            raise failure.with_traceback(None) from failure.__cause__


class Run:
    """All checks in order, or one check after the other as a test runner asks for them.

    Attributes:
        report: What was found so far.
        watched_until: When the loop must have reported, in the seconds of ``time.monotonic``.
    """

    def __init__(self, factory: Factory, settings: Settings) -> None:
        self.settings = settings
        self.subject = Subject(factory, settings)
        self.checks = checks_of(settings.profile)
        self.expected = expectations(
            settings.expected_failures, kit="engine", checks=names_of_checks()
        )
        self.report = Report(settings.profile)
        self.watched_until = float("inf")
        self._start_failure: str | None = None
        self._running = ""

    async def verdict(self) -> Report:
        """Run all checks.

        Raises:
            ConformanceFailure: the first failure, with the report.
            FactoryRaisedError: the factory raised.
        """
        try:
            for check in self.checks:
                self.report.results.append(await self._next(check))
        finally:
            await self.put_away()
        if self.report.failures:
            raise self._first_failure()
        return self.report

    async def check(self, check: Check) -> CheckResult:
        """Run one check, after what it needs.

        Raises:
            FactoryRaisedError: the factory raised.
        """
        adopt_running_task()
        began, limit = time.monotonic(), self.settings.check_timeout
        self._running, self.watched_until = check.name, began + limit + _LOOP_LAG_S
        self.subject.receptions.clear()
        found: list[ConformanceFailure] = []
        reason = None
        try:
            await bounded(self._prepare_and_find(check, found), limit)
        except OverdueError:
            found.insert(0, self.timed_out())
        except CheckSkippedError as skipped:
            reason = str(skipped)
        return _result(check, time.monotonic() - began, found, reason)

    async def put_away(self) -> None:
        """Clean the engine up if it is still there, as well as that can be done in time."""
        adopt_running_task()
        engine, self.subject.engine, self.subject.started = self.subject.engine, None, False
        if engine is None:
            return
        limit = self._cleanup_limit()
        self.watched_until = time.monotonic() + limit + _LOOP_LAG_S
        self._note_cleanup(await attempt(call(engine, "cleanup"), limit))

    def timed_out(self, stack: str | None = None) -> CheckTimedOut:
        """The verdict that the running check takes too long, and where it blocks the loop."""
        failure = CheckTimedOut(self._running, self.settings.check_timeout)
        if stack is not None:
            failure.add_note(f"the event loop is blocked here:\n{stack}")
        return failure.having(self.subject.receptions[-1].chunks if self.subject.receptions else [])

    def failed_with(self, failure: ConformanceFailure) -> ConformanceFailure:
        """``failure`` with a report that ends with it, for a loop that can't report any more."""
        known = [result for result in self.report.results if result.check != failure.check]
        done = {result.check for result in known} | {failure.check}
        known.append(CheckResult(failure.check, "failed", self.settings.check_timeout, (failure,)))
        rest = [check for check in self.checks if check.name not in done]
        known += [CheckResult(check.name, "not_run", reason=_OVER) for check in rest]
        failure.report = Report(self.report.profile, known)
        return failure

    async def _next(self, check: Check) -> CheckResult:
        if self.report.failures and not self.settings.report_all:
            return CheckResult(check.name, "not_run", reason=_OVER)
        return judged(await self.check(check), self.expected)

    async def _prepare_and_find(self, check: Check, found: list[ConformanceFailure]) -> None:
        await self._prepare(check)
        await self._find(check, found)

    async def _find(self, check: Check, found: list[ConformanceFailure]) -> None:
        async with aclosing(check.find(self.subject)) as finding:
            async for failure in finding:
                failure.check = check.name
                found.append(failure)
                if not self.settings.report_all:
                    break
        self._note_start(check, found)

    def _note_start(self, check: Check, found: list[ConformanceFailure]) -> None:
        if check.needs == "new" and not self.subject.started:
            self._start_failure = found[0].message_line if found else "start() was not called"

    async def _prepare(self, check: Check) -> None:
        """Bring the engine into the state that ``check`` needs.

        Raises:
            CheckSkippedError: that is not possible.
        """
        if check.needs == "new":
            await self.put_away()
            await self.subject.renew()
        elif check.needs == "started":
            await self._ensure_started()
        elif check.needs == "cleaned" and (self.subject.before is None or self.subject.started):
            await self._serve_and_clean_up()

    async def _ensure_started(self) -> None:
        if not self.subject.started and self._start_failure is None:
            await self._prepare_and_find(start_of(self.settings.profile), [])
        if not self.subject.started:
            raise CheckSkippedError(f"the engine did not start: {self._start_failure}")

    async def _serve_and_clean_up(self) -> None:
        await self._ensure_started()
        try:
            await self.subject.collect()
            for _ in range(2):
                await call(self.subject.engine, "cleanup")
        except EngineRaisedError as error:
            raise CheckSkippedError(f"the engine can't be cleaned up: {error}") from error
        self.subject.engine, self.subject.started = None, False

    def _cleanup_limit(self) -> float:
        if any(isinstance(failure, CheckTimedOut) for failure in self.report.failures):
            return _CLEANUP_AFTER_TIMEOUT_S
        return min(self.settings.check_timeout, _CLEANUP_S)

    def _note_cleanup(self, cleanup: asyncio.Task[Any]) -> None:
        for failure in self.report.failures[:1]:
            if not cleanup.done():
                failure.add_note("cleanup() after this failure was not done in time")
            elif not cleanup.cancelled() and cleanup.exception() is not None:
                failure.add_note(f"cleanup() after this failure raised {cleanup.exception()}")

    def _first_failure(self) -> ConformanceFailure:
        first, *others = self.report.failures
        first.report = self.report
        if others:
            first.add_note(f"also broken: {named(others)}")
        return first


def watched(thread: LoopThread, run: Run, work: Any) -> Any:
    """Run ``work`` of ``run`` in ``thread``, and watch over it from this one.

    Raises:
        LoopBlockedError: the loop has not reported in time.
    """
    return thread.run(work, lambda: run.watched_until)


def judged(result: CheckResult, expected: ExpectedFailures) -> CheckResult:
    """``result`` in the light of what is expected to fail."""
    check = result.check
    outcome = expected.judged(check, result.outcome)
    if outcome == "expected":
        return replace(result, outcome="expected", reason=expected.reason_of(check))
    if outcome == "stale":
        failure = ExpectedFailurePassed(expected.stale(check))
        failure.check = check
        return replace(result, outcome="stale", failures=(failure,))
    return result


_OVER = "the run ended with the first failure"


def _result(
    check: Check, seconds: float, found: list[ConformanceFailure], reason: str | None
) -> CheckResult:
    if found:
        return CheckResult(check.name, "failed", seconds, tuple(found))
    if reason is not None:
        return CheckResult(check.name, "skipped", seconds, reason=reason)
    return CheckResult(check.name, "passed", seconds)


def origin_of(error: FactoryRaisedError) -> BaseException:
    """The factory's own exception."""
    return error.__cause__ or error
