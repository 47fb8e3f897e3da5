"""What the profile ``strict`` adds: what breaks each of its rules, and what keeps all."""

from __future__ import annotations

import forwardcache.conformance as kit
from tests.conformance import engines as e
from tests.conformance.cases.case import Case, faults, with_reason, with_usage, without_usage
from tests.conformance.cases.seed import END
from tests.conformance.engines import chunk

STRICT_FAULTS = [
    *faults(
        kit.InvalidTokenIds,
        "token_ids",
        {
            "text": e.edited(
                lambda item: {**item, "token_ids": [str(i) for i in item["token_ids"]]}
            ),
            "floats": e.edited(
                lambda item: {**item, "token_ids": [float(i) for i in item["token_ids"]]}
            ),
            "a bool": e.ending(lambda item: {**item, "token_ids": [True]}),
        },
        "strict",
    ),
    *faults(
        kit.UsageInvalid,
        "usage",
        {
            "total is not prompt + completion": e.ending(with_usage(total_tokens=99)),
            "the total is text": e.ending(with_usage(total_tokens="11")),
            "the prompt is text": e.ending(with_usage(prompt_tokens="3")),
            "a cancelled stream's tokens miscounted": e.stopping(with_usage(completion_tokens=0)),
            "a cancelled stream's tokens miscounted, with the sum right": e.stopping(
                with_usage(completion_tokens=0, total_tokens=3)
            ),
            "a cancelled stream's total": e.stopping(with_usage(total_tokens=99)),
        },
        "strict",
    ),
    *faults(
        kit.MidStreamCancellationIgnored,
        "mid_stream_cancellation",
        {
            "it ends as length": e.StopSeenOnlyAtFirst,
            "it ends as cancelled, but late": e.StopSeenAfterTheDeadline,
            "it ends in an error": e.ErrsWhenStopped,
            "it ends without a word": e.EndsWhenStopped,
        },
        "strict",
    ),
    *faults(
        kit.CancelWhileOpeningFailed,
        "cancel_while_opening",
        {
            "generate raises": e.StoppedDuringOpeningRaises,
            "the stream is empty": e.StoppedDuringOpeningIsEmpty,
            "it ends as length": e.StoppedDuringOpeningIsIgnored,
            "it ends in an error": e.StoppedDuringOpeningErrs,
            "it never opens": e.OpeningHangs,
            "a long request gives nothing": e.LongRequestsGiveNothing,
        },
        "strict",
    ),
    *faults(
        kit.ConcurrentStreamInvalid,
        "concurrent_streams",
        {
            "a stream raises": e.RaisesInConcurrentStreams,
            "a stream has no terminal": e.crowding(lambda item: [chunk(1)]),
            "an item is no chunk": e.crowding(lambda item: [None]),
        },
        "strict",
    ),
    *faults(
        kit.CrossTalk,
        "cross_talk",
        {"tokens of one stream in another": e.MixesStreams},
        "strict",
    ),
    *faults(
        kit.NeighbourDisturbed,
        "neighbours",
        {
            "they are cancelled too": e.StopReachesAll,
            "they get other tokens": e.StopSpoilsNeighbours,
            "they end without a terminal": e.StopEndsNeighbours,
            "they are cancelled too, in an engine that samples": e.RandomAndStopReachesAll,
        },
        "strict",
    ),
    *faults(
        kit.DroppedStreamLeaked,
        "dropped_streams",
        {
            "tasks": e.KeepsTasks,
            "slots, so that a later drop waits": e.HasSlots,
            "slots, so that the next stream waits": e.HasAsManySlotsAsDropped,
            "slots, so that the next request is refused": e.RefusesWithoutSlot,
            "what the engine counts": e.CountsInFlight,
            "what the engine counts by a method": e.CountsInFlightByMethod,
            "the next stream is spoilt": e.BreaksAfterDrop,
            "closing raises": e.RaisesWhenDropped,
        },
        "strict",
    ),
    *faults(
        kit.EventLoopBlocked,
        "event_loop",
        {"each stream blocks": e.BlocksTheLoop},
        "strict",
        block_limit=0.04,
    ),
    *faults(
        kit.LeftBehind,
        "left_behind",
        {"a task": e.LeavesTask, "a thread": e.LeavesThread},
        "strict",
    ),
    *faults(
        kit.CleanupAfterFailedStartFailed,
        "cleanup_after_failed_start",
        {"cleanup raises": e.Engine},
        "strict",
        failing_factory=e.CantCleanUpAfterFailedStart,
    ),
]

STRICT_PASSES = [
    Case(case.row, case.factory, profile="strict", options=case.options)
    for case in [
        Case("the correct engine", e.Engine),
        Case("usage absent", e.ending(without_usage)),
        Case("usage without total", e.ending(with_usage(total_tokens=None))),
        Case("usage without prompt", e.ending(with_usage(prompt_tokens=None))),
        Case("usage absent when stopped", e.stopping(without_usage)),
        Case("one dict for all chunks", e.OneChunkObject),
        Case("chunks as objects", e.edited(e.as_object)),
        Case("generate is awaited", e.Awaited),
        Case("a stop while generate opens", e.StopsDuringOpening),
        Case("a single chunk", e.streaming(END)),
        Case("other tokens each time", e.Random),
        Case("other tokens each time for one request", e.RandomForOnePrompt),
        Case("streams without aclose", e.WithoutClose),
        Case("a scheduler that starts late", e.StartsSchedulerLate),
        Case("a task that outlives its dropped stream a moment", e.EndsTasksSoonAfterDrop),
        Case("a loop blocked once", e.BlocksTheLoopOnce),
        Case("a loop blocked shortly", e.BlocksTheLoopShortly),
        Case("a daemon thread", e.LeavesDaemonThread),
        Case("threads of the loop's executor", e.UsesToThread),
        Case("a task that outlives cleanup a moment", e.LeavesTaskForAMoment),
        Case("always cancelled", e.ending(with_reason("cancelled"))),
        Case("one stream at once", e.Engine, options={"concurrency": 1}),
        Case("abort alone stops", e.WithAbort, options={"drive_abort": True}),
        Case("a failed start", e.Engine, options={"failing_factory": e.FailsToStart}),
        Case("a failing factory that starts", e.Engine, options={"failing_factory": e.Engine}),
    ]
]
