"""Every way not to conform, one class a name, each with its fields.

::

    ConformanceFailure (AssertionError)
    ├── profile "seed", in the order of the checks
    │   ├── StartFailed, EmptyModelInConfig
    │   ├── KvEventSourcesFailed, KvEventSourcesNotIdempotent
    │   ├── SetupMetricsFailed, ComponentMetricsNotIdempotent
    │   ├── GenerateFailed, NoChunksYielded, StreamYieldedError, ChunkAfterTerminal,
    │   │   NoTerminalChunk, CompletionTokensMismatch
    │   ├── ConcurrentGenerateFailed
    │   ├── CancellationNotObserved, CancellationIgnored
    │   └── CleanupFailed, SecondCleanupFailed, CleanupWithoutStartFailed
    ├── added by profile "strict"
    │   ├── InvalidTokenIds, UsageInvalid
    │   ├── MaxTokensExceeded, EndedTooEarly, FinishReasonWrong
    │   ├── MidStreamCancellationIgnored, CancelWhileOpeningFailed, WaiterCancellationSwallowed
    │   ├── ConcurrentStreamInvalid, CrossTalk, PromptsMixedUp, NeighbourDisturbed
    │   ├── DroppedStreamLeaked, EventLoopBlocked
    │   └── LeftBehind, CleanupAfterFailedStartFailed
    ├── profiles "encode" and "raw": module ``media_failures``
    └── CheckTimedOut, ExpectedFailurePassed  any check, in any profile
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forwardcache.conformance.failure import ConformanceFailure

__all__ = [
    "CancelWhileOpeningFailed",
    "CancellationIgnored",
    "CancellationNotObserved",
    "CheckTimedOut",
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
    "NeighbourDisturbed",
    "NoChunksYielded",
    "NoTerminalChunk",
    "PromptsMixedUp",
    "SecondCleanupFailed",
    "SetupMetricsFailed",
    "StartFailed",
    "StreamYieldedError",
    "UsageInvalid",
    "WaiterCancellationSwallowed",
]


@dataclass(eq=False)
class StartFailed(ConformanceFailure):
    """``start`` raised."""

    sentence = "start() failed: {message}"
    message: str


@dataclass(eq=False)
class EmptyModelInConfig(ConformanceFailure):
    """``start`` returned a config without the model's name."""

    sentence = "start() returned a config whose `model` is empty or missing"


@dataclass(eq=False)
class KvEventSourcesFailed(ConformanceFailure):
    """``kv_event_sources`` raised, or returned what can't be read."""

    sentence = "kv_event_sources() failed: {message}"
    message: str


@dataclass(eq=False)
class KvEventSourcesNotIdempotent(ConformanceFailure):
    """Two calls of ``kv_event_sources`` gave other ranks, or another order."""

    sentence = (
        "kv_event_sources() gave other `dp_rank`s, or another order, when it was called again; "
        "the list must stay the same for the engine's lifetime"
    )


@dataclass(eq=False)
class SetupMetricsFailed(ConformanceFailure):
    """``setup_metrics`` or ``component_metrics_dp_ranks`` raised."""

    sentence = "setup_metrics() failed: {message}"
    message: str


@dataclass(eq=False)
class ComponentMetricsNotIdempotent(ConformanceFailure):
    """Two calls for the metrics' ranks gave other ranks, or another order."""

    sentence = (
        "the metrics' `dp_ranks` were others, or in another order, when they were asked for again; "
        "they must stay the same for the engine's lifetime"
    )


@dataclass(eq=False)
class GenerateFailed(ConformanceFailure):
    """Calling or awaiting ``generate`` raised, or gave no asynchronous iterable."""

    sentence = "generate() failed: {message}"
    message: str


@dataclass(eq=False)
class NoChunksYielded(ConformanceFailure):
    """The stream ended without an item."""

    sentence = "the stream ended without a single chunk"


@dataclass(eq=False)
class StreamYieldedError(ConformanceFailure):
    """The stream raised, or yielded what is no chunk."""

    sentence = "the stream raised an error: {message}"
    message: str


