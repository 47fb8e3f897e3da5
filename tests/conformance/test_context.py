"""Contexts: stopped from anywhere, waited for anyhow, harmless extras.

Checked here: what ``mock_context`` and ``cancelling_context`` promise.
"""

import asyncio
import threading
import time

from forwardcache.conformance import cancelling_context, mock_context
from forwardcache.conformance.context import MockContext
from tests.patience import HANG_S


def test_a_fresh_context_is_not_stopped_and_has_an_id_of_its_own() -> None:
    first, second = mock_context(), mock_context()
    assert first.id() != second.id()
    assert not first.is_stopped()
    assert not first.is_killed()


def test_stop_generating_stops_and_does_not_kill() -> None:
    context = mock_context()
    context.stop_generating()
    context.stop_generating()
    assert context.is_stopped()
    assert not context.is_killed()


def test_kill_stops_too() -> None:
    context = mock_context()
    context.kill()
    assert context.is_stopped()
    assert context.is_killed()


def test_a_stop_from_another_thread_wakes_who_waits() -> None:
    async def main() -> bool:
        context = mock_context()
        threading.Timer(0.02, context.stop_generating).start()
        return await asyncio.wait_for(context.async_killed_or_stopped(), HANG_S)

    assert asyncio.run(main()) is True


def test_waiting_works_after_the_stop_with_wait_and_by_several() -> None:
    async def main() -> int:
        context = mock_context()
        early = [context.async_killed_or_stopped() for _ in range(3)]
        context.stop_generating()
        done, _ = await asyncio.wait([*early, context.async_killed_or_stopped()], timeout=HANG_S)
        return len(done)

    assert asyncio.run(main()) == 4


def test_one_who_gives_up_waiting_does_not_disturb_the_others() -> None:
    async def main() -> bool:
        context = mock_context()
        context.async_killed_or_stopped().cancel()
        other = context.async_killed_or_stopped()
        context.stop_generating()
        return await other

    assert asyncio.run(main())


def test_a_stop_after_the_loop_is_closed_is_harmless() -> None:
    context = mock_context()

    async def main() -> None:
        context.async_killed_or_stopped()

    asyncio.run(main())
    context.stop_generating()
    assert context.is_stopped()


def test_cancelling_context_stops_after_its_time_even_while_the_loop_is_blocked() -> None:
    context = cancelling_context(0.05)
    assert not context.is_stopped()
    until = time.monotonic() + HANG_S
    while not context.is_stopped() and time.monotonic() < until:
        time.sleep(0.005)
    assert context.is_stopped()


def test_the_extras_of_dynamo_do_nothing() -> None:
    async def main() -> None:
        context = MockContext("request-1", {"tenant": "a"})
        context.notify_first_token()
        with context.start_span("decode", kind="internal") as span:
            span.set_attribute("tokens", 3)
        async with context.current_span():
            pass
        assert context.trace_headers() == {}
        assert (context.trace_id, context.span_id, context.parent_span_id) == (None, None, None)
        detached = context.detached("request-2")
        context.stop_generating()
        assert (detached.id(), detached.metadata) == ("request-2", {"tenant": "a"})
        assert not detached.is_stopped()

    asyncio.run(main())
