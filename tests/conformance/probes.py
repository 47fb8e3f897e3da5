"""Claims about the kit's parts that no verdict shows: exact bounds, what is closed or skipped.

Each is a function without arguments that asserts; they are tests of their own, and they help the
cases to catch mutants.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from forwardcache.conformance import (
    Chunk,
    ConformanceFailure,
    Usage,
    check_conformance,
    conformance_checks,
    run_conformance,
)
from forwardcache.conformance.chunk import read_chunk
from forwardcache.conformance.guard import OverdueError, bounded
from forwardcache.conformance.judge import usage_contradiction
from forwardcache.conformance.report import Report
from forwardcache.conformance.stream import Reception, receive, receive_within
from forwardcache.conformance.strict.ask import settled
from forwardcache.conformance.strict.stops import _used_its_context_up, not_cancelled
from forwardcache.conformance.subject import Settings, Subject
from tests.conformance import engines as e
from tests.conformance.cases import QUICK, Case


def report_on(factory: Callable[[], Any], **options: Any) -> Report:
    try:
        return check_conformance(factory, **{**QUICK, "profile": "strict", **options})
    except ConformanceFailure as failure:
        return failure.report or Report("none")


def outcome(check: str, factory: Callable[[], Any], **options: Any) -> str:
    results = report_on(factory, **options).results
    return next(result.outcome for result in results if result.check == check)


def ended(*, at: float, chunks: list[Chunk] | None = None) -> Reception:
    reception = Reception()
    reception.opened_at, reception.ended_at = 0.0, at
    reception.chunks = [Chunk(at, finish_reason="cancelled")] if chunks is None else chunks
    return reception


class Numbers:
    """A stream whose iterator is another object; both can be closed, and say so."""

    def __init__(self, count: int = 3, *, hangs: bool = False) -> None:
        self.count = count
        self.hangs = hangs
        self.sent = 0
        self.closed: list[str] = []

    def __aiter__(self) -> NumbersIterator:
        return NumbersIterator(self)

    async def aclose(self) -> None:
        self.closed.append("stream")


class NumbersIterator:
    def __init__(self, numbers: Numbers) -> None:
        self.numbers = numbers

    def __aiter__(self) -> NumbersIterator:
        return self

    async def __anext__(self) -> Any:
        if self.numbers.hangs:
            await asyncio.sleep(60)
        if self.numbers.sent == self.numbers.count:
            raise StopAsyncIteration
        self.numbers.sent += 1
        return e.chunk(self.numbers.sent)

    async def aclose(self) -> None:
        self.numbers.closed.append("iterator")


def an_error_reason_is_read_as_error() -> None:
    assert read_chunk({"finish_reason": {"error": "full"}}, 0.0).finish_reason == "error"
    assert read_chunk({"finish_reason": {"type": "stop"}}, 0.0).finish_reason == "{'type': 'stop'}"
    assert read_chunk({"finish_reason": "my error"}, 0.0).finish_reason == "my error"


def the_deadline_itself_is_in_time() -> None:
    assert ended(at=2.0).ended_within(2.0)
    assert not ended(at=2.001).ended_within(2.0)
    assert not_cancelled(ended(at=2.0), 0.0, 2.0) is None
    assert not_cancelled(ended(at=2.5), 0.0, 2.0) == "did not end within 2 s"
    assert not_cancelled(Reception(), 0.0, 2.0) == "did not end within 2 s"


def an_error_is_told_from_another_ending() -> None:
    failed = ended(at=1.0, chunks=[Chunk(1.0, error="ValueError")])
    assert not_cancelled(failed, 0.0, 2.0) == "raised ValueError"


def a_stream_is_dropped_after_exactly_as_many_chunks_as_asked() -> None:
    numbers, reception = Numbers(), Reception()
    asyncio.run(receive(numbers, reception, take=1))
    assert (numbers.sent, len(reception.chunks), reception.ended_at) == (1, 1, None)


def the_first_chunk_is_told_once() -> None:
    told = []
    reception = Reception()
    asyncio.run(receive(Numbers(), reception, on_first=lambda: told.append(len(reception.chunks))))
    assert told == [1]


def iterator_and_stream_are_closed_once_each() -> None:
    numbers = Numbers()
    asyncio.run(receive(numbers, Reception()))
    assert numbers.closed == ["iterator", "stream"]
    iterator = NumbersIterator(numbers)
    asyncio.run(receive(iterator, Reception()))
    assert numbers.closed == ["iterator", "stream", "iterator"]


def a_stream_that_is_out_of_time_is_closed_and_shows_no_error_of_the_kits_own() -> None:
    numbers, reception = Numbers(hangs=True), Reception()
    assert asyncio.run(receive_within(0.02, numbers, reception)) is False
    assert numbers.closed == ["iterator", "stream"]
    assert (reception.chunks, reception.ended_at) == ([], None)


def a_stream_that_swallows_the_cancellation_is_not_received_any_more() -> None:
    reception = Reception()

    async def stubborn() -> Any:
        # It waits when it is cancelled, so the cancellation comes nowhere else; and it is still
        # there when it is looked at again.
        for pause in (0.0, 5.0, *[0.005] * 200):
            with suppress(asyncio.CancelledError):
                await asyncio.sleep(pause)
            yield e.chunk(1)

    async def main() -> bool:
        await receive_within(0.1, stubborn(), reception)
        seen = len(reception.chunks)
        await asyncio.sleep(0.05)
        return seen == len(reception.chunks)

    assert asyncio.run(main())


def cross_talk_is_skipped_where_solo_runs_disagree() -> None:
    assert outcome("cross_talk", e.Random) == "skipped"
    assert outcome("cross_talk", e.RandomForOnePrompt) == "passed"


def cross_talk_does_not_judge_what_could_not_be_opened() -> None:
    failed = report_on(e.RefusesConcurrentStreams, report_all=True).failures
    assert {failure.check for failure in failed} >= {"concurrent_streams", "neighbours"}
    assert "cross_talk" not in {failure.check for failure in failed}


def a_stream_over_at_once_can_t_be_judged_by_its_cancellation() -> None:
    single = e.streaming(e.chunk(1, finish="stop"))
    assert outcome("mid_stream_cancellation", single) == "skipped"
    assert outcome("cancel_while_opening", single) == "skipped"
    # The first chunk of this one is the "cancelled" that is wanted.
    assert outcome("cancel_while_opening", e.Engine) == "passed"
    assert outcome("mid_stream_cancellation", e.LongRequestsGiveNothing) == "skipped"


def a_failed_start_is_judged_only_where_it_fails() -> None:
    check = "cleanup_after_failed_start"
    assert outcome(check, e.Engine) == "skipped"
    assert outcome(check, e.Engine, failing_factory=e.Engine) == "skipped"
    assert outcome(check, e.Engine, failing_factory=e.FailsToStart) == "passed"


def a_strict_check_without_a_sound_stream_is_skipped() -> None:
    assert outcome("token_ids", e.streaming(e.chunk(1)), report_all=True) == "skipped"


def the_chunks_of_an_unobserved_cancellation_are_those_of_the_engine() -> None:
    failure = Case("", e.Sleeper).verdict()
    assert failure is not None
    assert failure.chunks == ()


def settling_waits_only_while_there_is_something() -> None:
    def seconds() -> float:
        began = time.monotonic()
        assert asyncio.run(settled(lambda: 0, 0.5)) == 0
        assert asyncio.run(settled(lambda: time.monotonic() - began < 0.03, 0.5)) is False
        return time.monotonic() - began

    # A busy machine can make any one of them slow.
    assert any(seconds() < 0.4 for _ in range(5))
    assert asyncio.run(settled(lambda: 7, 0.03)) == 7


def work_that_is_done_too_late_by_the_wall_clock_is_overdue() -> None:
    async def block() -> None:
        time.sleep(0.05)

    async def main() -> bool:
        try:
            await bounded(block(), 0.02)
        except OverdueError:
            return True
        return False

    assert asyncio.run(main())


def numbers_that_are_none_are_said_to_be_none() -> None:
    for prompt, total in ((3, "11"), ("3", 11)):
        chunks = [Chunk(0.0, (1,) * 8, usage=Usage(prompt, 8, total))]
        assert "are no whole numbers" in str(usage_contradiction(chunks))


def a_short_context_is_judged_in_full() -> None:
    for limit in (8, None):
        results = report_on(e.TinyContext, max_tokens=limit).results
        skipped = [result.check for result in results if result.outcome != "passed"]
        assert skipped == ["cleanup_after_failed_start"], results


def a_slow_engine_is_asked_for_no_more_than_there_is_time_for() -> None:
    made: list[e.Slow] = []

    def factory() -> e.Slow:
        made.append(e.Slow())
        return made[-1]

    report_on(factory, max_tokens=2, check_timeout=2.0, concurrency=1)
    assert max(limit for limit in made[0].asked if limit < 1_000) == 7


def tasks_of_the_callers_loop_are_not_the_engines() -> None:
    async def main() -> bool:
        task = asyncio.create_task(asyncio.sleep(60))
        report = await run_conformance(e.Engine, profile="strict", **QUICK)
        task.cancel()
        return report.conforms

    assert asyncio.run(main())


def a_stop_that_comes_after_the_end_of_the_context_is_not_judged() -> None:
    check = "mid_stream_cancellation"
    assert outcome(check, e.FillsItsContext) == "skipped"
    assert outcome(check, e.FillsItsContextSlowly) == "failed"


def a_stream_has_filled_its_context_where_it_has_all_tokens_and_is_over_at_once() -> None:
    subject = Subject(e.Engine, Settings(profile="strict"))
    full = ended(at=1.0, chunks=[Chunk(1.0, (1,) * 13)])
    assert not _used_its_context_up(subject, full, 0.99)
    subject.context_length = 16
    assert _used_its_context_up(subject, full, 0.99)
    assert not _used_its_context_up(subject, full, 0.9)
    assert not _used_its_context_up(subject, ended(at=1.0, chunks=[Chunk(1.0, (1,))]), 0.99)
    full.ended_at = None
    assert not _used_its_context_up(subject, full, 0.99)


def the_checks_one_by_one_pass_as_in_a_run() -> None:
    checks = conformance_checks(e.Engine, profile="strict", failing_factory=e.FailsToStart, **QUICK)
    for check in checks:
        check()
    checks[0].session.close()


PROBES: list[Callable[[], None]] = [
    settling_waits_only_while_there_is_something,
    work_that_is_done_too_late_by_the_wall_clock_is_overdue,
    the_checks_one_by_one_pass_as_in_a_run,
    an_error_reason_is_read_as_error,
    the_deadline_itself_is_in_time,
    an_error_is_told_from_another_ending,
    a_stream_is_dropped_after_exactly_as_many_chunks_as_asked,
    the_first_chunk_is_told_once,
    iterator_and_stream_are_closed_once_each,
    a_stream_that_is_out_of_time_is_closed_and_shows_no_error_of_the_kits_own,
    a_stream_that_swallows_the_cancellation_is_not_received_any_more,
    cross_talk_is_skipped_where_solo_runs_disagree,
    cross_talk_does_not_judge_what_could_not_be_opened,
    a_stream_over_at_once_can_t_be_judged_by_its_cancellation,
    a_failed_start_is_judged_only_where_it_fails,
    a_strict_check_without_a_sound_stream_is_skipped,
    the_chunks_of_an_unobserved_cancellation_are_those_of_the_engine,
    numbers_that_are_none_are_said_to_be_none,
    a_short_context_is_judged_in_full,
    a_slow_engine_is_asked_for_no_more_than_there_is_time_for,
    tasks_of_the_callers_loop_are_not_the_engines,
    a_stop_that_comes_after_the_end_of_the_context_is_not_judged,
    a_stream_has_filled_its_context_where_it_has_all_tokens_and_is_over_at_once,
]

ABOUT = {
    numbers_that_are_none_are_said_to_be_none: "_wrong_total",
    a_short_context_is_judged_in_full: "prompt_length",
    a_slow_engine_is_asked_for_no_more_than_there_is_time_for: "token_limits",
    tasks_of_the_callers_loop_are_not_the_engines: "left_behind",
    a_stop_that_comes_after_the_end_of_the_context_is_not_judged: "mid_stream_cancellation",
    a_stream_has_filled_its_context_where_it_has_all_tokens_and_is_over_at_once: (
        "_used_its_context_up"
    ),
    an_error_reason_is_read_as_error: "_reason",
    the_deadline_itself_is_in_time: "ended_within",
    an_error_is_told_from_another_ending: "not_cancelled",
    a_stream_is_dropped_after_exactly_as_many_chunks_as_asked: "_take_all",
    iterator_and_stream_are_closed_once_each: "close",
    a_stream_that_is_out_of_time_is_closed_and_shows_no_error_of_the_kits_own: "receive",
    cross_talk_is_skipped_where_solo_runs_disagree: "cross_talk",
    a_failed_start_is_judged_only_where_it_fails: "cleanup_after_failed_start",
    settling_waits_only_while_there_is_something: "settled",
}
"""The function that a probe is about, where it is about one."""