@dataclass(eq=False)
class ChunkAfterTerminal(ConformanceFailure):
    """Something came after a chunk that had a finish reason."""

    sentence = "a chunk came after the terminal chunk; nothing may follow a `finish_reason`"


@dataclass(eq=False)
class NoTerminalChunk(ConformanceFailure):
    """The stream ended, and no chunk had a finish reason."""

    sentence = "the stream ended without a terminal chunk; the last chunk needs a `finish_reason`"


@dataclass(eq=False)
class CompletionTokensMismatch(ConformanceFailure):
    """The terminal chunk's usage counts other than the tokens that were sent.

    Attributes:
        chunked: Number of token ids over all chunks.
        reported: ``completion_usage.completion_tokens`` of the terminal chunk.
    """

    sentence = (
        "the stream sent {chunked} tokens, "
        "its terminal chunk reports completion_tokens = {reported}"
    )
    chunked: int
    reported: Any


@dataclass(eq=False)
class ConcurrentGenerateFailed(ConformanceFailure):
    """One of the streams that ran at once could not be opened, or was empty."""

    sentence = "concurrent generate() calls failed: {message}"
    message: str


@dataclass(eq=False)
class CancellationNotObserved(ConformanceFailure):
    """A stopped stream did not end in time.

    Attributes:
        after: The deadline in seconds, from the moment ``generate`` returned.
    """

    sentence = "the stream did not end within {after:g} s after stop_generating()"
    after: float


@dataclass(eq=False)
class CancellationIgnored(ConformanceFailure):
    """A stopped stream ended, but not as cancelled."""

    sentence = (
        "the stopped stream did not end with a cancelled chunk; "
        "an engine that sees the stop ends with finish_reason 'cancelled'"
    )


@dataclass(eq=False)
class CleanupFailed(ConformanceFailure):
    """The first ``cleanup`` raised."""

    sentence = "cleanup() failed: {message}"
    message: str


@dataclass(eq=False)
class SecondCleanupFailed(ConformanceFailure):
    """The second ``cleanup`` raised."""

    sentence = "the second cleanup() failed, it must be idempotent: {message}"
    message: str


@dataclass(eq=False)
class CleanupWithoutStartFailed(ConformanceFailure):
    """``cleanup`` raised on an engine that never started."""

    sentence = "cleanup() failed on an engine that never started: {message}"
    message: str


@dataclass(eq=False)
class CheckTimedOut(ConformanceFailure):
    """A check took longer than ``check_timeout``.

    Attributes:
        check: Name of the check.
        after: The limit in seconds.
    """

    sentence = "the check {check} was not done after {after:g} s"
    check: str
    after: float


@dataclass(eq=False)
class ExpectedFailurePassed(ConformanceFailure):
    """A check that is expected to fail has passed."""

    sentence = "{message}"
    message: str


@dataclass(eq=False)
class InvalidTokenIds(ConformanceFailure):
    """A token id is no int.

    Attributes:
        value: The offending id's ``repr``.
    """

    sentence = "a chunk has the token id {value}, which is no int"
    value: str


@dataclass(eq=False)
class UsageInvalid(ConformanceFailure):
    """A usage's numbers contradict each other, or a cancelled stream's tokens."""

    sentence = "the usage of a terminal chunk is wrong: {message}"
    message: str


@dataclass(eq=False)
class MaxTokensExceeded(ConformanceFailure):
    """A stream has more tokens than were asked for.

    Attributes:
        asked: The request's ``max_tokens``.
        sent: Number of token ids over all chunks.
    """

    sentence = "the stream sent {sent} tokens, and max_tokens was {asked}"
    asked: int
    sent: int


@dataclass(eq=False)
class EndedTooEarly(ConformanceFailure):
    """A stream ended with ``length`` though fewer tokens were sent than were asked for.

    Attributes:
        asked: The request's ``max_tokens``.
        sent: Number of token ids over all chunks.
    """

    sentence = (
        "the stream ended with finish_reason 'length' after {sent} tokens, and max_tokens was "
        "{asked}; where the context is full, start() has to return its context_length"
    )
    asked: int
    sent: int


