"""What one thread sees of the cache: limits in bytes, invalidation, computations inside others.

``plain.py`` is what an author without Rust would write, and what benches measure; this model is for
being right alone. Its entries are one ordered dict, every total is summed up anew, and a value
that comes too late is found in the list of all invalidations. Traces and seconds are not modelled.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

TOP_K = 8
Key = tuple[str, str, str, int]


class Weighed(NamedTuple):
    """A value that says its bytes itself."""

    number: int
    size: int


def size_of(_key: object, value: Weighed) -> int:
    return value.size


class Sequential:
    """The cache and the calls of one instrumentation; ``missing`` is what a miss gives."""

    def __init__(self, maxsize: int | None, max_bytes: int | None, missing: object) -> None:
        self.maxsize, self.max_bytes, self.missing = maxsize, max_bytes, missing
        self.entries: OrderedDict[Key, Weighed] = OrderedDict()
        self.invalidations: list[tuple[str | None, str | None]] = []
        # What is computed, and how many invalidations there were when that began.
        self.running: list[tuple[Key, int]] = []
        self.evictions = self.too_large = 0
        self.cache_hits = self.cache_misses = self.forward_passes = self.failed_computes = 0
        self.batches_sent = self.batched_prompts = self.max_batch_size = 0

    @property
    def nbytes(self) -> int:
        """Bytes are counted only where they are limited."""
        return 0 if self.max_bytes is None else sum(each.size for each in self.entries.values())

    def get(self, key: Key) -> object:
        if key in self.entries:
            self.entries.move_to_end(key)
        return self.peek(key)

    def peek(self, key: Key) -> object:
        return self.entries.get(key, self.missing)

    def contains(self, key: Key) -> bool:
        return key in self.entries

    def clear(self) -> None:
        self.entries.clear()

    def put(self, key: Key, value: Weighed, began: int | None = None) -> None:
        """Stores a value unless its key was invalidated since ``began``."""
        is_too_large = self.max_bytes is not None and value.size > self.max_bytes
        self.too_large += is_too_large
        if began is not None and any(
            self._is_meant(key, *each) for each in self.invalidations[began:]
        ):
            return
        self.entries.pop(key, None)
        if is_too_large:
            return
        self.entries[key] = value
        while self._is_too_full():
            self.entries.popitem(last=False)
            self.evictions += 1

    def invalidate(self, view_id: str | None, op: str | None) -> int:
        self.invalidations.append((op, view_id))
        meant = [key for key in self.entries if self._is_meant(key, op, view_id)]
        for key in meant:
            del self.entries[key]
        return len(meant)

    def cached(self, op: str, view_id: str, prompt: str, compute: Callable[[], Weighed]) -> object:
        key = (op, view_id, prompt, TOP_K)
        value = self.get(key)
        if value is not self.missing:
            self.cache_hits += 1
            return value
        flight = (key, len(self.invalidations))
        if flight in self.running:
            raise RuntimeError("a computation asks for its own key")
        return self._compute([flight], lambda: [compute()])[0]

    def cached_batch(
        self,
        op: str,
        view_id: str,
        prompts: Sequence[str],
        compute: Callable[[list[int]], list[Weighed]],
    ) -> list[object]:
        keys = [(op, view_id, prompt, TOP_K) for prompt in prompts]
        values = {key: value for key in keys if (value := self.get(key)) is not self.missing}
        self.cache_hits += sum(key in values for key in keys)
        misses = [key for key in dict.fromkeys(keys) if key not in values]
        flights = [(key, len(self.invalidations)) for key in misses]
        mine = [flight for flight in flights if flight not in self.running]
        if mine:
            self.batches_sent += 1
            self.batched_prompts += len(mine)
            self.max_batch_size = max(self.max_batch_size, len(mine))
            firsts = [keys.index(key) for key, _ in mine]
            computed = self._compute(mine, lambda: compute(firsts))
            values |= {key: value for (key, _), value in zip(mine, computed, strict=True)}
        if len(mine) < len(misses):
            raise RuntimeError("a computation asks for its own key")
        self.cache_hits += sum(key in misses for key in keys) - len(misses)
        return [values[key] for key in keys]

    def _compute(
        self, flights: list[tuple[Key, int]], compute: Callable[[], list[Weighed]]
    ) -> list[Weighed]:
        self.running += flights
        try:
            values = compute()
            if len(values) != len(flights):
                raise RuntimeError("not a value for each prompt")
        except BaseException:
            self.failed_computes += len(flights)
            raise
        else:
            self.forward_passes += len(flights)
            for (key, began), value in zip(flights, values, strict=True):
                self.put(key, value, began)
        finally:
            self.cache_misses += len(flights)
            for flight in flights:
                self.running.remove(flight)
        return values

    def _is_too_full(self) -> bool:
        has_too_many = self.maxsize is not None and len(self.entries) > self.maxsize
        return has_too_many or (self.max_bytes is not None and self.nbytes > self.max_bytes)

    @staticmethod
    def _is_meant(key: Key, op: Any, view_id: Any) -> bool:
        return op in (None, key[0]) and view_id in (None, key[1])
