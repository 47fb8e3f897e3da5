"""Values from hidden states that are kept: no forward where a text's states are there.

The states of each item's tokens are looked up under the body's key, or computed and kept
(``StatesCall``). What was asked is then computed from them by the model's head as it is at that
moment, and never kept: so nothing derived can be stale. The model's lock is taken for that, and the
state of the model compared before and after with the one that the states were looked up for; if it
moved, the call begins again.

An item's states are those of all its tokens, also of a last one that is scored and needn't be read:
a text whose tokens were scored and a prompt whose next token is asked for have one entry.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from forwardcache.errors import ContextLengthError, ForwardCacheError, ModelMemoryError
from forwardcache.hf.batch.context import max_positions
from forwardcache.hf.batch.memory import is_out_of_memory
from forwardcache.hf.batch.row import Encoded, Row
from forwardcache.hf.batch.states import values_of
from forwardcache.hf.batch.ways import Ways
from forwardcache.hf.model.identity import ModelState, Structure
from forwardcache.hf.scoring.body_space import BodySpace, body_space
from forwardcache.hf.scoring.call import Call, ModelChangedError
from forwardcache.hf.scoring.states_call import StatesCall
from forwardcache.hf.scoring.task import Task
from forwardcache.hf.scoring.windows import windows_of
from forwardcache.hf.spec import BASE, ViewSpec
from forwardcache.hf.states.replay import measured_kind
from forwardcache.hf.states.runner import HeadRunner
from forwardcache.operation import Operation
from forwardcache.scoring import HiddenStates

if TYPE_CHECKING:
    from forwardcache.hf.scoring.scorer import Scorer

_ATTEMPTS = 3
# Views whose place is remembered.
_SPACES = 256
# Of states that are in hand at once, beside those that the cache keeps.
_GROUP_BYTES = 64 * 2**20

Found = HiddenStates | ForwardCacheError


@dataclass(frozen=True, slots=True)
class _Question:
    """One task, and the pieces of its text that the model reads: one, or its windows.

    Attributes:
        task: The item.
        pieces: What is run of it; none where its value needs no run.
    """

    task: Task
    pieces: list[Encoded]


class KeptStates:
    """Hidden states that are kept, and what the head makes of them.

    Args:
        scorer: Whose model, cache and store it is.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self._kinds: WeakKeyDictionary[Ways, tuple[int, type[Any]]] = WeakKeyDictionary()
        self._spaces: dict[ViewSpec, tuple[ModelState, BodySpace, ModelState]] = {}

    def admit(self) -> None:
        """Measures whether the head can be run on kept states, in the views at hand.

        Raises:
            UnsupportedModelError: it can't; with the reason.
        """
        scorer = self._scorer
        with scorer.lock:
            traits = scorer.identity.structure(scorer.tokenizer).traits
            for spec in dict.fromkeys((*scorer.standing_specs(), BASE)):
                # One with a name is looked at when it is first on the model.
                if spec.adapter is None and traits.gives(spec):
                    self.kind(spec)

    def values(
        self, spec: ViewSpec | None, op: Operation, items: list[Any], *, batched: bool
    ) -> list[Any]:
        """The value of each item, or its error.

        Args:
            spec: The view; None for the model as it stands.
            op: What is asked.
            items: Its arguments.
            batched: Whether errors are returned in the items' places, else the first is raised.
        """
        for _ in range(_ATTEMPTS):
            call = self._begun(spec, op, items)
            if not batched:
                call.raise_error()
            try:
                return call.results(self._answers(call, batched=batched))
            except ModelChangedError:
                continue
        return self._scorer.past_cache(spec, op, items)

    def missing(self, spec: ViewSpec | None, op: Operation, items: list[Any]) -> list[int]:
        """Positions of the items that the model would be run for; of equal ones the first."""
        call = self._begun(spec, op, items)
        positions = [at for at, each in enumerate(call.outcomes) if isinstance(each, Task)]
        firsts: dict[Row, int] = {}
        for at, question in zip(positions, self._questions(call), strict=True):
            for piece in question.pieces:
                firsts.setdefault(self.row_of(piece), at)
        lookup = self._lookup(call.state, call.spec, [Encoded(row, len(row)) for row in firsts])
        kept = self._scorer.found(lookup)
        missing = [at for number, at in enumerate(firsts.values()) if number not in kept]
        return sorted(set(missing))

    def _begun(self, spec: ViewSpec | None, op: Operation, items: list[Any]) -> Call:
        call = self._scorer.begin(spec, op, items)
        with self._scorer.lock:
            call.encode()
        return call

    def _answers(self, call: Call, *, batched: bool) -> list[Any]:
        answers: list[Any] = []
        for questions in self._groups(self._questions(call)):
            answers += self._of_group(call, questions, batched=batched)
        return answers

    def _questions(self, call: Call) -> list[_Question]:
        limit = max_positions(self._scorer.causal_lm) if call.op.in_windows else None
        questions = []
        for task in call.tasks:
            encoded = task.encoded
            is_run = call.op.without_run(encoded) is None and len(encoded.token_ids)
            questions.append(_Question(task, windows_of(encoded, limit) if is_run else []))
        return questions

    def _groups(self, questions: Sequence[_Question]) -> Iterator[list[_Question]]:
        """The questions in groups whose states take little memory, or which are one."""
        most = max(1, _GROUP_BYTES // self.position_bytes)
        group: list[_Question] = []
        tokens = 0
        for question in questions:
            size = sum(len(piece.token_ids) for piece in question.pieces)
            if group and tokens + size > most:
                yield group
                group, tokens = [], 0
            group.append(question)
            tokens += size
        if group:
            yield group

    @property
    def position_bytes(self) -> int:
        """Bytes of the state of one position."""
        width = getattr(self._scorer.causal_lm.config.get_text_config(), "hidden_size", None)
        if not isinstance(width, int):
            # A family's own name for it, or one number a layer; an embedding is hardly wider.
            width = self._scorer.causal_lm.get_input_embeddings().weight.shape[-1]
        return int(width * self._scorer.runner.dtype.itemsize)

    def _of_group(self, call: Call, questions: list[_Question], *, batched: bool) -> list[Any]:
        """The values of some questions, whose states are looked up together."""
        scorer, pieces = self._scorer, [piece for each in questions for piece in each.pieces]
        lookup = self._lookup(call.state, call.spec, pieces)
        found = self._looked_up(lookup, batched=batched) if pieces else []
        self._tell(questions, lookup)
        with scorer.lock:
            self._check(call.state, call.spec)
            values = self._derived(call, questions, found)
            self._check(call.state, call.spec)
        return values

    def rows(self, state: ModelState, spec: ViewSpec, windows: Sequence[Encoded]) -> list[Found]:
        """The states of texts or windows, of all tokens that each reads and maybe of one more.

        Args:
            state: The state of the model that they are for.
            spec: The view that is run.
            windows: At least one token each.

        Raises:
            ModelChangedError: the model is in another state.
        """
        return self._looked_up(self._lookup(state, spec, windows), batched=True)

    def row_of(self, encoded: Encoded) -> Row:
        """The tokens that are read for an item: all, where the model can read the last one."""
        row, positions = encoded.token_ids, max_positions(self._scorer.causal_lm)
        if len(row) == len(encoded.fed) or (positions is not None and len(row) > positions):
            return encoded.fed
        readable = self._scorer.runner.readable_ids
        return row if 0 <= row[-1] < readable else encoded.fed

    def _looked_up(self, lookup: StatesCall, *, batched: bool) -> list[Found]:
        scorer = self._scorer
        lookup.encode(scorer.found(lookup))
        try:
            return scorer.cached(lookup, batched or len(lookup.tasks) != 1)
        except ModelChangedError:
            self._spaces = {}
            raise

    def _tell(self, questions: Sequence[_Question], lookup: StatesCall) -> None:
        """Says to an instrumentation that wants to know for which prompts the model was run."""
        tell = getattr(self._scorer.instrumentation, "note_computed", None)
        if tell is not None:
            flags = iter(lookup.is_computed())
            ran = [
                question.task.key
                for question in questions
                if sum(next(flags) for _ in question.pieces)
            ]
            tell(ran)

    def _derived(
        self, call: Call, questions: Sequence[_Question], found: Sequence[Found]
    ) -> list[Any]:
        """The values; the caller holds the lock."""
        op, following = call.op, iter(found)
        states = [[next(following) for _ in each.pieces] for each in questions]
        tasks = [
            Task(question.task.item, piece, question.task.key)
            for question, own in zip(questions, states, strict=True)
            for piece, each in zip(question.pieces, own, strict=True)
            if isinstance(each, HiddenStates)
        ]
        by_row = {
            piece.fed: each
            for question, own in zip(questions, states, strict=True)
            for piece, each in zip(question.pieces, own, strict=True)
            if isinstance(each, HiddenStates)
        }
        ran = iter([] if op.every_position else self._run(call, tasks, by_row))
        values = []
        for question, own in zip(questions, states, strict=True):
            if op.every_position:
                values.append(self._whole(question, own))
                continue
            parts = [next(ran) if isinstance(each, HiddenStates) else each for each in own]
            values.append(_value(op, question, parts))
        return values

    def _run(
        self, call: Call, tasks: Sequence[Task], states: Mapping[Row, HiddenStates]
    ) -> list[Any]:
        """What the operation makes of each task, with the head in the call's view."""
        scorer, op = self._scorer, call.op
        if not tasks:
            return []
        kind = self.kind(call.spec, call.state.structure)
        scorer.runner.ways = scorer.admitted(call.spec, call.state.structure)
        with scorer.entered(call.spec), torch.inference_mode():
            head = HeadRunner(scorer.runner, kind, states)
            size = head.most_rows if op.last_only else len(tasks)
            parts = [tasks[begin : begin + size] for begin in range(0, len(tasks), size)]
            values = [value for part in parts for value in self._within_memory(op, head, part)]
        bad = sum(
            not call.may_keep(value) and states[task.encoded.fed].is_finite
            for task, value in zip(tasks, values, strict=True)
            if not (op.in_windows or isinstance(value, ForwardCacheError))
        )
        scorer.nonfinite_results += bad
        return values

    def _within_memory(self, op: Operation, head: HeadRunner, tasks: Sequence[Task]) -> list[Any]:
        """The values of tasks; in two parts, or fewer positions at a time, where memory ends."""
        try:
            return op.run(head, tasks)
        except (MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
        self._scorer.runs.out_of_memory += 1
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        if len(tasks) > 1:
            half = len(tasks) // 2
            parts = tasks[:half], tasks[half:]
            return [value for part in parts for value in self._within_memory(op, head, part)]
        if head.most_rows > 1:
            head.most_rows //= 2
            return self._within_memory(op, head, tasks)
        return [ModelMemoryError("the logits of one position do not fit into memory")]

    def _whole(self, question: _Question, own: Sequence[Found]) -> Found:
        """The states of a text, all of its tokens."""
        encoded = question.task.encoded
        if not encoded.token_ids:
            runner = self._scorer.runner
            width = self.position_bytes // runner.dtype.itemsize
            nothing = torch.empty((0, width), dtype=runner.dtype)
            return next(iter(values_of([()], [nothing])))
        [found] = own
        if isinstance(found, HiddenStates) and len(found.token_ids) < len(encoded.token_ids):
            return ContextLengthError(
                f"the model can't read the last of {len(encoded.token_ids)} tokens, so that it has "
                "no hidden state"
            )
        return found

    def kind(self, spec: ViewSpec, structure: Structure | None = None) -> type[Any]:
        """The type of the body's output in a view; the caller holds the lock.

        Args:
            spec: The view.
            structure: The present structure, where it is known already.

        Raises:
            UnsupportedModelError: the head can't be run on kept states.
        """
        scorer = self._scorer
        structure = structure or scorer.identity.structure(scorer.tokenizer)
        number, ways = structure.number, scorer.admitted(spec, structure)
        # Of a hook the ways know nothing, and it may make others of the states that it sees.
        known = self._kinds.get(ways)
        if known is None or known[0] != number:
            scorer.runner.ways = ways
            with scorer.entered(spec), torch.inference_mode():
                known = number, measured_kind(scorer.runner, scorer.causal_lm, ways)
            self._kinds[ways] = known
        return known[1]

    def _lookup(self, state: ModelState, spec: ViewSpec, pieces: Sequence[Encoded]) -> StatesCall:
        """A call for the states of some pieces of texts.

        Raises:
            ModelChangedError: the model is in another state than ``state``.
        """
        rows = [self.row_of(piece) for piece in pieces]
        unasked = sum(map(len, rows)) - sum(len(piece.fed) for piece in pieces)
        # They follow from the state; that the model still is in it is seen when values are made.
        known = self._spaces.get(spec)
        if known is None or known[0] is not state:
            known = self._new_space(state, spec)
        _, space, own = known
        return StatesCall(own, space, rows, unasked=unasked)

    def _new_space(
        self, state: ModelState, spec: ViewSpec
    ) -> tuple[ModelState, BodySpace, ModelState]:
        scorer = self._scorer
        with scorer.lock:
            self._check(state, spec)
            # Refuses a model of whose states nothing may be kept.
            self.kind(spec)
            space = body_space(scorer, spec, lasts=scorer.value_store is not None)
            if scorer.value_store is not None and space.lasting is None:
                scorer.value_store.tell_unused(scorer.why_not_lasting(space.view))
            found = state, space, scorer.state(space.view)
            while len(self._spaces) >= _SPACES:
                del self._spaces[next(iter(self._spaces))]
            self._spaces[spec] = found
        return found

    def _check(self, state: ModelState, spec: ViewSpec) -> None:
        if self._scorer.state(spec) is not state:
            raise ModelChangedError


def _value(op: Operation, question: _Question, parts: Sequence[Any]) -> Any:
    """The value of an item out of those of its pieces."""
    encoded = question.task.encoded
    if not question.pieces:
        return op.without_run(encoded)
    errors = [part for part in parts if isinstance(part, ForwardCacheError)]
    if errors:
        return errors[0]
    return op.joined(encoded, parts) if op.in_windows else parts[0]
