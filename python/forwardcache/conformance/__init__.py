"""Proves that a streaming LLM engine keeps its contract: named checks, each with one clear failure.

Reading order: ``checks`` (the order), ``seed``, ``strict`` and ``media`` (one small function a
check), ``failure``, ``failures`` and ``media_failures`` (what they find), ``judge`` (what a stream
must be) with ``chunk``, ``subject`` with ``threads``, ``context``, ``stream``, ``guard`` and
``loop_thread`` (how an engine is run without trusting it),
``run`` (the verdict), ``report``, ``tables`` and ``render``, ``expected`` (checks that are known to
fail) and ``kit`` (the head of every kit's report), then the fronts: ``parametrize``,
``pytest_plugin``, ``suite``, ``command`` with ``locate``, ``leaving`` and, for files, ``told`` and
``junit``.
``backend`` does the same for scoring backends, ``server`` for the log-probabilities of OpenAI-style
servers, which ``http`` asks, and ``adapter`` for engines that are given adapters. All but the last
import neither torch nor transformers.

Names are imported when they are first used: the pytest plugin lives in this package and is loaded
by every run of pytest, most of which ask for no check.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from forwardcache.conformance.checks import PROFILES
    from forwardcache.conformance.chunk import Chunk, Usage
    from forwardcache.conformance.context import MockContext, cancelling_context, mock_context
    from forwardcache.conformance.failures import (
        CancellationIgnored,
        CancellationNotObserved,
        CancelWhileOpeningFailed,
        CheckTimedOut,
        ChunkAfterTerminal,
        CleanupAfterFailedStartFailed,
        CleanupFailed,
        CleanupWithoutStartFailed,
        CompletionTokensMismatch,
        ComponentMetricsNotIdempotent,
        ConcurrentGenerateFailed,
        ConcurrentStreamInvalid,
        ConformanceFailure,
        CrossTalk,
        DroppedStreamLeaked,
        EmptyModelInConfig,
        EndedTooEarly,
        EventLoopBlocked,
        ExpectedFailurePassed,
        FinishReasonWrong,
        GenerateFailed,
        InvalidTokenIds,
        KvEventSourcesFailed,
        KvEventSourcesNotIdempotent,
        LeftBehind,
        MaxTokensExceeded,
        MidStreamCancellationIgnored,
        NeighbourDisturbed,
        NoChunksYielded,
        NoTerminalChunk,
        PromptsMixedUp,
        SecondCleanupFailed,
        SetupMetricsFailed,
        StartFailed,
        StreamYieldedError,
        UsageInvalid,
        WaiterCancellationSwallowed,
    )
    from forwardcache.conformance.kit import KIT_VERSION
    from forwardcache.conformance.media_failures import (
        EncodeChunkCount,
        EncoderResultExpectedObject,
        EncodeTerminalExpected,
        EncodeTokensNotEmpty,
        EncodeUsageMismatch,
        RawEngineAdvertisedLlmRegistration,
    )
    from forwardcache.conformance.parametrize import conformance_checks, parametrize_with_checks
    from forwardcache.conformance.report import CheckResult, Report
    from forwardcache.conformance.run import check_conformance, run_conformance

__all__ = [
    "KIT_VERSION",
    "PROFILES",
    "CancelWhileOpeningFailed",
    "CancellationIgnored",
    "CancellationNotObserved",
    "CheckResult",
    "CheckTimedOut",
    "Chunk",
    "ChunkAfterTerminal",
    "CleanupAfterFailedStartFailed",
    "CleanupFailed",
    "CleanupWithoutStartFailed",
    "CompletionTokensMismatch",
    "ComponentMetricsNotIdempotent",
    "ConcurrentGenerateFailed",
    "ConcurrentStreamInvalid",
    "ConformanceFailure",
    "CrossTalk",
    "DroppedStreamLeaked",
    "EmptyModelInConfig",
    "EncodeChunkCount",
    "EncodeTerminalExpected",
    "EncodeTokensNotEmpty",
    "EncodeUsageMismatch",
    "EncoderResultExpectedObject",
    "EndedTooEarly",
    "EventLoopBlocked",
    "ExpectedFailurePassed",
    "FinishReasonWrong",
    "GenerateFailed",
    "InvalidTokenIds",
    "KvEventSourcesFailed",
    "KvEventSourcesNotIdempotent",
    "LeftBehind",
    "MaxTokensExceeded",
    "MidStreamCancellationIgnored",
    "MockContext",
    "NeighbourDisturbed",
    "NoChunksYielded",
    "NoTerminalChunk",
    "PromptsMixedUp",
    "RawEngineAdvertisedLlmRegistration",
    "Report",
    "SecondCleanupFailed",
    "SetupMetricsFailed",
    "StartFailed",
    "StreamYieldedError",
    "Usage",
    "UsageInvalid",
    "WaiterCancellationSwallowed",
    "cancelling_context",
    "check_conformance",
    "conformance_checks",
    "mock_context",
    "parametrize_with_checks",
    "run_conformance",
]

_ELSEWHERE = {
    "KIT_VERSION": "kit",
    "EncodeChunkCount": "media_failures",
    "EncodeTerminalExpected": "media_failures",
    "EncodeTokensNotEmpty": "media_failures",
    "EncodeUsageMismatch": "media_failures",
    "EncoderResultExpectedObject": "media_failures",
    "RawEngineAdvertisedLlmRegistration": "media_failures",
    "PROFILES": "checks",
    "CheckResult": "report",
    "Chunk": "chunk",
    "MockContext": "context",
    "Report": "report",
    "Usage": "chunk",
    "cancelling_context": "context",
    "check_conformance": "run",
    "conformance_checks": "parametrize",
    "mock_context": "context",
    "parametrize_with_checks": "parametrize",
    "run_conformance": "run",
}


def __getattr__(name: str) -> Any:
    """Import ``name`` from its module; every name that isn't listed is a failure."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module = import_module(f"{__name__}.{_ELSEWHERE.get(name, 'failures')}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
