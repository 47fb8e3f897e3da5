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
    │   ├── MidStreamCancellationIgnored, CancelWhileOpeningFailed
    │   ├── ConcurrentStreamInvalid, CrossTalk, NeighbourDisturbed
    │   ├── DroppedStreamLeaked, EventLoopBlocked
    │   └── LeftBehind, CleanupAfterFailedStartFailed
    └── CheckTimedOut                        any check, in any profile
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

from forwardcache.conformance.chunk import Chunk
from forwardcache.conformance.tables import chunk_table

if TYPE_CHECKING:
    from forwardcache.conformance.report import Report

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
    "EventLoopBlocked",
    "GenerateFailed",
    "InvalidTokenIds",
    "KvEventSourcesFailed",
    "KvEventSourcesNotIdempotent",
    "LeftBehind",
    "MidStreamCancellationIgnored",
    "NeighbourDisturbed",
    "NoChunksYielded",
    "NoTerminalChunk",
    "SecondCleanupFailed",
    "SetupMetricsFailed",
    "StartFailed",
    "StreamYieldedError",
    "UsageInvalid",
]


class ConformanceFailure(AssertionError):
    """An engine broke one rule of its contract.

    Attributes:
        check: Name of the check that found it.
        chunks: What the stream in question had sent until then, with times.
        report: The whole run so far; None on a failure that no run has raised.
    """

    sentence: ClassVar[str] = "the engine does not conform"
    check: str
    chunks: tuple[Chunk, ...]
    report: Report | None

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:
        """Set what a run fills in later; the fields are the subclass's own."""
        failure = super().__new__(cls, *args)
        failure.check, failure.chunks, failure.report = "", (), None
        return failure

    def having(self, chunks: Iterable[Chunk]) -> Self:
        """This failure, with what was received.

        Args:
            chunks: The stream's chunks in the order in which they came.
        """
        self.chunks = tuple(chunks)
        return self

    def due_to(self, error: BaseException | None) -> Self:
        """This failure, with the engine's own exception as its cause.

        Args:
            error: The exception; None if there was none.
        """
        self.__cause__ = error
        return self

    @property
    def message_line(self) -> str:
        """The sentence alone, without check and chunks."""
        return self.sentence.format(**vars(self))

    def values(self) -> dict[str, Any]:
        """The failure's own fields by name."""
        return {name: getattr(self, name) for name in getattr(self, "__match_args__", ())}

    def to_dict(self) -> dict[str, Any]:
        """Name, sentence, fields and chunks, ready for JSON but for the engine's own values."""
        return {
            "name": type(self).__name__,
            "check": self.check,
            "message": self.message_line,
            "fields": self.values(),
            "chunks": [asdict(chunk) for chunk in self.chunks],
        }

    def __str__(self) -> str:
        """The sentence, its check, and the last chunks as a table."""
        lines = [self.message_line]
        if self.check:
            lines.append(f"check: {self.check}")
        if self.chunks:
            lines += ["", *chunk_table(self.chunks)]
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self.values().values()), vars(self)


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
    """

    sentence = "stream {index} gave {alone} alone and {beside} beside others"
    index: int
    alone: tuple[Any, ...]
    beside: tuple[Any, ...]


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
