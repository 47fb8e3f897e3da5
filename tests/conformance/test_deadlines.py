"""A verdict always comes, and in time: engines that hang, block, swallow and raise anything.

Checked here: ``CheckTimedOut`` for every check that can hang, from the caller's thread too;
deadlines hold within a second; a failed run cleans up and keeps its first failure.
"""

import asyncio
import signal
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from forwardcache.conformance import (
    CancellationIgnored,
    CheckTimedOut,
    ConformanceFailure,
    StartFailed,
    StreamYieldedError,
    check_conformance,
    run_conformance,
)
from tests.conformance import engines
from tests.conformance.cases import SEED_FAULTS, TIMEOUTS, Case
from tests.patience import HANG_S, PATIENCE_S

LIMIT_S = 0.4


@pytest.fixture(autouse=True)
def _release() -> Iterator[None]:
    engines.BlocksForGood.released.clear()
    yield
    engines.BlocksForGood.released.set()


def ends_within(limit_s: float, run: Callable[[], object]) -> None:
    """Asserts it of one of a few runs, each of which asserts the rest.

    A busy machine can make any one of them slow; a kit that is late is late every time.
    """

    def seconds() -> float:
        began = time.monotonic()
        run()
        return time.monotonic() - began

    took: list[float] = []
    while not took or took[-1] >= limit_s:
        assert len(took) < 5, took
        took.append(seconds())


@pytest.mark.parametrize("case", TIMEOUTS, ids=lambda case: f"{case.check}: {case.row}")
def test_a_check_that_takes_too_long_is_named_within_a_second(case: Case) -> None:
    def run() -> None:
        began = time.monotonic()
        failure = case.verdict(check_timeout=LIMIT_S)
        assert time.monotonic() - began >= LIMIT_S
        assert isinstance(failure, CheckTimedOut)
        assert (failure.check, failure.after) == (case.check, LIMIT_S)

    ends_within(LIMIT_S + 1.0, run)


@pytest.mark.parametrize(
    "case",
    [case for case in SEED_FAULTS if case.check == "cancellation"],
    ids=lambda case: case.id,
)
def test_the_cancel_deadline_holds_within_a_second(case: Case) -> None:
    def run() -> None:
        assert type(case.verdict(cancel_deadline=0.3)) is case.expected

    ends_within(1.3, run)


def test_a_blocked_loop_is_shown_with_its_stack_and_what_it_had_sent() -> None:
    with pytest.raises(CheckTimedOut) as raised:
        check_conformance(engines.BlocksForGood, check_timeout=LIMIT_S)
    assert "self.released.wait" in "".join(raised.value.__notes__)
    assert [chunk.token_ids for chunk in raised.value.chunks] == [(5,)]
    assert raised.value.report is not None
    outcomes = [result.outcome for result in raised.value.report.results]
    assert outcomes == ["passed", "passed", "passed", "failed", *["not_run"] * 4]


def test_an_engine_that_comes_back_from_blocking_is_cleaned_up_behind_the_verdict() -> None:
    cleaned = threading.Event()

    class Engine(engines.BlocksForGood):
        async def cleanup(self) -> None:
            cleaned.set()

    with pytest.raises(CheckTimedOut):
        check_conformance(Engine, check_timeout=LIMIT_S)
    assert not cleaned.is_set()
    engines.BlocksForGood.released.set()
    assert cleaned.wait(HANG_S)


def test_a_failed_run_cleans_up() -> None:
    cleaned = []

    class Engine(engines.Engine):
        async def generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
            yield engines.chunk(1, finish="length")

        async def cleanup(self) -> None:
            cleaned.append(self)

    with pytest.raises(CancellationIgnored):
        check_conformance(Engine)
    assert len(cleaned) == 1


def test_a_failing_cleanup_does_not_hide_the_first_failure() -> None:
    factory = engines.having(
        start=engines.raising(ValueError("no GPU")), cleanup=engines.raising(SystemExit(9))
    )
    with pytest.raises(StartFailed) as raised:
        check_conformance(factory)
    assert "SystemExit" in raised.value.__notes__[0]


