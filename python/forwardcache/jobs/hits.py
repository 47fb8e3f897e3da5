"""Which values of a batched call came from the cache.

The statistics only count hits; a row says of its own value whether it was one. The backend runs
what ``cached_batch`` asks it to compute and nothing else, so that is where it is written down.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from forwardcache.instrumentation import BackendInstrumentation


class HitRecorder:
    """A ``BackendInstrumentation`` that remembers which prompts were computed."""

    def __init__(self, inner: BackendInstrumentation) -> None:
        self._inner = inner
        self._computed: set[Hashable] = set()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def cached_batch(
        self,
        op: str,
        view_id: str,
        prompts: Iterable[Any],
        top_k: int,
        compute_misses: Callable[[list[int]], Sequence[Any]],
        **keywords: Any,
    ) -> list[Any]:
        """As the instrumentation's own."""
        prompts = list(prompts)

        def compute(positions: list[int]) -> Sequence[Any]:
            self._computed.update(prompts[position] for position in positions)
            return compute_misses(positions)

        return self._inner.cached_batch(op, view_id, prompts, top_k, compute, **keywords)

    def note_computed(self, prompts: Iterable[Hashable]) -> None:
        """Writes down prompts that the model was run for.

        A backend that keeps hidden states asks for those of a prompt's tokens, and says here which
        prompt they are of.
        """
        self._computed.update(prompts)

    def forget(self) -> None:
        """Begin anew, before a call whose hits are wanted."""
        self._computed.clear()

    def hits(self, prompts: Iterable[Hashable]) -> list[bool]:
        """For each prompt of the calls since ``forget``: whether its value was there.

        Of a prompt that stands twice the first may have been computed, the second never was.
        """
        flags, missing = [], set(self._computed)
        for prompt in prompts:
            flags.append(prompt not in missing)
            missing.discard(prompt)
        return flags
