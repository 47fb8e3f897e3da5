"""The rules of the profile ``seed``: what breaks each, what takes too long, and what keeps all."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import forwardcache.conformance as kit
from tests.conformance import engines as e
from tests.conformance.cases.case import Case, faults, with_reason, with_usage, without_usage
from tests.conformance.engines import chunk, usage


def source(rank: Any) -> Any:
    return {"dp_rank": rank}


def bindings(ranks: Any) -> Any:
    return SimpleNamespace(dp_ranks=ranks)


class Unreadable:
    """A chunk whose fields raise."""

    token_ids = ()

    @property
    def finish_reason(self) -> str:
        raise RuntimeError("gone")


class NamelessConfig:
    @property
    def model(self) -> str:
        raise RuntimeError("not loaded")


def not_startable() -> Any:
    return SimpleNamespace(cleanup=e.Engine().cleanup)


END = chunk(9, finish="length")

SEED_FAULTS = [
    *faults(
        kit.StartFailed,
        "start",
        {
            "start raises": e.having(start=e.raising(ValueError("no GPU"))),
            "start raises SystemExit": e.having(start=e.raising(SystemExit(3))),
            "start raises KeyboardInterrupt": e.having(start=e.raising(KeyboardInterrupt())),
            "start raises CancelledError": e.having(start=e.raising(asyncio.CancelledError())),
            "start is no coroutine": e.having(start=e.plainly({"model": "toy"})),
            "there is no start": not_startable,
            "the config can't be read": e.having(start=e.returning(NamelessConfig())),
        },
    ),
    *faults(
        kit.EmptyModelInConfig,
        "start",
        {
            "model is empty": e.having(start=e.returning({"model": ""})),
            "model is None": e.having(start=e.returning({"model": None})),
            "model is missing": e.having(start=e.returning({})),
            "there is no config": e.having(start=e.returning(None)),
            "model is an empty attribute": e.having(start=e.returning(SimpleNamespace(model=""))),
        },
    ),
    *faults(
        kit.KvEventSourcesFailed,
        "kv_event_sources",
        {
            "the first call raises": e.having(kv_event_sources=e.raising(OSError("port"))),
            "the second call raises": e.having(
                kv_event_sources=e.raising(OSError("port"), on_call=2)
            ),
            "a source has no dp_rank": e.having(kv_event_sources=e.returning([{"rank": 0}])),
            "there is no list": e.having(kv_event_sources=e.returning(None)),
        },
    ),
    *faults(
        kit.KvEventSourcesNotIdempotent,
        "kv_event_sources",
        {
            "the second call adds a rank": e.having(
                kv_event_sources=e.returning([source(0)], [source(0), source(1)])
            ),
            "the second call has another order": e.having(
                kv_event_sources=e.returning([source(0), source(1)], [source(1), source(0)])
            ),
            "the second call repeats a rank": e.having(
                kv_event_sources=e.returning([source(0)], [source(0), source(0)])
            ),
        },
    ),
    *faults(
        kit.SetupMetricsFailed,
        "setup_metrics",
        {
            "the first call raises": e.having(setup_metrics=e.raising(RuntimeError("registry"))),
            "the second call raises": e.having(
                setup_metrics=e.raising(RuntimeError("registry"), on_call=2)
            ),
            "the ranks can't be listed": e.having(setup_metrics=e.returning(bindings(3))),
            "component_metrics_dp_ranks can't be listed": e.having(
                component_metrics_dp_ranks=e.plainly(3)
            ),
        },
    ),
    *faults(
        kit.ComponentMetricsNotIdempotent,
        "setup_metrics",
        {
            "the second call adds a rank": e.having(
                setup_metrics=e.returning(bindings([0]), bindings([0, 1]))
            ),
            "the second call has another order": e.having(
                setup_metrics=e.returning({"dp_ranks": [0, 1]}, {"dp_ranks": [1, 0]})
            ),
            "component_metrics_dp_ranks changes": e.having(
                component_metrics_dp_ranks=e.plainly([0], [1])
            ),
            "component_metrics_dp_ranks changes without bindings": e.having(
                setup_metrics=e.returning(None), component_metrics_dp_ranks=e.plainly([0], [1])
            ),
        },
    ),
    *faults(
        kit.GenerateFailed,
        "single_generate",
        {
            "calling generate raises": e.having(generate=e.failing_at_once),
            "awaiting generate raises": e.having(generate=e.failing_when_awaited),
            "awaiting generate raises SystemExit": e.having(generate=e.raising(SystemExit(1))),
            "generate gives a list": e.having(generate=e.plainly([END])),
            "awaiting generate gives a list": e.having(generate=e.returning([END])),
            "there is no generate": e.having(generate=None),
        },
    ),
    *faults(
        kit.NoChunksYielded,
        "single_generate",
        {"the stream is empty": e.streaming()},
    ),
    *faults(
        kit.StreamYieldedError,
        "single_generate",
        {
            "the first step raises": e.streaming(ValueError("no memory")),
            "a later step raises": e.streaming(chunk(1), ValueError("no memory")),
            "an error after the terminal chunk": e.streaming(END, ValueError("late")),
            "an error after a chunk after the terminal one": e.streaming(
                END, chunk(1), ValueError("late")
            ),
            "an error before usage that is wrong": e.streaming(
                chunk(1), chunk(2, finish="length", usage=usage(3, 7)), ValueError("late")
            ),
            "a CancelledError of the engine's own": e.streaming(chunk(1), asyncio.CancelledError()),
            "SystemExit": e.streaming(chunk(1), SystemExit(2)),
            "KeyboardInterrupt": e.streaming(chunk(1), KeyboardInterrupt()),
            "BaseException": e.streaming(chunk(1), BaseException("odd")),
            "an item that is no chunk": e.streaming(5, END),
            "None as an item": e.streaming(None, END),
            "an item that can't be read": e.streaming(Unreadable(), END),
            "token_ids that can't be listed": e.streaming({"token_ids": 5}, END),
        },
    ),
    *faults(
        kit.ChunkAfterTerminal,
        "single_generate",
        {
            "a second terminal chunk": e.streaming(END, chunk(finish="length")),
            "a chunk after the terminal one": e.streaming(END, chunk(1)),
            "a chunk between two terminal ones": e.streaming(END, chunk(1), END),
            "wrong usage too": e.streaming(chunk(1, finish="length", usage=usage(3, 9)), chunk(1)),
        },
    ),
    *faults(
        kit.NoTerminalChunk,
        "single_generate",
        {
            "no finish_reason at all": e.streaming(chunk(1), chunk(2)),
            "wrong usage too": e.streaming(chunk(1), chunk(2, usage=usage(3, 9))),
        },
    ),
    *faults(
        kit.CompletionTokensMismatch,
        "single_generate",
        {
            "one too many": e.ending(with_usage(completion_tokens=9)),
            "one too few": e.ending(with_usage(completion_tokens=7)),
            "usage without completion_tokens": e.ending(
                lambda item: {**item, "completion_usage": {"prompt_tokens": 3}}
            ),
            "chunks counted instead of tokens": e.streaming(
                chunk(1, 2), chunk(3, 4, finish="stop", usage=usage(3, 2))
            ),
        },
    ),
    *faults(
        kit.ConcurrentGenerateFailed,
        "concurrent_generates",
        {
            "generate raises together with others": e.RefusesConcurrentStreams,
            "a stream is empty together with others": e.crowding(lambda item: []),
        },
    ),
    *faults(
        kit.GenerateFailed,
        "cancellation",
        {
            "a long request is refused": e.RefusesLongRequests,
            "abort raises, when asked for": e.AbortRaises,
        },
        drive_abort=True,
    ),
    *faults(
        kit.CancellationNotObserved,
        "cancellation",
        {
            "the stream goes on without waiting": e.NeverEnds,
            "the stream waits": e.Sleeper,
            "the stop is seen after the deadline": e.SeesTheStopLate,
            "the loop is blocked until after the deadline": e.BlocksPastTheDeadline,
            "CancelledError is swallowed": e.SwallowsCancelledError,
            "only abort stops, and nobody asked for it": e.WithAbort,
        },
    ),
    *faults(
        kit.CancellationNotObserved,
        "cancellation",
        {"abort hangs, when asked for": e.AbortHangs},
        drive_abort=True,
    ),
    *faults(
        kit.CancellationIgnored,
        "cancellation",
        {
            "it ends as length": e.stopped(chunk(1), END),
            "the last chunk is not terminal": e.stopped(chunk(1)),
            "cancelled, then length": e.stopped(chunk(finish="cancelled"), END),
            "it ends with an error reason": e.stopped(chunk(finish={"error": "stopped"})),
        },
    ),
    *faults(
        kit.StreamYieldedError,
        "cancellation",
        {
            "it ends in an error": e.stopped(ValueError("stopped")),
            "an error after cancelled": e.stopped(chunk(finish="cancelled"), ValueError("late")),
            "it ends in CancelledError": e.stopped(asyncio.CancelledError()),
        },
    ),
    *faults(kit.NoChunksYielded, "cancellation", {"it ends without a chunk": e.stopped()}),
    *faults(
        kit.CleanupFailed,
        "cleanup",
        {
            "cleanup raises": e.having(cleanup=e.raising(RuntimeError("busy"))),
            "cleanup raises SystemExit": e.having(cleanup=e.raising(SystemExit(0))),
            "cleanup is no coroutine": e.having(cleanup=e.plainly(None)),
        },
    ),
    *faults(
        kit.SecondCleanupFailed,
        "cleanup",
        {"the second raises": e.having(cleanup=e.raising(RuntimeError("freed"), on_call=2))},
    ),
    *faults(
        kit.CleanupWithoutStartFailed,
        "cleanup_without_start",
        {"cleanup needs what start makes": e.NeedsStartToCleanUp},
    ),
]

TIMEOUTS = [
    *faults(kit.CheckTimedOut, "start", {"start hangs": e.having(start=e.hanging)}),
    *faults(kit.CheckTimedOut, "kv_event_sources", {"hangs": e.having(kv_event_sources=e.hanging)}),
    *faults(kit.CheckTimedOut, "setup_metrics", {"hangs": e.having(setup_metrics=e.hanging)}),
    *faults(
        kit.CheckTimedOut,
        "single_generate",
        {
            "generate hangs": e.having(generate=e.hanging),
            "the stream hangs after its terminal chunk": e.HangsAfterTerminal,
            "the stream can't be closed": e.HangsOnClose,
            "the stream never ends": e.NeverEndsAtAll,
            "the stream waits and swallows CancelledError": e.SwallowsForAWhile,
            "the loop is blocked for good": e.BlocksForGood,
            "the loop is blocked longer than the limit": e.BlocksPastTheLimit,
        },
    ),
    *faults(kit.CheckTimedOut, "concurrent_generates", {"streams deadlock": e.Deadlocks}),
    *faults(kit.CheckTimedOut, "cleanup", {"cleanup hangs": e.having(cleanup=e.hanging)}),
    *faults(
        kit.CheckTimedOut, "cleanup_without_start", {"it waits for start": e.WaitsForStartToCleanUp}
    ),
]

SEED_PASSES = [
    Case("the correct engine", e.Engine),
    Case("a model of blanks", e.having(start=e.returning({"model": "  "}))),
    Case("the model as attribute", e.having(start=e.returning(SimpleNamespace(model="toy")))),
    Case("usage absent", e.ending(without_usage)),
    Case(
        "usage wrong on a chunk that isn't terminal",
        e.streaming(chunk(1, usage=usage(3, 77)), chunk(2, finish="length", usage=usage(3, 2))),
    ),
    Case("a wrong total", e.ending(with_usage(total_tokens=99))),
    Case("an error reason", e.ending(with_reason({"error": "content filter"}))),
    Case("any reason is terminal", e.ending(with_reason(""))),
    Case("an uncalled-for cancelled", e.streaming(chunk(1), chunk(finish="cancelled"))),
    Case("abort means cancelled", e.stopping(with_reason("abort"))),
    Case("duplicate ranks", e.having(kv_event_sources=e.returning([source(1), source(1)]))),
    Case("no sources", e.having(kv_event_sources=e.returning([]))),
    Case(
        "ranks as attributes and methods",
        e.having(
            kv_event_sources=e.returning(
                [SimpleNamespace(dp_rank=0), SimpleNamespace(dp_rank=lambda: 1)]
            )
        ),
    ),
    Case(
        "new descriptors with the same ranks",
        e.having(kv_event_sources=e.returning([source(0)], [SimpleNamespace(dp_rank=0)])),
    ),
    Case("None ranks of metrics", e.having(setup_metrics=e.returning(bindings(None), {}))),
    Case("no bindings", e.having(setup_metrics=e.returning(None))),
    Case("no component ranks", e.having(component_metrics_dp_ranks=e.plainly([], None))),
    Case(
        "bindings come before component ranks",
        e.having(
            setup_metrics=e.returning(bindings([0])), component_metrics_dp_ranks=e.plainly([0], [1])
        ),
    ),
    Case("length, then cancelled, when stopped", e.stopped(END, chunk(finish="cancelled"))),
    Case(
        "500 tokens, then cancelled, when stopped",
        e.stopped(*[chunk(1)] * 500, chunk(finish="cancelled")),
    ),
    Case("no chunk but the last is judged when stopped", e.stopped(7, chunk(finish="cancelled"))),
    Case("wrong usage when stopped", e.stopped(chunk(1, finish="cancelled", usage=usage(3, 9)))),
    Case("streams that raise together with others", e.RaisesInConcurrentStreams),
    Case("streams without terminal together with others", e.crowding(lambda item: [chunk(1)])),
    Case("items that are no chunks together with others", e.crowding(lambda item: [None])),
    Case("one dict for all chunks", e.OneChunkObject),
    Case("chunks as objects", e.edited(e.as_object)),
    Case("reasons as enum", e.with_enum_reasons(e.Reason, "CANCELLED")),
    Case("reasons as numbered enum", e.with_enum_reasons(e.NumberedReason, "ABORT")),
    Case("generate is awaited", e.Awaited),
    Case("a stop while generate opens", e.StopsDuringOpening),
    Case("a stream that raises when it is closed", e.RaisesOnClose),
    Case("abort that raises, not asked for", e.AbortRaises),
    Case("abort stops the stream, when asked for", e.WithAbort, options={"drive_abort": True}),
    Case("no abort, when asked for", e.Engine, options={"drive_abort": True}),
    Case("no limit asked for", e.Engine, options={"max_tokens": None}),
    Case("a stop seen just in time", e.SeesTheStopLate, options={"cancel_deadline": 0.8}),
]