def test_a_hanging_cleanup_after_a_failure_ends_with_the_limit() -> None:
    factory = engines.having(start=engines.raising(ValueError("no GPU")), cleanup=engines.hanging)

    def run() -> None:
        with pytest.raises(StartFailed) as raised:
            check_conformance(factory, check_timeout=LIMIT_S)
        assert "not done in time" in raised.value.__notes__[0]

    ends_within(LIMIT_S + 1.0, run)


def test_the_engines_own_exception_is_the_cause() -> None:
    error = ValueError("no memory")
    with pytest.raises(StreamYieldedError) as raised:
        check_conformance(engines.streaming(error))
    assert raised.value.__cause__ is error


def test_a_task_of_the_engine_that_raises_system_exit_does_not_end_the_run() -> None:
    class Engine(engines.Engine):
        async def start(self, worker_id: int) -> Any:
            async def leave() -> None:
                raise SystemExit(4)

            self.task = asyncio.create_task(leave())
            return await super().start(worker_id)

        async def cleanup(self) -> None:
            if not self.task.done():
                raise AssertionError
            self.task.exception()

    class Fresh(Engine):
        async def cleanup(self) -> None:
            if hasattr(self, "task"):
                await super().cleanup()

    assert check_conformance(Fresh).conforms


@pytest.mark.parametrize(
    "case",
    [case for case in TIMEOUTS if "blocked" not in case.row and "swallows" not in case.row],
    ids=lambda case: f"{case.check}: {case.row}",
)
def test_in_the_callers_own_loop_the_verdict_is_the_same(case: Case) -> None:
    def run() -> None:
        with pytest.raises(CheckTimedOut) as raised:
            asyncio.run(run_conformance(case.factory, check_timeout=LIMIT_S, cancel_deadline=0.2))
        assert raised.value.check == case.check

    ends_within(LIMIT_S + 1.5, run)


def test_cancelling_the_run_cleans_up_and_stays_a_cancellation() -> None:
    cleaned, starting = [], threading.Event()

    class Engine(engines.Engine):
        async def start(self, worker_id: int) -> Any:
            starting.set()
            await asyncio.sleep(PATIENCE_S)

        async def cleanup(self) -> None:
            cleaned.append(self)

    async def cancelled_run() -> None:
        run = asyncio.create_task(run_conformance(Engine))
        while not starting.is_set():
            await asyncio.sleep(0.005)
        run.cancel()
        await run

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(cancelled_run())
    assert len(cleaned) == 1


def test_an_interrupt_by_the_user_cleans_up_and_stays_an_interrupt() -> None:
    cleaned = threading.Event()

    class Engine(engines.Engine):
        async def start(self, worker_id: int) -> Any:
            # To the main thread: only there does it end the loop's sleep at once.
            interrupt = threading.main_thread().ident, signal.SIGINT
            threading.Timer(0.1, signal.pthread_kill, interrupt).start()
            await asyncio.sleep(PATIENCE_S)

        async def cleanup(self) -> None:
            cleaned.set()

    # Whoever runs the tests in the background of a shell has the signal ignored.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            check_conformance(Engine)
    finally:
        signal.signal(signal.SIGINT, before)
    assert cleaned.wait(HANG_S)


def test_an_engine_that_cancels_the_kits_task_is_judged_and_does_not_stop_the_run() -> None:
    class Engine(engines.Engine):
        async def generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
            task = asyncio.current_task()
            assert task is not None
            task.cancel()
            await asyncio.sleep(0)
            yield engines.chunk(1, finish="length")

    with pytest.raises(StreamYieldedError, match="CancelledError"):
        check_conformance(Engine)


def test_no_thread_of_the_kit_is_left() -> None:
    check_conformance(engines.Engine)
    with pytest.raises(ConformanceFailure):
        check_conformance(engines.streaming(), cancel_deadline=0.1)
    assert not [t for t in threading.enumerate() if t.name == "conformance" and not t.daemon]
