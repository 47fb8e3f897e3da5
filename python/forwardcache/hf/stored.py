"""A model that isn't loaded: what its views have in a store, under the keys that are known.

``StoredBackend`` stands where an ``HFBackend`` would. It asks cache and store what that would ask,
in the same order, so that counters, events and rows are the same. The first value that isn't there,
and whatever else only a model can tell, loads the model, which answers from then on.

Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from types import TracebackType
from typing import TYPE_CHECKING, Any

from forwardcache.hf.scoring.value_store import KeySpace, StoreFigures, ValueStore
from forwardcache.hf.spec import BASE, FINETUNED, ViewSpec, given_null, scaled, tagged
from forwardcache.instrumentation import _MISS, BackendStats
from forwardcache.operation import Operation
from forwardcache.operations import operation
from forwardcache.scoring import CompletionLogprob
from forwardcache.store import Store

if TYPE_CHECKING:
    from forwardcache.hf.backend import HFBackend
    from forwardcache.hf.view import HFView


@dataclass(frozen=True, slots=True)
class Tokens:
    """What is known of an item's tokens.

    Attributes:
        read: How many the model reads.
        scored: How many have a log-probability.
        spans_boundary: Whether the first of these begins inside the prompt.
    """

    read: int
    scored: int = 0
    spans_boundary: bool = False


@dataclass(frozen=True, slots=True)
class Place:
    """Where a view's values are.

    Attributes:
        runs: The view that is run for the one that is asked for.
        model: Bytes that the model's state in it has in every process.
    """

    runs: ViewSpec
    model: bytes


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of a model without loading it.

    Attributes:
        options: How text becomes tokens, as keys have it.
        windows: Whether texts over the context are scored in windows.
        places: By view.
        tokens: By item.
        norms: By view: the norm of what it adds to the weights, as far as it is known.
    """

    options: bytes
    windows: bool
    places: Mapping[ViewSpec, Place]
    tokens: Mapping[Any, Tokens]
    norms: Mapping[ViewSpec, float | None]


def places_of(backend: HFBackend, specs: Sequence[ViewSpec]) -> dict[ViewSpec, Place] | None:
    """Where the values of a loaded model's views are; None where other processes can't find them.

    Args:
        backend: Has the model.
        specs: Views of it.
    """
    scorer, found = backend._scorer, {}
    with scorer.lock:
        for spec in specs:
            runs = scorer.runs_as(spec)
            key = scorer.lasting_key(runs)
            if key is None:
                return None
            found[spec] = Place(runs, key)
    return found


def options_of(backend: HFBackend) -> bytes:
    """How text becomes tokens, as keys have it."""
    return backend._scorer.options.key


