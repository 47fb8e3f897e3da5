"""What the profile ``strict`` adds: what breaks each of its rules, and what keeps all."""

from __future__ import annotations

import forwardcache.conformance as kit
from tests.conformance import engines as e
from tests.conformance.cases.case import Case, faults, with_reason, with_usage, without_usage
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
            "a prompt of one too few": e.counting(lambda prompt, item: len(prompt) - 1),
            "a prompt of none": e.counting(lambda prompt, item: 0),
            "a prompt of 999": e.counting(lambda prompt, item: 999),
            "a prompt of less than none": e.counting(lambda prompt, item: -3),
            "a long prompt counted as a short one": e.counting(lambda prompt, item: 3),
            "a cancelled stream's prompt": e.counting(
                lambda prompt, item: len(prompt) - (item["finish_reason"] == "cancelled")
            ),
        },
        "strict",
    ),
    *faults(
        kit.MaxTokensExceeded,
        "token_limits",
        {"one more than asked for": e.SendsOneMore},
        "strict",
    ),
    *faults(
        kit.EndedTooEarly,
        "token_limits",
        {
            "never more than 8": e.NeverMoreThan,
            "never more than 16": e.NeverMoreThan16,
            "never more than 128": e.NeverMoreThan128,
        },
        "strict",
    ),
    *faults(
        kit.FinishReasonWrong,
        "token_limits",
        {
            "stop at the limit": e.ending(with_reason("stop")),
            "eos at the limit": e.ending(with_reason("EOS")),
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
            "a token too many": e.SendsOneMoreInACrowd,
        },
        "strict",
    ),
    *faults(
        kit.CrossTalk,
        "cross_talk",
        {
            "tokens of one stream in another": e.MixesStreams,
            "one answer for requests that begin alike": e.SharesAnswersInFlight,
            "one answer for requests that end alike": e.SharesAnswersByEnd,
            "a stream raises": e.RaisesForLongPromptsInACrowd,
        },
        "strict",
    ),
    *faults(
        kit.PromptsMixedUp,
        "shared_prefixes",
        {
            "the same first 4 ids": e.KeepsAnswersByBeginning,
            "the same first 16 ids": e.KeepsAnswersBySixteen,
            "the same first 32 ids": e.KeepsAnswersByThirtyTwo,
        },
        "strict",
    ),
    *faults(
        kit.WaiterCancellationSwallowed,
        "cancelled_waiter",
        {
            "it ends as stop": e.StopsWhenWaiterIsCancelled,
            "it ends without a word": e.EndsWhenWaiterIsCancelled,
            "it goes on": e.GoesOnWhenWaiterIsCancelled,
            "it hangs": e.HangsWhenWaiterIsCancelled,
            "the engine serves nobody any more": e.BreaksWhenWaiterIsCancelled,
        },
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
        {
            "a task": e.LeavesTask,
            "a thread": e.LeavesThread,
            "a thread of a thread": e.LeavesThreadOfThread,
        },
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
        Case("a single chunk", e.streaming(chunk(9, finish="stop"))),
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
        Case("a model that ends by itself", e.EndsAfterFive),
        Case("a model that ends by itself at the limit", e.EndsByItself),
        Case("a short context", e.ShortContext),
        Case("a short context, said in the registration", e.ShortContextInRegistration),
        Case("a short context, unsaid", e.ShortContextUnsaid, options={"long_max_tokens": 20}),
        Case("no limit asked for", e.Engine, options={"max_tokens": None}),
        Case("the prompt sent back", e.Echo),
        Case("the prompt sent back in a short context", e.EchoInShortContext),
        Case("answers from the last id alone", e.LooksAtTheLastId),
        Case("answers without the prompt", e.LooksAtNoId),
        Case("answers from all ids", e.LooksAtTheMiddle),
        Case("a cancelled waiter gets cancelled", e.SaysCancelledWhenWaiterIs),
        Case("a cancelled waiter gets an error", e.ErrsWhenWaiterIsCancelled),
        Case("a chunk that comes with a cancellation, twice", e.SwallowsTwice),
        Case("a stream that never waits", e.NeverWaits),
        Case("a stream that lingers after its end", e.LingersAfterItsEnd),
        Case("another tool's thread", e.WatchedByOthers),
        Case("a failed start", e.Engine, options={"failing_factory": e.FailsToStart}),
        Case("a failing factory that starts", e.Engine, options={"failing_factory": e.Engine}),
    ]
]