@dataclass(eq=False)
class FinishReasonWrong(ConformanceFailure):
    """A stream that the limit ended says that the model has ended it.

    Attributes:
        asked: The request's ``max_tokens``, as many as it sent.
        reason: The finish reason.
    """

    sentence = (
        "the stream ended with finish_reason {reason!r} at max_tokens = {asked}, and a longer one "
        "goes on from there: the reason is 'length'"
    )
    asked: int
    reason: str


@dataclass(eq=False)
class MidStreamCancellationIgnored(ConformanceFailure):
    """A stream that was stopped after its first chunk did not end as cancelled in time."""

    sentence = "a stream stopped after its first chunk {message}"
    message: str


@dataclass(eq=False)
class CancelWhileOpeningFailed(ConformanceFailure):
    """A request that was stopped while ``generate`` was opening did not end as cancelled."""

    sentence = "a request stopped while generate() was opening {message}"
    message: str


@dataclass(eq=False)
class WaiterCancellationSwallowed(ConformanceFailure):
    """The task that waited for a chunk was cancelled, and the stream looks whole or hangs."""

    sentence = "a stream whose waiting task was cancelled {message}"
    message: str


@dataclass(eq=False)
class ConcurrentStreamInvalid(ConformanceFailure):
    """One of the streams that ran at once breaks a rule that a single stream keeps.

    Attributes:
        index: Which of the streams, from 0.
        failure: The rule it breaks.
    """

    sentence = "stream {index} of those that ran at once is invalid: {failure.message_line}"
    index: int
    failure: ConformanceFailure


@dataclass(eq=False)
class CrossTalk(ConformanceFailure):
    """A request got other tokens together with others than alone.

    Attributes:
        index: Which of the streams, from 0.
        alone: The tokens that the same request gave alone, twice.
        beside: The tokens that it gave together with others.
        raised: What it raised together with others; None where it raised nothing.
    """

    sentence = "stream {index} gave {alone} alone and {given} beside others"
    index: int
    alone: tuple[Any, ...]
    beside: tuple[Any, ...]
    raised: str | None = None

    @property
    def message_line(self) -> str:
        """The sentence, with what was raised in place of tokens or after them."""
        given = [str(self.beside)] if self.beside or self.raised is None else []
        raised = [f"raised {self.raised}"] if self.raised is not None else []
        return self.sentence.format(**vars(self), given=", then ".join([*given, *raised]))


@dataclass(eq=False)
class PromptsMixedUp(ConformanceFailure):
    """Prompts with the same beginning got the same answer, whatever their last ids.

    Attributes:
        beginnings: How many beginnings were tried; each got an answer of its own.
    """

    sentence = (
        "prompts that share all but their last ids got the same answer, for each of {beginnings} "
        "beginnings, while each beginning got another one: the last ids were not looked at"
    )
    beginnings: int


@dataclass(eq=False)
class NeighbourDisturbed(ConformanceFailure):
    """A stream suffered from the cancellation of another.

    Attributes:
        index: Which of the neighbours, from 0.
    """

    sentence = "stream {index} was disturbed when its neighbour was cancelled: {message}"
    index: int
    message: str


@dataclass(eq=False)
class DroppedStreamLeaked(ConformanceFailure):
    """Streams dropped after their first chunk left something in flight."""

    sentence = "streams dropped after one chunk left something behind: {message}"
    message: str


@dataclass(eq=False)
class EventLoopBlocked(ConformanceFailure):
    """The engine kept the event loop from running.

    Attributes:
        took: Seconds for which nothing else could run.
    """

    sentence = "the event loop was blocked for {took:.3f} s while streams were served"
    took: float


@dataclass(eq=False)
class LeftBehind(ConformanceFailure):
    """Tasks or non-daemon threads were still there after ``cleanup``.

    Attributes:
        tasks: Names of the tasks.
        threads: Names of the threads.
    """

    sentence = "after cleanup() there were still tasks {tasks} and non-daemon threads {threads}"
    tasks: tuple[str, ...]
    threads: tuple[str, ...]


@dataclass(eq=False)
class CleanupAfterFailedStartFailed(ConformanceFailure):
    """``cleanup`` raised on an engine whose ``start`` had raised."""

    sentence = "cleanup() failed on an engine whose start() had raised: {message}"
    message: str