class StoredBackend:
    """Scores with the views of a model that isn't loaded.

    Args:
        known: What is known of it.
        instrumentation: Cache, trace and counters.
        store: Where the values are.
        load: Loads the model, with the same instrumentation and store.

    Attributes:
        progress: As of ``HFBackend``.
    """

    def __init__(
        self, known: Known, instrumentation: Any, store: Store, load: Callable[[], HFBackend]
    ) -> None:
        self._known = known
        self._values = ValueStore(store)
        self._load = load
        self._backend: HFBackend | None = None
        self._progress: Callable[[int], None] | None = None
        self.instrumentation = instrumentation

    @property
    def is_loaded(self) -> bool:
        """Whether something was asked that only the model could tell."""
        return self._backend is not None

    @property
    def loaded(self) -> HFBackend:
        """The model, loaded when it is first asked for."""
        if self._backend is None:
            self._backend = self._load()
            self._backend.progress = self._progress
        return self._backend

    @property
    def stats(self) -> BackendStats:
        """The counters of the instrumentation."""
        stats: BackendStats = self.instrumentation.stats
        return stats

    @property
    def store(self) -> StoreFigures:
        """As of ``HFBackend``; with the model's own, once there is one."""
        ours = self._values
        figures = StoreFigures(ours.hits, ours.misses, ours.damaged, ours.kept, ours.not_kept)
        if self._backend is None:
            return figures
        pairs = [(getattr(figures, each.name), getattr(self._backend.store, each.name))
                 for each in fields(StoreFigures)]  # fmt: skip
        return StoreFigures(*map(sum, pairs))

    @property
    def progress(self) -> Callable[[int], None] | None:
        """As of ``HFBackend``."""
        return self._progress

    @progress.setter
    def progress(self, progress: Callable[[int], None] | None) -> None:
        self._progress = progress
        if self._backend is not None:
            self._backend.progress = progress

    @property
    def nonfinite_results(self) -> int:
        """Values that were computed and aren't finite; none is in a store."""
        return 0 if self._backend is None else self._backend.nonfinite_results

    @property
    def model(self) -> Any:
        """The model."""
        return self.loaded.model

    def token_lengths(self, items: Sequence[Any], *, op: str) -> list[Any]:
        """As of ``HFBackend``."""
        if all(item in self._known.tokens for item in items):
            return [self._known.tokens[item].read for item in items]
        return list(self.loaded.token_lengths(items, op=op))

    def rendered(self, items: Sequence[Any], *, op: str) -> list[Any]:
        """The items: no template is around their prompts."""
        operation(op)
        return list(items)

    def noise_floor(
        self, items: Sequence[Any], op: str, *, view: StoredView | None = None, **options: Any
    ) -> Any:
        """As of ``HFBackend``, by forwards of the model."""
        loaded = None if view is None else view.of_model()
        return self.loaded.noise_floor(items, op, view=loaded, **options)

    def as_base(self) -> StoredView:
        """As of ``HFBackend``."""
        return StoredView(self, BASE)

    def as_finetuned(self, adapter: str | None = None) -> StoredView:
        """As of ``HFBackend``."""
        return StoredView(self, replace(FINETUNED, adapter=adapter))

    def as_scaled_adapter(self, lam: float, *, adapter: str | None = None) -> StoredView:
        """As of ``HFBackend``."""
        return StoredView(self, replace(scaled(lam), adapter=adapter))

    def as_null_adapter(
        self,
        seed: int,
        *,
        init_scale: float = 0.02,
        rank_scale: float = 1.0,
        matched: bool = False,
        lam: float = 1.0,
        adapter: str | None = None,
    ) -> StoredView:
        """As of ``HFBackend``."""
        spec = given_null(seed, init_scale, rank_scale, matched=matched, lam=lam)
        return StoredView(self, replace(spec, adapter=adapter))

    def close(self) -> None:
        """Closes the model's backend, if there is one."""
        if self._backend is not None:
            self._backend.close()

    def found(self, spec: ViewSpec, op: Operation, items: Sequence[Any]) -> list[Any] | None:
        """The value of each item; None where one of them isn't there, so that the model has to run.

        Args:
            spec: The view that is asked for.
            op: What is asked.
            items: Its arguments.
        """
        call = self._call(spec, op, items)
        if call is None or not self._fill(call):
            return None

        def lost(indices: Sequence[int]) -> list[Any]:
            return self._again(spec, call, items, indices)

        names = call.names
        values = self.instrumentation.cached_batch(
            names[0], names[1], call.keys, op.top_k, lost, scope=call.scope
        )
        tokens = sum(self._known.tokens[item].read for item in items)
        if self._progress is not None and tokens > 0:
            self._progress(tokens)
        return list(values)

    def _again(
        self, spec: ViewSpec, call: _Call, items: Sequence[Any], indices: Sequence[int]
    ) -> list[Any]:
        """Values that a cache too small for the call has lost again."""
        lost = [index for index in indices if call.keys[index] not in call.fetched]
        if lost:
            with StoredView(self, spec).of_model() as view:
                asked = [items[index] for index in lost]
                values = view.values(call.op, asked)
            call.fetched.update(zip((call.keys[index] for index in lost), values, strict=True))
        return [call.fetched[call.keys[index]] for index in indices]

    def is_there(self, spec: ViewSpec, op: Operation, items: Sequence[Any]) -> bool:
        """Whether the value of each item is cached or stored; what was stored is cached then."""
        call = self._call(spec, op, items)
        return call is not None and self._fill(call)

    @property
    def norms(self) -> Mapping[ViewSpec, float | None]:
        """By view: the norm of what it adds to the weights, as far as it is known."""
        return self._known.norms

    @property
    def windows(self) -> bool:
        """Whether texts over the context are scored in windows."""
        return self._known.windows

    def tokens_of(self, item: Any) -> Tokens:
        """What is known of an item's tokens."""
        return self._known.tokens[item]

    def _call(self, spec: ViewSpec, op: Operation, items: Sequence[Any]) -> _Call | None:
        place = self._known.places.get(spec)
        # Once there is a model, it is asked: what it computed before isn't known here.
        if self._backend is not None or place is None:
            return None
        if not all(item in self._known.tokens for item in items):
            return None
        return _Call(place, op, self._known.options, [op.key(item) for item in items])

    def _fill(self, call: _Call) -> bool:
        """Puts into the cache what only the store has; whether all values are in one of them."""
        cache, names = self.instrumentation.cache, call.names
        look = getattr(cache, "peek", cache.get)
        place = call.op.top_k, call.scope
        asked = dict.fromkeys(call.keys)
        missing = [key for key in asked if look((*names, key, *place)) is _MISS]
        if not missing:
            return True
        before = self._values.hits, self._values.misses, self._values.damaged
        call.fetched = self._values.fetch(call.key_space, missing)
        if len(call.fetched) < len(missing):
            # The model looks for them again.
            self._values.hits, self._values.misses, self._values.damaged = before
            return False
        for key, value in call.fetched.items():
            cache.put((*names, key, *place), value)
        return True


