"""The drop-in API in plain Python: the model that tests compare with and benches measure against.

Written as a competent author without Rust would write it: an ``OrderedDict`` as the cache, a
dataclass as the statistics, ``json.dumps`` and a flush for every line, the SHA-1 label and the
event made on every call. It holds what ``forwardcache.instrumentation`` promises in one thread;
the digest ``key``, threads and I/O errors are not modelled.
"""

import hashlib
import json
import math
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CoroutineType, TracebackType
from typing import Any, Protocol, TextIO

_MISS: Any = object()

Prompt = str | tuple[str, ...]


class Event(Protocol):
    """The fields that ``TraceWriter.write`` reads."""

    ts: float
    probe: str | None
    view_id: str
    prompt_hash: str
    top_k: int
    op: str
    wall_ms: float
    hit: bool


@dataclass(slots=True)
class TraceEvent:
    ts: float
    probe: str | None
    view_id: str
    prompt_hash: str
    top_k: int
    op: str
    wall_ms: float
    hit: bool


_TraceEvent = TraceEvent


def prompt_hash(prompt: Prompt) -> str:
    text = prompt if isinstance(prompt, str) else "\0".join(prompt)
    return hashlib.sha1(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]


_prompt_hash = prompt_hash


@dataclass
class BackendStats:
    cache_hits: int = 0
    cache_misses: int = 0
    forward_passes: int = 0
    scoring_wall_s: float = 0.0
    batches_sent: int = 0
    batched_prompts: int = 0
    max_batch_size: int = 0

    @property
    def total_lookups(self) -> int:
        return self.cache_hits + self.cache_misses

    @property
    def hit_rate(self) -> float:
        return self.cache_hits / self.total_lookups if self.total_lookups else 0.0

    @property
    def avg_batch_size(self) -> float:
        return self.batched_prompts / self.batches_sent if self.batches_sent else 0.0

    def to_dict(self) -> dict[str, float]:
        counters = asdict(self)
        batches = {name: counters.pop(name) for name in list(counters) if "batch" in name}
        return {
            **counters,
            "hit_rate": self.hit_rate,
            **batches,
            "avg_batch_size": self.avg_batch_size,
        }


class ForwardCache:
    def __init__(self, maxsize: int | None = 256) -> None:
        if maxsize is not None and maxsize <= 0:
            raise ValueError(f"maxsize must be positive or None, got {maxsize}")
        self.maxsize = maxsize
        self._entries: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable) -> Any:
        value = self._entries.get(key, _MISS)
        if value is not _MISS:
            self._entries.move_to_end(key)
        return value

    def peek(self, key: Hashable) -> Any:
        return self._entries.get(key, _MISS)

    def put(self, key: Hashable, value: Any) -> None:
        self._entries[key] = value
        self._entries.move_to_end(key)
        if self.maxsize is not None and len(self._entries) > self.maxsize:
            self._entries.popitem(last=False)

    def clear(self) -> None:
        self._entries.clear()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: Hashable) -> bool:
        return key in self._entries


