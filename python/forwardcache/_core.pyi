"""Types of the native module; its classes are described where they are written, in Rust."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import Field
from os import PathLike
from types import TracebackType
from typing import Any, ClassVar, Final, Protocol, Self, TypedDict, TypeVar, type_check_only

from typing_extensions import disjoint_base

from forwardcache._figures import CallStats, Report

_T = TypeVar("_T")

_Prompt = str | tuple[str, ...]

__all__ = [
    "BUILD_PROFILE",
    "_MISS",
    "BackendInstrumentation",
    "BackendStats",
    "ForwardCache",
    "TraceWriter",
    "__version__",
    "_empty_call",
    "_finish_traces",
    "prompt_hash",
    "recover_trace",
]

__version__: Final[str]
BUILD_PROFILE: Final[str]

_MISS: Final[Any]

@type_check_only
class _Event(Protocol):
    @property
    def ts(self) -> float: ...
    @property
    def probe(self) -> str | None: ...
    @property
    def view_id(self) -> str: ...
    @property
    def prompt_hash(self) -> str: ...
    @property
    def top_k(self) -> int | None: ...
    @property
    def op(self) -> str: ...
    @property
    def wall_ms(self) -> float: ...
    @property
    def hit(self) -> bool: ...

@disjoint_base
class ForwardCache:
    def __init__(
        self,
        maxsize: int | None = 256,
        *,
        max_bytes: int | None = None,
        weigher: Callable[[Any, Any], int] | None = None,
    ) -> None: ...
    @property
    def maxsize(self) -> int | None: ...
    @property
    def max_bytes(self) -> int | None: ...
    @property
    def nbytes(self) -> int: ...
    @property
    def evictions(self) -> int: ...
    @property
    def too_large(self) -> int: ...
    def get(self, key: Hashable) -> Any: ...
    def peek(self, key: Hashable) -> Any: ...
    def put(self, key: Hashable, value: object) -> None: ...
    def clear(self) -> None: ...
    def __len__(self) -> int: ...
    def __contains__(self, key: Hashable, /) -> bool: ...

@disjoint_base
class BackendStats:
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __match_args__: ClassVar[tuple[str, ...]]
    cache_hits: int
    cache_misses: int
    forward_passes: int
    scoring_wall_s: float
    batches_sent: int
    batched_prompts: int
    max_batch_size: int
    failed_computes: int
    def __init__(
        self,
        cache_hits: int = 0,
        cache_misses: int = 0,
        forward_passes: int = 0,
        scoring_wall_s: float = 0.0,
        batches_sent: int = 0,
        batched_prompts: int = 0,
        max_batch_size: int = 0,
    ) -> None: ...
    @property
    def waits(self) -> int: ...
    @property
    def wait_s(self) -> float: ...
    @property
    def duplicate_computes(self) -> int: ...
    @property
    def trace_lost(self) -> int: ...
    @property
    def total_lookups(self) -> int: ...
    @property
    def hit_rate(self) -> float: ...
    @property
    def avg_batch_size(self) -> float: ...
    @property
    def evictions(self) -> int: ...
    @property
    def recomputed(self) -> int: ...
    @property
    def saved_s(self) -> float: ...
    def calls(self) -> dict[tuple[str, str], CallStats]: ...
    def by_op(self) -> dict[str, CallStats]: ...
    def by_view(self) -> dict[str, CallStats]: ...
    def snapshot(self) -> BackendStats: ...
    def since(self, snapshot: BackendStats) -> BackendStats: ...
    def __add__(self, other: BackendStats, /) -> BackendStats: ...
    def __radd__(self, other: BackendStats, /) -> BackendStats: ...
    def to_dict(self) -> dict[str, int | float]: ...
    def __eq__(self, other: object, /) -> bool: ...
    def __reduce__(self) -> tuple[type[Self], tuple[int | float, ...]]: ...

@type_check_only
class _Recovered(TypedDict):
    recovered: int
    journals: int
    damaged: int
    alive: int
    lost: int

def recover_trace(path: str | PathLike[str]) -> _Recovered: ...
def _finish_traces() -> None: ...

@disjoint_base
class TraceWriter:
    def __init__(
        self,
        path: str | PathLike[str] | None = None,
        *,
        interval_s: float = 0.2,
        fsync: bool = False,
        journal_events: int = 32768,
        salt: bytes | None = None,
    ) -> None: ...
    @property
    def path(self) -> Any: ...
    @property
    def closed(self) -> bool: ...
    @property
    def lost(self) -> int: ...
    def write(self, event: _Event) -> None: ...
    def flush(self) -> None: ...
    def close(self) -> int: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None = None,
        exception: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

@disjoint_base
class BackendInstrumentation:
    cache: Any
    trace: Any
    stats: Any
    def __init__(
        self,
        *,
        cache_maxsize: int | None = 256,
        cache_max_bytes: int | None = None,
        trace_path: str | PathLike[str] | None = None,
        trace_salt: bytes | None = None,
        flight_timeout: float = 60.0,
    ) -> None: ...
    def invalidate(self, view_id: str | None = None, *, op: str | None = None) -> int: ...
    def report(self) -> Report: ...
    def metrics(self) -> str: ...
    def set_current_probe(self, name: str | None) -> None: ...
    def probe(self, name: str | None) -> AbstractContextManager[None]: ...
    def cached(
        self,
        op: str,
        view_id: str,
        prompt: _Prompt,
        top_k: int,
        compute: Callable[[], _T],
        *,
        scope: bytes = b"",
    ) -> _T: ...
    def cached_batch(
        self,
        op: str,
        view_id: str,
        prompts: Iterable[_Prompt],
        top_k: int,
        compute_misses: Callable[[list[int]], Sequence[_T]],
        *,
        scope: bytes = b"",
    ) -> list[_T]: ...
    def close(self) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exception_type: type[BaseException] | None = None,
        exception: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

def prompt_hash(prompt: _Prompt) -> str: ...
def _empty_call(
    op: object, view_id: object, prompt: object, top_k: object, compute: object
) -> None: ...
