"""How far views are from a reference at every position of some texts. Nothing of it is cached.

Texts go in slabs. For each, every view's body gives the final hidden states of all positions in the
batches that scoring makes, and these are kept; then the heads run on a chunk of positions at a
time, and of their logits only the figures stay. So memory is that of a slab's states and of a
chunk's logits, and a view is switched to once a slab. Where the head can't be run alone, each text
gets its logits from the whole model.

Where the backend keeps states, those of its views are looked up, and computed only where they
aren't kept; then nothing of a body is run for texts that were compared before.

Views whose ways differ are run in a plainer one that all have, so that equal weights have equal
logits: a way is a source of rounding, and rounding that differs is a difference.

A view may also be compared as a rerun of it that is rounded at random (``rerun``).
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from forwardcache.errors import ForwardCacheError, ModelMemoryError, UnsupportedModelError
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.differences import position_differences, rows_at_once
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.plan import distinct, in_slabs
from forwardcache.hf.batch.row import Encoded
from forwardcache.hf.batch.states import tensor_of
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.model.identity import ModelState
from forwardcache.hf.model.switch import switched
from forwardcache.hf.scoring import provenance
from forwardcache.hf.scoring.call import ModelChangedError
from forwardcache.hf.scoring.final_states import FinalStates, HeadNotAloneError
from forwardcache.hf.scoring.heads import Heads
from forwardcache.hf.scoring.kept_states import Found
from forwardcache.hf.scoring.loaded import dtype_name
from forwardcache.hf.scoring.provenance import RanBatch
from forwardcache.hf.scoring.rerun import Run, as_run, checked_run, view_of
from forwardcache.hf.scoring.task import Task
from forwardcache.hf.scoring.windows import windows_of
from forwardcache.hf.spec import ViewSpec

if TYPE_CHECKING:
    from forwardcache.hf.scoring.scorer import Scorer

SLAB_BYTES = 256 * 2**20
"""Of the hidden states, of all views together, that are kept at once."""

_SMALL_SLAB_BYTES = 16 * 2**20
_KEPT_VIEWS = 2
_ATTEMPTS = 3

Figures = dict[Run, list[Tensor | ForwardCacheError]]
"""By view: for each window float64[scored, 8] on the CPU, or why it has none."""


@dataclass(frozen=True, slots=True)
class _Slab:
    """Windows of texts, and the states of each in each view.

    Attributes:
        windows: What is compared; each is read whole, and its scored tokens count.
        states: By view, for each window [scored, width].
        output: The type of the body's output.
    """

    windows: list[Encoded]
    states: dict[Run, list[Tensor]]
    output: type[Any]

    def chunk(self, spec: Run, begin: int, rows: int) -> Tensor:
        """Up to ``rows`` states of a view from position ``begin`` on, all windows in a line."""
        parts = []
        for states in self.states[spec]:
            if len(states) > begin and rows:
                parts.append(states[begin : begin + rows])
                rows -= len(parts[-1])
            begin = max(0, begin - len(states))
        return torch.cat(parts)


class Comparison:
    """Figures of some views of one model beside a reference.

    Args:
        scorer: Whose model it is.
        reference: What the views are held against.
        views: The views, or reruns of some.
        max_logit_bytes: Memory for logits at once, with what is computed of them.

    Raises:
        UnsupportedModelError: the model can't give a view exactly, or is not causal in one.
        AdapterError: a view needs an adapter and there is none.
    """

    def __init__(
        self,
        scorer: Scorer,
        reference: Run,
        views: Sequence[Run],
        max_logit_bytes: int,
    ) -> None:
        self._scorer = scorer
        self._runner = scorer.runner
        self._asked = [reference, *views]
        self._max_bytes = max_logit_bytes
        self._fewer_rows = 1
        self._kept: dict[Run, list[Found]] = {}
        self._output: type[Any] | None = None
        self._reported = 0

    def figures(self, rows: Sequence[Encoded]) -> list[list[Tensor | ForwardCacheError]]:
        """For each view, and each row, what ``position_differences`` gives of its scored tokens.

        Raises:
            UnsupportedModelError: something changes the model again and again meanwhile.
        """
        for _ in range(_ATTEMPTS):
            try:
                return self._attempted(rows)
            except ModelChangedError:
                continue
        raise UnsupportedModelError(
            f"the model changed while it was compared, {_ATTEMPTS} times: what was computed before "
            "can't be held against what was computed after"
        )

    def _attempted(self, rows: Sequence[Encoded]) -> list[list[Tensor | ForwardCacheError]]:
        scorer = self._scorer
        with scorer.lock:
            specs = [checked_run(scorer, spec) for spec in self._asked]
            states = self._states_of(specs)
            ways = self._common_ways(specs)
            positions = max_positions(scorer.causal_lm)
            if scorer.keeps_states:
                self._output = scorer.kept.kind(view_of(specs[0]))
        firsts, kind_of = distinct(row.token_ids for row in rows)
        cut = [windows_of(rows[first], positions) for first in firsts]
        found: Figures = {spec: [] for spec in specs[1:]}
        # Of kept states the slabs are the same whatever views there are: so are their batches.
        views = _KEPT_VIEWS if scorer.keeps_states else len(set(specs))
        for slab in self._slabs([each for windows in cut for each in windows], views):
            self._kept = self._kept_states(slab, specs, states)
            with scorer.lock:
                self._check(states)
                part = self._slab(slab, specs[0], list(found), ways)
                self._check(states)
            for spec, values in part.items():
                found[spec] += values
        self._report(sum(len(row.fed) for row in rows) * len(set(specs)) - self._reported)
        joined = {spec: _joined(cut, values) for spec, values in found.items()}
        return [[joined[spec][kind] for kind in kind_of] for spec in specs[1:]]

    def _states_of(self, specs: Sequence[Run]) -> dict[ViewSpec, ModelState]:
        return {spec: self._scorer.state(spec) for spec in dict.fromkeys(map(view_of, specs))}

    def _check(self, states: Mapping[ViewSpec, ModelState]) -> None:
        if any(self._scorer.state(spec) is not state for spec, state in states.items()):
            raise ModelChangedError

    def _common_ways(self, specs: Sequence[Run]) -> Ways:
        """The ways of the views where they have the same, else a plainer one that all have."""
        views = list(dict.fromkeys(map(view_of, specs)))
        ways = [self._scorer.admitted(spec) for spec in views]
        for each, spec in zip(ways, views, strict=True):
            if not each.causal:
                raise UnsupportedModelError(
                    f"compare needs a causal model, and in view {spec.view_id} a token's logits "
                    "depend on what follows it"
                )
        batches = {(each.batches, each.is_masked) for each in ways}
        common = replace(ways[0], prefixes=False)
        if len(batches) > 1:
            is_single = any(kind == "single" for kind, _ in batches)
            common = replace(common, batches="single" if is_single else "equal_lengths")
        common.takes_positions = all(each.takes_positions for each in ways)
        common.runs_head_alone = all(each.runs_head_alone for each in ways)
        return common

    def _slabs(self, windows: Sequence[Encoded], views: int) -> Iterator[list[Encoded]]:
        """The windows in groups whose states are at most ``SLAB_BYTES``, or which are one."""
        token = self._scorer.kept.position_bytes * views
        # No more than fill a batch or a little memory: more states than that are only kept.
        enough = max(_SMALL_SLAB_BYTES // token, self._scorer.runs.budget(FinalStates()))
        most = min(SLAB_BYTES // token, enough)
        if self._scorer.are_loaded_in_turn(list(map(view_of, self._asked))):
            # Each adapter is loaded once a slab.
            most = SLAB_BYTES // token
        return in_slabs(windows, lambda window: len(window.fed), most)

    @contextmanager
    def _in(self, spec: Run, ways: Ways) -> Iterator[None]:
        """The model in a view, as its head is run."""
        self._runner.ways = ways
        view = view_of(spec)
        with self._scorer.put_on(view) as model, switched(model, view), torch.inference_mode():
            yield

    @contextmanager
    def _running(self, spec: Run, ways: Ways) -> Iterator[None]:
        """The model in a view, as the whole of it is run."""
        scorer = self._scorer
        with self._in(spec, ways), as_run(spec, scorer.model, scorer.causal_lm, self._runner):
            yield

    def _slab(
        self,
        windows: Sequence[Encoded],
        reference: Run,
        views: Sequence[Run],
        ways: Ways,
    ) -> Figures:
        """Figures of some windows. The caller holds the model's lock."""
        if ways.runs_head_alone:
            try:
                return self._from_states(windows, reference, views, ways)
            except HeadNotAloneError:
                ways.runs_head_alone = False
        found: Figures = {spec: [] for spec in views}
        for window in windows:
            for spec, values in self._from_logits(window, reference, views, ways).items():
                found[spec].append(values)
        ran = [RanBatch((at,), len(each.fed), len(each.fed)) for at, each in enumerate(windows)]
        for spec in dict.fromkeys([reference, *views]):
            self._write_down(spec, ran, 0)
        return found

    def _from_logits(
        self, window: Encoded, reference: Run, views: Sequence[Run], ways: Ways
    ) -> dict[Run, Tensor | ForwardCacheError]:
        """Figures of one window out of all of its logits."""
        try:
            ours = self._logits_of(window, reference, ways)
            found: dict[Run, Tensor | ForwardCacheError] = {}
            for spec in views:
                theirs = ours if spec == reference else self._logits_of(window, spec, ways)
                found[spec] = self._kernel(ours, theirs, window.scored)
            return found
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return dict.fromkeys(views, _too_large(window))

    def _logits_of(self, window: Encoded, spec: Run, ways: Ways) -> Tensor:
        positions = range(window.first_scored - 1, len(window.fed))
        with self._running(spec, ways):
            [logits] = self._runner.logits_in(ways, [window.fed], [positions])
        self._report(len(window.fed))
        return logits

    def _kernel(self, ours: Tensor, theirs: Tensor, targets: Sequence[int]) -> Tensor:
        following = torch.tensor(targets, device=ours.device)
        with torch.inference_mode():
            return position_differences(ours, theirs, following, max_bytes=self._max_bytes).cpu()

    def _from_states(
        self,
        windows: Sequence[Encoded],
        reference: Run,
        views: Sequence[Run],
        ways: Ways,
    ) -> Figures:
        states, errors, output = self._states(windows, [reference, *views], ways)
        done = [window for at, window in enumerate(windows) if at not in errors]
        found: Figures = {spec: [] for spec in views}
        if done and output is not None:
            slab = _Slab(done, states, output)
            figures = self._of_slab(slab, reference, views, ways)
            lengths = [len(window.scored) for window in done]
            found = {spec: list(torch.split(figures[spec], lengths)) for spec in views}
        for at in sorted(errors):
            for values in found.values():
                values.insert(at, errors[at])
        return found

    def _states(
        self, windows: Sequence[Encoded], specs: Sequence[Run], ways: Ways
    ) -> tuple[dict[Run, list[Tensor]], dict[int, ForwardCacheError], type[Any] | None]:
        """The states of all windows but those that memory is too small for, with their errors."""
        op, runs = FinalStates(), self._scorer.runs
        # Scored from the second token on: nothing is shared before a position that is needed.
        tasks = [Task(None, Encoded(window.token_ids, 1), None) for window in windows]
        found: dict[Run, list[Any]] = {}
        for spec in dict.fromkeys(specs):
            if spec in self._kept:
                found[spec] = self._tensors(windows, self._kept[spec])
                op.output = self._output
                continue
            with self._running(spec, ways):
                found[spec] = runs.values(op, tasks, self._report)
            self._write_down(spec, runs.ran, len(runs.refused))
        errors = {
            at: each
            for values in found.values()
            for at, each in enumerate(values)
            if isinstance(each, ForwardCacheError)
        }
        states = {
            spec: [
                each[window.first_scored - 1 :]
                for at, (each, window) in enumerate(zip(values, windows, strict=True))
                if at not in errors
            ]
            for spec, values in found.items()
        }
        return states, errors, op.output

    def _kept_states(
        self,
        windows: Sequence[Encoded],
        specs: Sequence[Run],
        states: Mapping[ViewSpec, ModelState],
    ) -> dict[Run, list[Found]]:
        """By view the states of the windows, where they are kept; no lock is held.

        A rerun is another one each time, so its states are never kept.
        """
        found: dict[Run, list[Found]] = {}
        for spec in dict.fromkeys(specs if self._scorer.keeps_states else ()):
            if isinstance(spec, ViewSpec):
                found[spec] = self._scorer.kept.rows(states[spec], spec, windows)
                self._reported += sum(len(window.fed) for window in windows)
        return found

    def _tensors(
        self, windows: Sequence[Encoded], kept: Sequence[Found]
    ) -> list[Tensor | ForwardCacheError]:
        """The states of what each window reads."""
        device = self._runner._device
        return [
            each
            if isinstance(each, ForwardCacheError)
            else tensor_of(each, 0, len(window.fed), device)
            for window, each in zip(windows, kept, strict=True)
        ]

    def _write_down(self, spec: Run, ran: Sequence[RanBatch], refused: int) -> None:
        """What was run goes to whoever collects it."""
        if lists := provenance.wanted():
            lm, budget = self._scorer.causal_lm, self._scorer.runs.budget(FinalStates())
            where = dtype_name(lm), str(lm.device), budget
            note = provenance.Provenance("compare", spec.view_id, *where, tuple(ran), refused)
            provenance.note(lists, note)

    def _of_slab(
        self, slab: _Slab, reference: Run, views: Sequence[Run], ways: Ways
    ) -> dict[Run, Tensor]:
        """The figures of a slab's positions, all windows in a line, chunk by chunk."""
        targets = [token for window in slab.windows for token in window.scored]
        specs = list(dict.fromkeys([reference, *views]))
        total = rows_at_once(self._runner.vocab_size, self._max_bytes, self._runner.device)
        entered = partial(self._in, ways=ways)
        # Many views at once would have too few rows each.
        are_apart = len(specs) > total or self._scorer.heads_differ(list(map(view_of, specs)))
        heads = Heads(self._runner, slab.output, entered, are_apart=are_apart)
        most = total // (2 if are_apart else len(specs))
        found: dict[Run, list[Tensor]] = {spec: [] for spec in views}
        begin = 0
        with nullcontext() if are_apart else entered(reference):
            while begin < len(targets):
                size = max(1, most // self._fewer_rows)
                states = {spec: slab.chunk(spec, begin, size) for spec in specs}
                part = self._of_chunk(heads, states, targets[begin : begin + size], found)
                if part is None and size == 1:
                    raise ModelMemoryError("the logits of one position do not fit into memory")
                if part is None:
                    self._fewer_rows *= 2
                    continue
                for spec, figures in found.items():
                    figures.append(part[spec])
                begin += size
        return {spec: torch.cat(parts) for spec, parts in found.items()}

    def _of_chunk(
        self,
        heads: Heads,
        states: Mapping[Run, Tensor],
        targets: Sequence[int],
        wanted: Container[Run],
    ) -> dict[Run, Tensor] | None:
        """By view the figures of some positions; None where memory is too small for them."""
        found: dict[Run, Tensor] = {}
        try:
            with torch.inference_mode():
                every = heads.logits(states)
                reference, ours = next(every)
                if reference in wanted:
                    found[reference] = self._kernel(ours, ours, targets)
                for spec, theirs in every:
                    found[spec] = self._kernel(ours, theirs, targets)
            return found
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _report(self, tokens: int) -> None:
        self._reported += tokens
        if self._scorer.progress is not None and tokens > 0:
            self._scorer.progress(tokens)


def _joined(
    cut: Sequence[Sequence[Encoded]], values: Sequence[Tensor | ForwardCacheError]
) -> list[Tensor | ForwardCacheError]:
    """The values of texts out of those of their windows."""
    following = iter(values)
    found: list[Tensor | ForwardCacheError] = []
    for windows in cut:
        parts = list(islice(following, len(windows)))
        errors = [part for part in parts if isinstance(part, ForwardCacheError)]
        tensors = [part for part in parts if isinstance(part, Tensor)]
        found.append(errors[0] if errors else torch.cat(tensors))
    return found


def _too_large(window: Encoded) -> ModelMemoryError:
    return ModelMemoryError(f"the logits of {len(window.fed)} tokens do not fit into memory")
