"""One scoring call: state of the model, tokens, cache, and a forward for what is not there.

The key of a value holds the state of the model at the call's beginning. The model's lock is taken
to read that state, and again inside the computation, where the state is compared before and after
the forward; if it moved, nothing is stored and the call begins again with the new state. So a key
never names another state than the one that was run. The view is switched inside the computation
only: a call whose values are all cached touches no weight.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import nn

from forwardcache._event import TraceLine
from forwardcache.errors import (
    ForwardCacheError,
    InvalidInputError,
    ModelMemoryError,
    UnsupportedModelError,
)
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.batch.plan import distinct
from forwardcache.hf.model.identity import ModelIdentity, ModelState
from forwardcache.hf.model.switch import switched
from forwardcache.hf.scoring import hits, provenance
from forwardcache.hf.scoring.batched_forwards import BatchedForwards, Refused
from forwardcache.hf.scoring.call import Call, ModelChangedError, NotFiniteError
from forwardcache.hf.scoring.joint import JointForwards, asked_of
from forwardcache.hf.scoring.kept_states import KeptStates
from forwardcache.hf.scoring.loaded import LoadedModel, checked_spec, dtype_name
from forwardcache.hf.scoring.provenance import RanBatch
from forwardcache.hf.scoring.selfcheck import SelfCheck
from forwardcache.hf.scoring.slices import Slices
from forwardcache.hf.scoring.task import Task
from forwardcache.hf.scoring.terms import KnownTerms, Terms, scope_of
from forwardcache.hf.scoring.value_store import KeySpace, ValueStore
from forwardcache.hf.scoring.windows import run_in_windows
from forwardcache.hf.spec import ViewSpec
from forwardcache.hf.text.chat import framed
from forwardcache.hf.text.encode import EncodingOptions
from forwardcache.instrumentation import _MISS, BackendInstrumentation, prompt_hash
from forwardcache.operation import Operation

OnError = Literal["raise", "return"]

# How often a call begins again because the model changed under it, before it goes uncached.
_ATTEMPTS = 3


class Scorer(LoadedModel):
    """Scores items in a view of one model, through the cache.

    Args:
        model: What is called: the model, or the PEFT model around it.
        causal_lm: The transformers model itself.
        tokenizer: Its tokenizer.
        runner: Runs its forward.
        instrumentation: Cache, trace and counters.
        options: How text becomes tokens.
        identity: Tells states of the model apart.
        store_nonfinite: Whether values with a NaN or infinity are stored too.
        value_store: The store under the cache; None without one.
        keeps_states: Whether hidden states are kept, and values computed from them.
        check: Which hits are computed again.

    Attributes:
        progress: Called with the number of tokens done, during and after each call; or None.
        nonfinite_results: Values with a NaN or infinity, which were returned and not stored.
    """

    def __init__(
        self,
        model: nn.Module,
        causal_lm: Any,
        tokenizer: Any,
        *,
        runner: ForwardRunner,
        instrumentation: BackendInstrumentation,
        options: EncodingOptions,
        identity: ModelIdentity,
        store_nonfinite: bool,
        value_store: ValueStore | None,
        keeps_states: bool,
        check: SelfCheck,
    ) -> None:
        super().__init__(
            model, causal_lm, tokenizer, runner=runner, options=options, identity=identity
        )
        self.runs = BatchedForwards(runner)
        self.joint = JointForwards()
        self.slices = Slices()
        self._terms = KnownTerms()
        self.instrumentation = instrumentation
        self.progress: Callable[[int], None] | None = None
        self.nonfinite_results = 0
        self.store_nonfinite = store_nonfinite
        self.value_store = value_store
        self.selfcheck = check
        self.keeps_states = keeps_states
        self.kept = KeptStates(self)

    def one(self, spec: ViewSpec | None, op: Operation, item: Any) -> Any:
        """The value of one item.

        Args:
            spec: The view; None for the model as it stands, ``ft`` with an adapter, else ``base``.
            op: What to compute.
            item: Its argument.
        """
        [value] = self._score(spec, op, [item], batched=False)
        if isinstance(value, ForwardCacheError):
            raise value
        return value

    def many(
        self, spec: ViewSpec | None, op: Operation, items: Sequence[Any], on_error: OnError
    ) -> list[Any]:
        """The values of several items, in their order.

        Args:
            spec: As in ``one``.
            op: As in ``one``.
            items: Its arguments.
            on_error: What becomes of an item that can't be scored: "raise" its error once all
                others are computed and cached, or "return" the error at its position.
        """
        if on_error not in ("raise", "return"):
            raise InvalidInputError(f'on_error must be "raise" or "return", got {on_error!r}')
        if isinstance(items, str | bytes):
            raise InvalidInputError(f"expected a list of items, got one {type(items).__name__}")
        results = self._score(spec, op, list(items), batched=True)
        return results if on_error == "return" else _raise_first(results)

    def enter(self, spec: ViewSpec) -> None:
        """Refuses a view that this model can't give exactly, as of the last look at it.

        Where the view was exact then, the model is not looked at. Each call looks, so that a view
        which has become inexact since is refused with its first value.
        """
        self.lock.refuse_holder()
        if not self._terms.knows(spec):
            self.check(spec)

    def weights_changed(self) -> None:
        """As of ``LoadedModel``."""
        super().weights_changed()
        self._terms.forget()

    def _score(
        self, spec: ViewSpec | None, op: Operation, items: list[Any], *, batched: bool
    ) -> list[Any]:
        if self.keeps_states or op.every_position:
            return self.kept.values(spec, op, items, batched=batched)
        for _ in range(_ATTEMPTS):
            terms, shown = self._begun(spec, op, items)
            try:
                cached = hits.found(self, terms, op, shown, batched=batched)
                if cached is not None:
                    return cached
                call = self.call(terms, op, shown)
                # Past the model's lock: others may run it while a store is read.
                found = self.found(call)
                with self.lock:
                    call.encode(found)
                if not batched:
                    call.raise_error()
                return call.results(self.cached(call, batched))
            except ModelChangedError:
                continue
        return self.past_cache(spec, op, items)

    def past_cache(self, spec: ViewSpec | None, op: Operation, items: list[Any]) -> list[Any]:
        """Values where something changes the model in every forward; they aren't kept."""
        call = self.begin(spec, op, items)
        with self.lock:
            call.encode()
            return call.results(self.run(call, call.tasks))

    def begin(self, spec: ViewSpec | None, op: Operation, items: list[Any]) -> Call:
        """A call in the model's present state, its items not encoded yet."""
        terms, shown = self._begun(spec, op, items)
        return self.call(terms, op, shown)

    def _begun(
        self, spec: ViewSpec | None, op: Operation, items: list[Any]
    ) -> tuple[Terms, list[Any]]:
        """The call's terms, and its items as the chat template shows them now."""
        with self.lock:
            terms = self._terms_of(spec)
            if not (terms.is_causal or op.last_only):
                raise UnsupportedModelError(
                    f"{op.name} needs a causal model, and in view {terms.view_id} a token's logits "
                    "depend on what follows it; next_token_dist can be asked"
                )
            encoder = terms.encoder
            if not encoder.leaves_as_they_are(items):
                items = [
                    framed(item, lambda item: op.framed(item, encoder.frame)) for item in items
                ]
        return terms, items

    def call(self, terms: Terms, op: Operation, items: list[Any]) -> Call:
        """A call on known terms, its items as the chat template shows them."""
        space = None
        if terms.lasting is not None:
            space = KeySpace(terms.lasting, terms.spec, self.options.key, op)
        own = terms.state, terms.spec, op, items, terms.encoder
        return Call(*own, options=self.options, key_space=space)

    def _terms_of(self, spec: ViewSpec | None) -> Terms:
        """The terms of a view in the model's present state; the caller holds the lock."""
        terms = self._terms
        known = terms.get(spec)
        try:
            if self.adapters is None:
                state = self.identity.state(self.tokenizer)
                if known is not None and known.state is state:
                    return known
                terms.forget_all_but(state)
                runs = checked_spec(state.structure, spec)
            else:
                runs, state = self.begun(spec)
                if known is not None and known.state is state and known.spec == runs:
                    return known
            return terms.keep(self._new_terms(spec, runs, state))
        except BaseException:
            # Whoever enters a view has the model looked at again.
            terms.forget()
            raise

    def _new_terms(self, asked: ViewSpec | None, runs: ViewSpec, state: ModelState) -> Terms:
        return Terms(
            state,
            asked,
            runs,
            is_causal=self.admitted(runs, state.structure).causal,
            encoder=self._encoder_for(state.structure),
            scope=scope_of(state.key, runs, self.options),
            lasting=self._lasting(runs),
        )

    def _lasting(self, spec: ViewSpec) -> bytes | None:
        if self.value_store is None:
            return None
        model = self.lasting_key(spec)
        if model is None:
            self.value_store.tell_unused(self.why_not_lasting(spec))
        return model

    def cached(
        self, call: Call, batched: bool, counted: Mapping[Any, Any] | None = None
    ) -> list[Any]:
        """Values of the call's tasks: from the cache, or computed and stored.

        Args:
            call: The call.
            batched: Whether its tasks are looked up together.
            counted: Hits that were looked up before, by key.

        A computation with values that are not finite, or with a prompt that doesn't fit into
        memory, raises, so that nothing of it is stored; the others then go through the cache again,
        without a second forward.
        """
        hits = dict(counted or {})
        while True:
            kept = [each for each in call.tasks if each.key not in hits and call.may_look_up(each)]
            try:
                values = self._look_up(call, kept, batched) if kept or not call.computed else []
            except (NotFiniteError, ModelMemoryError):
                hits |= self.counted_hits(call)
                continue
            self._report_rest(call)
            values = self._checked_again(call, kept, values)
            if len(kept) == len(call.tasks):
                return values
            found = hits | dict(zip((task.key for task in kept), values, strict=True))
            return [found.get(task.key, call.computed.get(task.key)) for task in call.tasks]

    def counted_hits(self, call: Call) -> dict[Any, Any]:
        """What was found next to a computation that raised: counted already, read without that.

        A cache that can't be read without counting is asked again.
        """
        peek = getattr(self.instrumentation.cache, "peek", None)
        if peek is None:
            return {}
        keys = {task.key for task in call.tasks}.difference(call.computed)
        names, scope = (call.op.name, call.spec.view_id), call.scope
        found = {key: peek((*names, key, call.op.top_k, scope)) for key in keys}
        return {key: value for key, value in found.items() if value is not _MISS}

    def _look_up(self, call: Call, tasks: Sequence[Task], batched: bool) -> list[Any]:
        op, scope = call.op, call.scope
        names, keys = (op.name, call.spec.view_id), [task.key for task in tasks]
        self._fill_slices(call, keys)

        def compute(indices: Sequence[int]) -> list[Any]:
            return self.compute(call, [tasks[index] for index in indices])

        if batched:
            batch = self.instrumentation.cached_batch
            return list(batch(*names, keys, op.top_k, compute, scope=scope))
        single = self.instrumentation.cached
        return [single(*names, keys[0], op.top_k, lambda: compute([0])[0], scope=scope)]

    def found(self, call: Call) -> set[int]:
        """Positions of the items whose values are in the cache, with what only the store had.

        What the store has is put into the cache, so that looking it up is an ordinary hit.
        """
        if self.value_store is None or call.key_space is None:
            return set()
        keys = call.keys()
        asked = dict.fromkeys(key for _, key in keys)
        self._fill_slices(call, list(asked))
        cache, scope = self.instrumentation.cache, call.scope
        look = getattr(cache, "peek", cache.get)
        name, view_id, top_k = call.op.name, call.spec.view_id, call.op.top_k
        missing = [key for key in asked if look((name, view_id, key, top_k, scope)) is _MISS]
        if missing:
            call.fetched = self.value_store.fetch(call.key_space, missing)
            for key, value in call.fetched.items():
                cache.put((name, view_id, key, top_k, scope), value)
        lost = set(missing).difference(call.fetched)
        return {position for position, key in keys if key not in lost}

    def is_cached(self, call: Call, key: Any) -> bool:
        """Whether the cache has a value of the call, by its key; a store isn't asked."""
        self._fill_slices(call, [key])
        cache = self.instrumentation.cache
        name = call.op.name, call.spec.view_id, key, call.op.top_k, call.scope
        return getattr(cache, "peek", cache.get)(name) is not _MISS

    def _fill_slices(self, call: Call, keys: Sequence[Any]) -> None:
        if call.op.top_k and self.slices.larger(call.op.top_k):
            cache, scope = self.instrumentation.cache, call.scope
            names = call.op.name, call.spec.view_id
            self.slices.fill(cache, keys, call.op.top_k, lambda *key: (*names, *key, scope))

    def _keep_in_store(self, call: Call, good: dict[Any, Any]) -> None:
        if self.value_store is not None and call.key_space is not None:
            self.value_store.keep(call.key_space, good)

    def _checked_again(self, call: Call, tasks: Sequence[Task], values: list[Any]) -> list[Any]:
        """``values``, of which a share of the hits was computed again; what differs is replaced."""
        if not self.selfcheck.share:
            return values
        hits = [n for n, task in enumerate(tasks) if task.key not in call.computed]
        chosen = self.selfcheck.chosen(hits)
        if not chosen:
            return values
        fresh = self._run_unchanged(call, [tasks[n] for n in chosen], self.run)
        values, wrong = list(values), {}
        for n, value in zip(chosen, fresh, strict=True):
            if call.may_keep(value) and self.selfcheck.differs(
                call.op, values[n], value, self.causal_lm.dtype
            ):
                values[n] = wrong[tasks[n].key] = value
        scope = call.scope
        for key, value in wrong.items():
            name = call.op.name, call.spec.view_id, key, call.op.top_k, scope
            self.instrumentation.cache.put(name, value)
        if wrong:
            self._keep_in_store(call, wrong)
        return values

    def compute(self, call: Call, tasks: Sequence[Task]) -> list[Any]:
        """Values of ``tasks`` that the cache hasn't, for it to keep; raises what isn't kept."""
        # A cache too small for the call has lost again what the store gave.
        call.computed |= {
            key: call.fetched[key] for key in (task.key for task in tasks) if key in call.fetched
        }
        missing = [task for task in tasks if task.key not in call.computed]
        if missing:
            values = self._values(call, missing)
            call.computed.update(zip((task.key for task in missing), values, strict=True))
            may_keep = [call.may_keep(value) for value in values]
            kept = zip(missing, values, may_keep, strict=True)
            self._keep_in_store(call, {task.key: value for task, value, may in kept if may})
            errors = [value for value in values if isinstance(value, ModelMemoryError)]
            bad = may_keep.count(False) - len(errors)
            self.nonfinite_results += bad
            if errors:
                raise errors[0]
            if bad and not self.store_nonfinite:
                raise NotFiniteError
        return [call.computed[task.key] for task in tasks]

    def _values(self, call: Call, tasks: Sequence[Task]) -> list[Any]:
        """Values of ``tasks``; of views that are asked together the first may run for all."""
        # States are kept for whoever asks next, so none of them is run for several views at once.
        asked = None if call.op.every_position else asked_of(self)
        if asked is None:
            return self._run_unchanged(call, tasks, self.run)
        taken = asked.taken(call, tasks)
        # Whatever the model is by now, these are values of the state that the call's keys name.
        return self._run_unchanged(call, tasks, asked.values) if taken is None else taken

    def _run_unchanged(
        self, call: Call, tasks: Sequence[Task], run: Callable[[Call, Sequence[Task]], list[Any]]
    ) -> list[Any]:
        with self.lock:
            if self.state(call.spec) is not call.state:
                raise ModelChangedError
            values = run(call, tasks)
            if self.state(call.spec) is not call.state:
                raise ModelChangedError
        return values

    def run(self, call: Call, tasks: Sequence[Task]) -> list[Any]:
        """Values of ``tasks``, by forwards in the call's view; equal tokens run once."""
        firsts, kind_of = distinct(
            (task.encoded.token_ids, task.encoded.first_scored, call.op.argument(task.item))
            for task in tasks
        )
        spec = call.spec
        self.runner.ways = self.admitted(spec, call.state.structure)
        with self.put_on(spec) as model, switched(model, spec), torch.inference_mode():
            values = self._run_distinct(call, [tasks[first] for first in firsts])
        return [values[kind] for kind in kind_of]

    def _run_distinct(self, call: Call, tasks: list[Task]) -> list[Any]:
        op = call.op
        values: dict[int, Any] = {
            position: value
            for position, task in enumerate(tasks)
            if (value := op.without_run(task.encoded)) is not None
        }
        rest = [position for position in range(len(tasks)) if position not in values]
        run, report = [tasks[position] for position in rest], partial(self.report, call)
        if op.in_windows:
            positions = max_positions(self.causal_lm)
            scored, run = run_in_windows(self.runs, op, run, positions, report)
        else:
            scored = self.runs.values(op, run, report)
        self.write_down(call, run, self.runs.ran, self.runs.refused)
        values.update(zip(rest, scored, strict=True))
        return [values[position] for position in range(len(tasks))]

    def write_down(
        self,
        call: Call,
        tasks: Sequence[Task],
        ran: Sequence[RanBatch],
        refused: Sequence[Refused],
    ) -> None:
        """What was run goes to whoever collects it, what memory refused into the trace."""
        runs, op, view_id = self.runs, call.op, call.spec.view_id
        if lists := provenance.wanted():
            dtype, device = dtype_name(self.causal_lm), str(self.causal_lm.device)
            done = tuple(ran), len(refused)
            note = provenance.Provenance(op.name, view_id, dtype, device, runs.budget(op), *done)
            provenance.note(lists, note)
        for each in refused:
            prefix = prompt_hash(tasks[each.task].key)
            eight = time.time(), None, view_id, prefix, op.top_k, op.name, each.seconds * 1e3
            self.instrumentation.trace.write(TraceLine(*eight, hit=False, error=each.error))

    def fresh(
        self, spec: ViewSpec | None, op: Operation, items: Sequence[Any], *, alone: bool
    ) -> list[Any]:
        """Values past the cache: all items in the batches of one plan, or each in its own."""
        call = self.begin(spec, op, list(items))
        with self.lock:
            call.encode()
        groups = [[task] for task in call.tasks] if alone else [call.tasks]
        with self.lock:
            return call.results([value for group in groups for value in self.run(call, group)])

    def _report_rest(self, call: Call) -> None:
        if self.progress is not None:
            with self.lock:
                tokens = call.tokens()
            self.report(call, tokens - call.reported)

    def report(self, call: Call, tokens: int) -> None:
        """Tells whoever listens that ``tokens`` more are done, each of a call once."""
        tokens = call.newly(tokens)
        call.reported += tokens
        if self.progress is not None and tokens > 0:
            self.progress(tokens)


def _raise_first(results: list[Any]) -> list[Any]:
    """``results``, unless one is an error; the first carries all of them."""
    for index, result in enumerate(results):
        if isinstance(result, ForwardCacheError):
            result.index, result.results = index, results
            raise result
    return results
