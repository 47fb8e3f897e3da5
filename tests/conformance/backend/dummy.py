"""A scoring backend in plain Python, and one fault of it for each rule.

Tokens are characters. The base model's logits depend on the last two tokens; an adapter adds to
them. Everything is right unless ``fault`` names what is not.
"""

import functools
import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.errors import EmptyCompletionError, StaleViewError
from forwardcache.instrumentation import BackendInstrumentation
from forwardcache.scoring import RollingLogprob, TokenDist

VOCABULARY = 64


def token_ids(text: str) -> list[int]:
    return [ord(letter) % VOCABULARY for letter in text]


def noise(*parts: object) -> NDArray[np.float64]:
    """Logits of shape [VOCABULARY] that depend on ``parts`` alone."""
    seed = hashlib.sha256(repr(parts).encode()).digest()[:8]
    return np.random.default_rng(int.from_bytes(seed, "big")).normal(size=VOCABULARY)


class DummyBackend:
    """Base, fine-tuned, scaled and null views over a table of logits."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.instrumentation = BackendInstrumentation()
        self.adapter_weight = 1.0
        self.calls = 0

    @property
    def stats(self) -> Any:
        return self.instrumentation.stats

    @contextmanager
    def _view(self, name: str, adapter: Callable[[tuple[int, ...]], Any]) -> Iterator["DummyView"]:
        view = DummyView(self, name, adapter)
        yield view
        view.open = self.fault == "stale views answer"

    def _trained(self, context: tuple[int, ...]) -> Any:
        if self.fault == "ft is base":
            return 0.0
        return self.adapter_weight * noise("trained", context)

    def as_base(self) -> Any:
        def adapter(_context: tuple[int, ...]) -> float:
            return 1e-3 * self.calls if self.fault == "ft leaks into base" else 0.0

        return self._view("base", adapter)

    def as_finetuned(self) -> Any:
        if self.fault == "ft leaks into base":
            self.calls += 1
        return self._view("base" if self.fault == "views share keys" else "ft", self._trained)

    @contextmanager
    def as_scaled_adapter(self, lam: float) -> Iterator["DummyView"]:
        factor = 1.0 if self.fault == "scale ignored" else lam
        factor = 0.999 if self.fault == "scale accumulates" and lam == 1.0 else factor
        kept = self.adapter_weight
        self.adapter_weight = kept * factor
        try:
            with self._view(f"scaled_{lam}", self._trained) as view:
                yield view
        except BaseException:
            if self.fault != "scale not restored after an exception":
                self.adapter_weight = kept
            raise
        self.adapter_weight = kept * (0.999 if self.fault == "scale not restored" else 1.0)

    @contextmanager
    def as_null_adapter(
        self, seed: int, *, init_scale: float = 0.02, rank_scale: float = 1.0
    ) -> Iterator["DummyView"]:
        self.calls += 1
        drawn = self.calls if self.fault == "null noise is not seeded" else seed
        drawn = 0 if self.fault == "null noise ignores its seed" else drawn

        def adapter(context: tuple[int, ...]) -> Any:
            return init_scale * math.sqrt(rank_scale) * noise("null", drawn, context)

        try:
            with self._view(f"null_{seed}", adapter) as view:
                yield view
        finally:
            if self.fault == "null not restored":
                self.adapter_weight *= 0.999


class DummyView:
    """One view; ``open`` until its ``with`` ends."""

    def __init__(self, backend: DummyBackend, name: str, adapter: Callable[..., Any]) -> None:
        self.backend = backend
        self.name = name
        self.adapter = adapter
        self.open = True

    @property
    def fault(self) -> str:
        return self.backend.fault

    def logprobs(self, context: Sequence[int]) -> NDArray[np.float64]:
        last = tuple(context[-2:])
        logits = 3.0 * noise("base", last) + self.adapter(last)
        if self.fault == "every call drifts":
            self.backend.calls += 1
            # Too little for the tolerances of the rules before.
            logits[0] += 1e-5 * (self.backend.calls % 3)
        return np.asarray(logits - np.log(np.exp(logits).sum()), dtype=np.float64)

    # --- what is computed -------------------------------------------------------------------

    def dist(self, prompt: str, top_k: int) -> Any:
        logprobs = self.logprobs(token_ids(prompt))
        order = np.lexsort((np.arange(VOCABULARY), -logprobs))[:top_k]
        if self.fault == "ids in order of id":
            order = np.sort(order)
        if self.fault == "one id short":
            order = order[:-1] if len(order) < VOCABULARY else order
        rest = np.delete(np.exp(logprobs), order).sum()
        tail = None if len(order) == VOCABULARY else math.log(rest)
        if self.fault == "tail left out" and tail is not None:
            tail = -30.0
        if self.fault == "tail without tokens" and tail is None:
            tail = -30.0
        return self.shape(TokenDist(order, logprobs[order].astype(np.float32), VOCABULARY, tail))

    def roll(self, text: str) -> Any:
        ids = token_ids(text)
        values = [self.logprobs(ids[:at])[ids[at]] for at in range(1, len(ids))]
        if self.fault == "rolling shifted":
            values = (
                values[1:] + values[:1] if len(values) < 20 else [value - 1 for value in values]
            )
        values32 = np.array(values, np.float32)
        total = float(values32.astype(np.float64).sum())
        if self.fault == "total is a mean" and values:
            total /= len(values)
        return self.shape(RollingLogprob(np.array(ids), values32, len(ids), total))

    def completion(self, prompt: str, completion: str) -> float:
        if not completion and self.fault != "empty completion scores":
            raise EmptyCompletionError("the completion is empty: give at least one token")
        before, ids = token_ids(prompt), token_ids(prompt + completion)
        total = sum(float(self.logprobs(ids[:at])[ids[at]]) for at in range(len(before), len(ids)))
        if self.fault == "normalised by length" and completion:
            return total / len(completion)
        if self.fault == "logprob is a numpy float":
            return np.float64(total)
        return total

    def shape(self, value: Any) -> Any:
        """The value, or one whose arrays can be written to or have another type."""
        if self.fault == "float64 logprobs":
            fields = dict(vars(value), logprobs=value.logprobs.astype(np.float64))
            return SimpleNamespace(**fields)
        if self.fault == "writable arrays":
            return SimpleNamespace(**dict(vars(value), logprobs=value.logprobs.copy()))
        return value

    # --- what is asked ----------------------------------------------------------------------

    def cached(self, op: str, prompt: Any, top_k: int, compute: Callable[[], Any]) -> Any:
        if not self.open:
            raise StaleViewError(f"the view {self.name} was used after its `with` ended")
        hits = self.backend.stats.cache_hits
        value = self.backend.instrumentation.cached(op, self.name, prompt, top_k, compute)
        if self.fault == "a hit counts as a pass":
            self.backend.stats.forward_passes += 1
        is_hit = self.backend.stats.cache_hits > hits
        if self.fault == "a hit is a copy of another type" and op == "logprob_of" and is_hit:
            return np.float64(value)
        return value

    def next_token_dist(self, prompt: str, *, top_k: int = 256) -> Any:
        compute = functools.partial(self.dist, prompt, top_k)
        return self.cached("next_token_dist", prompt, top_k, compute)

    def rolling_logprob(self, text: str) -> Any:
        return self.cached("rolling_logprob", text, 0, functools.partial(self.roll, text))

    def logprob_of(self, prompt: str, completion: str) -> Any:
        pair = (prompt, completion)
        return self.cached("logprob_of", pair, 0, functools.partial(self.completion, *pair))

    def next_token_dist_batch(self, prompts: Sequence[str], *, top_k: int = 256) -> list[Any]:
        prompts = list(prompts)
        results = [self.next_token_dist(prompt, top_k=top_k) for prompt in prompts]
        if self.fault == "a batch forgets its order":
            return sorted(results, key=lambda dist: dist.logprobs[0])
        if self.fault == "a batch depends on its company" and len(prompts) == 2:
            return results[::-1]
        return results

    def rolling_logprob_batch(self, texts: Sequence[str]) -> list[Any]:
        return [self.rolling_logprob(text) for text in texts]

    def logprob_of_batch(self, pairs: Sequence[tuple[str, str]]) -> list[Any]:
        if self.fault == "a batch swallows its bad item":
            pairs = [pair for pair in pairs if pair[1]]
        return [self.logprob_of(*pair) for pair in pairs]


FAULTS = {
    "float64 logprobs": "value_types",
    "logprob is a numpy float": "value_types",
    "tail left out": "distribution_mass",
    "tail without tokens": "distribution_mass",
    "ids in order of id": "distribution_order",
    "one id short": "distribution_order",
    "a batch forgets its order": "batch_equals_single",
    "a batch depends on its company": "batch_equals_single",
    "rolling shifted": "rolling_agrees_with_logprob_of",
    "total is a mean": "rolling_agrees_with_logprob_of",
    "normalised by length": "rolling_agrees_with_logprob_of",
    "every call drifts": "determinism",
    "null noise is not seeded": "determinism",
    "null noise ignores its seed": "determinism",
    "a hit is a copy of another type": "hit_equals_miss",
    "writable arrays": "values_cannot_be_changed",
    "a hit counts as a pass": "counters_add_up",
    "empty completion scores": "edge_inputs",
    "a batch swallows its bad item": "edge_inputs",
    "ft is base": "view_isolation",
    "ft leaks into base": "view_isolation",
    "views share keys": "cache_keeps_views_apart",
    "scale not restored": "scaled_view_restores",
    "scale not restored after an exception": "scaled_view_restores",
    "null not restored": "null_view_restores",
    "scale ignored": "scale_end_points",
    "scale accumulates": "scale_end_points",
    "stale views answer": "stale_view_refused",
}
"""The rule that each fault breaks; no rule checked before it is broken."""