class TraceWriter:
    def __init__(self, path: str | Path | None = None) -> None:
        self._file: TextIO | None = None
        if path is not None:
            Path(path).parent.mkdir(parents=True, exist_ok=True)
            self._file = Path(path).open("a", encoding="ascii")  # noqa: SIM115 (kept open)

    def write(self, event: Event) -> None:
        if self._file is None:
            return
        line = {
            "ts": _finite(event.ts),
            "probe": event.probe,
            "view_id": event.view_id,
            "prompt_hash": event.prompt_hash,
            "top_k": int(event.top_k),
            "op": event.op,
            "wall_ms": _finite(event.wall_ms),
            "hit": event.hit,
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


class BackendInstrumentation:
    def __init__(
        self, *, cache_maxsize: int | None = 256, trace_path: str | Path | None = None
    ) -> None:
        self.cache = ForwardCache(cache_maxsize)
        self.trace = TraceWriter(trace_path)
        self.stats = BackendStats()
        self._probe: str | None = None
        self._scoped_probe: ContextVar[str | None] = ContextVar("probe")

    def set_current_probe(self, name: str | None) -> None:
        self._probe = name

    @contextmanager
    def probe(self, name: str | None) -> Iterator[None]:
        token = self._scoped_probe.set(name)
        try:
            yield
        finally:
            self._scoped_probe.reset(token)

    def cached(
        self,
        op: str,
        view_id: str,
        prompt: Prompt,
        top_k: int,
        compute: Callable[[], Any],
        *,
        scope: bytes = b"",
    ) -> Any:
        began = time.perf_counter()
        key = _key(op, view_id, prompt, top_k, scope)
        value = self.cache.get(key)
        hit = value is not _MISS
        try:
            if hit:
                self.stats.cache_hits += 1
            else:
                self.stats.cache_misses += 1
                value = _refuse_coroutine(compute())
                self.stats.forward_passes += 1
                self.cache.put(key, value)
        finally:
            wall_s = time.perf_counter() - began
            self.stats.scoring_wall_s += wall_s
            self._write(op, view_id, prompt, top_k, wall_s=wall_s, hit=hit)
        return value

    def cached_batch(
        self,
        op: str,
        view_id: str,
        prompts: Iterable[Prompt],
        top_k: int,
        compute_misses: Callable[[list[int]], Iterable[Any]],
        *,
        scope: bytes = b"",
    ) -> list[Any]:
        began = time.perf_counter()
        if isinstance(prompts, str):
            raise TypeError("prompts must be a sequence of prompts, not a single str")
        prompts = list(prompts)
        keys = [_key(op, view_id, prompt, top_k, scope) for prompt in prompts]
        values = [self.cache.get(key) for key in keys]
        missing = [index for index, value in enumerate(values) if value is _MISS]
        first_of = {keys[index]: index for index in reversed(missing)}
        misses = [index for index in missing if first_of[keys[index]] == index]
        hits = [prompts[index] for index, value in enumerate(values) if value is not _MISS]
        self._hit(op, view_id, hits, top_k, time.perf_counter() - began)
        if misses:
            missed = [prompts[index] for index in misses]
            computed = self._compute(op, view_id, missed, top_k, lambda: compute_misses(misses))
            for index, value in zip(misses, computed, strict=True):
                self.cache.put(keys[index], value)
                values[index] = value
        repeats = [index for index in missing if first_of[keys[index]] != index]
        for index in repeats:
            values[index] = values[first_of[keys[index]]]
        self._hit(op, view_id, [prompts[index] for index in repeats], top_k, 0.0)
        return values

    def _hit(
        self, op: str, view_id: str, prompts: Sequence[Prompt], top_k: int, wall_s: float
    ) -> None:
        self.stats.cache_hits += len(prompts)
        self.stats.scoring_wall_s += wall_s
        for prompt in prompts:
            self._write(op, view_id, prompt, top_k, wall_s=wall_s / len(prompts), hit=True)

    def _compute(
        self,
        op: str,
        view_id: str,
        prompts: Sequence[Prompt],
        top_k: int,
        compute: Callable[[], Iterable[Any]],
    ) -> list[Any]:
        size = len(prompts)
        stats = self.stats
        stats.batches_sent += 1
        stats.batched_prompts += size
        stats.max_batch_size = max(stats.max_batch_size, size)
        stats.cache_misses += size
        began = time.perf_counter()
        try:
            values = [_refuse_coroutine(value) for value in _refuse_coroutine(compute())]
            if len(values) != size:
                raise RuntimeError(
                    f"compute_misses returned {len(values)} values for {size} prompts: backend bug"
                )
            stats.forward_passes += size
        finally:
            wall_s = time.perf_counter() - began
            stats.scoring_wall_s += wall_s
            for prompt in prompts:
                self._write(op, view_id, prompt, top_k, wall_s=wall_s / size, hit=False)
        return values

    def _write(
        self, op: str, view_id: str, prompt: Prompt, top_k: int, *, wall_s: float, hit: bool
    ) -> None:
        self.trace.write(
            TraceEvent(
                ts=time.time(),
                probe=self._scoped_probe.get(self._probe),
                view_id=view_id,
                prompt_hash=prompt_hash(prompt),
                top_k=top_k,
                op=op,
                wall_ms=wall_s * 1e3,
                hit=hit,
            )
        )

    def close(self) -> None:
        self.trace.close()

    def __enter__(self) -> "BackendInstrumentation":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


def _key(op: str, view_id: str, prompt: Prompt, top_k: int, scope: bytes) -> tuple[Hashable, ...]:
    return (op, view_id, prompt, top_k, scope) if scope else (op, view_id, prompt, top_k)


def _refuse_coroutine(value: Any) -> Any:
    if isinstance(value, CoroutineType):
        value.close()
        raise TypeError("compute returned a coroutine: await the value first and cache that")
    return value