class _Call:
    """One scoring call: its keys in cache and store.

    Attributes:
        fetched: What the store had, by key.
    """

    def __init__(self, place: Place, op: Operation, options: bytes, keys: list[Any]) -> None:
        self.op, self.keys = op, keys
        self.names = op.name, place.runs.view_id
        self.key_space = KeySpace(place.model, place.runs, options, op)
        fields = b"forwardcache.hf", place.model, tagged(place.runs.key_fields), options
        self.scope = tagged(fields)
        self.fetched: dict[Any, Any] = {}


class StoredView:
    """A view of a model that isn't loaded: what a job asks of an ``HFView``.

    Args:
        backend: Whose view it is.
        spec: Which.
    """

    def __init__(self, backend: StoredBackend, spec: ViewSpec) -> None:
        self._backend = backend
        self._entered = ExitStack()
        self._view: HFView | None = None
        self.spec = spec

    @property
    def view_id(self) -> str:
        """The view's name."""
        return self.spec.view_id

    def __enter__(self) -> StoredView:
        if self._backend.is_loaded:
            # What the model refuses is refused here.
            self._of_model()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._view = None
        self._entered.__exit__(kind, error, traceback)

    def of_model(self) -> HFView:
        """The loaded model's view, not entered."""
        spec = replace(self.spec, adapter=None)
        return self._backend.loaded._view(spec, self.spec.adapter)

    def _of_model(self) -> HFView:
        if self._view is None:
            self._view = self._entered.enter_context(self.of_model())
        return self._view

    def values(self, op: Operation, items: Sequence[Any], *, on_error: Any = "raise") -> list[Any]:
        """As of ``HFView``."""
        found = self._backend.found(self.spec, op, items)
        return self._of_model().values(op, items, on_error=on_error) if found is None else found

    def next_token_dist_batch(
        self, prompts: Sequence[Any], *, top_k: int = 256, on_error: Any = "raise"
    ) -> list[Any]:
        """As of ``HFView``."""
        return self.values(operation("next_token_dist").of(top_k=top_k), prompts, on_error=on_error)

    def rolling_logprob_batch(self, texts: Sequence[str], *, on_error: Any = "raise") -> list[Any]:
        """As of ``HFView``."""
        op = operation("rolling_logprob").of(windows=self._backend.windows)
        return self.values(op, texts, on_error=on_error)

    def completion_logprob_batch(
        self, pairs: Sequence[Any], *, on_error: Any = "raise"
    ) -> list[Any]:
        """As of ``HFView``."""
        found = self._backend.found(self.spec, operation("logprob_of").of(), pairs)
        if found is None:
            return self._of_model().completion_logprob_batch(pairs, on_error=on_error)
        tokens = [self._backend.tokens_of(pair) for pair in pairs]
        return [
            CompletionLogprob(value, each.scored, each.spans_boundary)
            for value, each in zip(found, tokens, strict=True)
        ]

    def token_dist_at_batch(self, prompts: Sequence[Any], token_ids: Sequence[Any]) -> list[Any]:
        """As of ``HFView``, by the model."""
        return self._of_model().token_dist_at_batch(prompts, token_ids)

    def model_state(self) -> bytes:
        """As of ``HFView``: no state of the model, as long as there is none."""
        return self._of_model().model_state() if self._backend.is_loaded else b""

    def run_base_for(
        self, op: Operation, of_base: Operation, items: Sequence[Any]
    ) -> dict[int, Exception]:
        """As of ``HFView``."""
        if self._backend.is_there(self.spec, op, items):
            return {}
        return dict(self._of_model().run_base_for(op, of_base, items))

    def update_norm(self) -> float | None:
        """As of ``HFView``; by the model, where nobody has asked before."""
        norms = self._backend.norms
        return norms[self.spec] if self.spec in norms else self._of_model().update_norm()


__all__ = [
    "Known",
    "Place",
    "StoredBackend",
    "StoredView",
    "Tokens",
    "options_of",
    "places_of",
]
