"""Other models beside the reference, one after another; only one body is in memory at a time.

The session's own model is let go of here, so that this is the last thing it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from forwardcache.errors import ForwardCacheError, InvalidInputError, MachineError
from forwardcache.jobs.diff.measured import RERUNS, SEED, MeasuredFloor
from forwardcache.jobs.diff.moved import MOST, TOP, most_moved, moved_position, named_tops
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.fingerprint import folder_fingerprint
from forwardcache.jobs.metadata import Facts
from forwardcache.jobs.other_models import OtherModel, check_other_vocabulary, load_other
from forwardcache.jobs.reasons import is_out_of_memory
from forwardcache.jobs.skips import Skipped
from forwardcache.jobs.views import View
from forwardcache.scoring import PositionDifferences
from forwardcache.statistics import Floor, MovedPosition, Positions, larger

if TYPE_CHECKING:
    from forwardcache.hf import HFBackend
    from forwardcache.hf.others.differences import Kept, Pair
    from forwardcache.hf.others.models import Model, Reference

Write = Callable[[int, Mapping[str, PositionDifferences]], None]
"""Takes a text, by its position in the plan, and by name of a view what was found of it."""


class Steps(Protocol):
    """Whom to tell what is being done."""

    def begin(self, step: str) -> None:
        """``step`` begins."""


@dataclass(slots=True)
class OtherFound:
    """What was found of one other model.

    Attributes:
        model: The model.
        positions: Those that count; items are numbered as those of the run's own views.
        floor: The larger of rounding's figures for it and for the reference; None where neither is
            known.
        facts: What it is, for whoever reads the rows.
        skipped: Texts that it has no rows of.
        notes: What a reader has to know of it, a sentence each.
        moved: What it moved most.
    """

    model: OtherModel
    positions: Positions
    floor: Floor | None
    facts: Facts
    skipped: list[Skipped] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    moved: tuple[MovedPosition, ...] = ()


@dataclass(slots=True)
class Others:
    """What was found of all of them.

    Attributes:
        found: By name, in the order asked for.
        failed: By name: why a model could not be compared.
        links: By name of a stage whose neighbour isn't the reference: that one, and its positions.
        skipped: Texts that the reference failed on.
    """

    found: dict[str, OtherFound] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    links: dict[str, tuple[str, Positions]] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)


def stages_of(plan: DiffPlan) -> list[View]:
    """The views of the model itself that are stages of a chain: random ones are none.

    Args:
        plan: What is compared.
    """
    return [view for view in plan.views if not view.is_null]


def passes_of_others(plan: DiffPlan, options: DiffOptions) -> int:
    """How often each text is read for other models and a chain, beside the run's own views.

    Args:
        plan: What is compared.
        options: What was asked for.
    """
    stages = len(stages_of(plan)) if options.chain else 0
    # What is kept of the reference is read once more where its own views were compared before.
    again = 1 if plan.views and (options.others or options.chain) else 0
    return len(options.others) + stages + again


def failing_early(backend: Any, plan: DiffPlan, options: DiffOptions) -> dict[str, str]:
    """By name: why a model can't be compared, of those of which that shows without their weights.

    Args:
        backend: The reference's.
        plan: What is compared.
        options: What was asked for.

    Raises:
        InvalidInputError: one can't be, and isn't to be skipped; or none is left.
    """
    if options.others and not plan.views:
        # Whoever compares no view of the model itself looks at the reference here first.
        backend.compare([], [], reference=plan.reference.of(backend))
    failed: dict[str, str] = {}
    for other in options.others:
        try:
            check_other_vocabulary(backend, other, options.loading)
        except ForwardCacheError as error:
            _fail(failed, other, error, options)
    return failed


def compared_others(
    backend: HFBackend,
    plan: DiffPlan,
    options: DiffOptions,
    *,
    positions: Sequence[int],
    floor: MeasuredFloor,
    failed: Mapping[str, str],
    steps: Steps,
    write: Write | None,
) -> Others:
    """Compare other models with the reference, and stages of a chain with their neighbours.

    Args:
        backend: The reference's. Nothing can be asked of it afterwards.
        plan: What is compared.
        options: What was asked for.
        positions: The texts, by their position in the plan.
        floor: What rounding makes in the reference.
        failed: By name: why a model can't be compared, where that is known.
        steps: Whom to tell.
        write: Takes what was found, model after model; None for nobody.

    Raises:
        InvalidInputError: a model or a text can't be compared and isn't to be skipped.
        MachineError: memory or disk are too small.
    """
    from forwardcache.hf.others.models import Reference

    found = Others(failed=dict(failed))
    stages = stages_of(plan) if options.chain else []
    steps.begin("reading texts for other models")
    reference = Reference.of(
        backend,
        [plan.texts[at] for at in positions],
        [plan.prompts[at].completion for at in positions],
        windows=None,
        view=plan.reference.of(backend),  # type: ignore[arg-type]  # what it gives isn't entered
        more_views=[view.of(backend) for view in stages],  # type: ignore[misc]
    )
    try:
        work = _Work(backend, plan, options, reference, list(positions), floor, found, steps)
        work.drop_failed_texts()
        reference.model.let_go()
        work.link_stages([view.name for view in stages])
        for other in options.others:
            if other.name not in found.failed:
                work.compare(other, write)
        work.end()
    finally:
        reference.model.close()
    return found


def _fail(
    failed: dict[str, str], other: OtherModel, error: Exception, options: DiffOptions
) -> None:
    """Notes why a model can't be compared, or ends the run with it.

    Raises:
        InvalidInputError: it isn't to be skipped.
        MachineError: so, and memory was too small.
    """
    if options.on_error != "skip":
        told = f"--other {other}: {error}"
        raise (MachineError if is_out_of_memory(error) else InvalidInputError)(told) from error
    failed[other.name] = str(error)


@dataclass(slots=True)
class _Work:
    """The comparison of other models with a reference whose texts were run."""

    backend: HFBackend
    plan: DiffPlan
    options: DiffOptions
    reference: Reference
    positions: list[int]
    floor: MeasuredFloor
    found: Others
    steps: Steps
    _last: tuple[str, Kept] | None = None
    _last_model: Model | None = None
    _failed: set[int] = field(default_factory=set)

    def drop_failed_texts(self) -> None:
        """Leaves out texts that the reference, or a stage of its model, failed on.

        Raises:
            InvalidInputError: one isn't to be skipped.
            MachineError: memory is too small for one that isn't.
        """
        states = self.reference.model.states
        for number, at in enumerate(self.positions):
            rows = [one.rows[number] for one in states]
            errors = [row for row in rows if isinstance(row, ForwardCacheError)]
            if errors:
                self.found.skipped.append(self.plan.skips(at, errors[0]))
                self._failed.add(number)

    def link_stages(self, names: Sequence[str]) -> None:
        """Holds each stage of the model itself against the one before it.

        Args:
            names: Of its views, in the order in which they were run behind the reference.
        """
        self._last = self.plan.reference.name, self.reference.model.kept()
        for number, name in enumerate(names, start=1):
            kept = self.reference.model.kept(number)
            if number > 1:
                self._link(name, kept)
            self._last = name, kept

    def compare(self, other: OtherModel, write: Write | None) -> None:
        """Holds one model against the reference, and in a chain against its neighbour.

        Args:
            other: The model.
            write: Takes what was found.

        Raises:
            InvalidInputError: it or a text can't be compared and isn't to be skipped.
            MachineError: memory or disk are too small.
        """
        self.steps.begin(f"reading texts with {other.name}")
        try:
            model, floor, facts = self._read(other)
        except (ForwardCacheError, MemoryError) as error:
            _fail(self.found.failed, other, error, self.options)
            return
        kept, is_kept = model.kept(), False
        try:
            self.steps.begin(f"comparing {other.name}")
            pair = self._pair(self.reference.model.kept(), kept)
            is_kept = self._note(other, pair, floor, facts, write) and self.options.chain
            if is_kept:
                self._link(other.name, kept)
        finally:
            if not is_kept:
                model.close()
        if is_kept:
            self._forget_last()
            self._last, self._last_model = (other.name, kept), model

    def end(self) -> None:
        """Forgets the last stage.

        Raises:
            InvalidInputError: no model is left that was compared, nor any view.
        """
        self._forget_last()
        failed = self.found.failed
        if failed and not self.found.found and not self.plan.views:
            name, why = next(iter(failed.items()))
            raise InvalidInputError(f"no other model can be compared; {name}: {why}")

    def _forget_last(self) -> None:
        if self._last_model is not None:
            self._last_model.close()
        self._last_model = None

    def _read(self, other: OtherModel) -> tuple[Model, Floor | None, Facts]:
        """The texts run by a model, which is let go, and what rounding makes in it."""
        backend = load_other(self.backend, other, self.options.loading)
        try:
            backend.progress = self.backend.progress
            model = self.reference.read_by(backend)
            floor = self._floor(backend, model)
            facts = {"view": other.name, "folder": str(Path(other.folder).absolute())}
            kind = {"dtype": str(backend.model.dtype).removeprefix("torch.")}
            model.let_go()
        finally:
            backend.close()
        return model, floor, facts | kind

    def _floor(self, backend: HFBackend, model: Model) -> Floor | None:
        """The larger floor of both models, on the texts that both read alike."""
        ours = self.floor.floor
        rows = dict(zip(self.positions, model.states[0].rows, strict=True))
        read = {at for at, row in rows.items() if not isinstance(row, ForwardCacheError)}
        sample = [at for at in self.floor.positions if at in read]
        if ours is None or not sample:
            return ours
        try:
            theirs = backend.rounding_floor(
                [self.plan.texts[at] for at in sample],
                reference=model.states[0].spec.view_id,
                completions=[self.plan.prompts[at].completion for at in sample],
                reruns=RERUNS,
                seed=SEED,
                skip_first=self.plan.skip_first,
            )
        except ForwardCacheError:
            # What it is held against is the reference's then; its blocks can't be told.
            return ours
        return larger([ours, theirs])

    def _pair(self, ours: Kept, theirs: Kept) -> Pair:
        from forwardcache.hf.others.models import paired

        most = self.backend._most_bytes(None)
        return paired(ours, theirs, self.reference.texts.tokenizer, most)

    def _note(
        self, other: OtherModel, pair: Pair, floor: Floor | None, facts: Facts, write: Write | None
    ) -> bool:
        """Writes down what was found of a model; whether anything was."""
        items: list[PositionDifferences] = []
        skipped = []
        for number, one in enumerate(pair.differences()):
            at = self.positions[number]
            if isinstance(one, ForwardCacheError):
                items.append(_NOTHING)
                if number not in self._failed:
                    skipped.append(self.plan.skips(at, _named(other.name, one)))
                continue
            items.append(one)
            if write is not None:
                write(at, {other.name: one})
        positions = Positions.of(items, skip_first=self.plan.skip_first)
        if not len(positions) and not positions.left_out:
            why = skipped[0].reason if skipped else "no position of any text counts"
            _fail(self.found.failed, other, InvalidInputError(why), self.options)
            return False
        if write is not None or self.options.report is not None:
            folder = Path(other.folder)
            facts = facts | {"digest": folder_fingerprint(folder) if folder.is_dir() else None}
        self.found.found[other.name] = OtherFound(
            other,
            positions,
            floor,
            facts | {"skipped": [one.as_json() for one in skipped]},
            skipped,
            self._notes(other, pair),
            self._moved(pair, items) if self.options.report is not None else (),
        )
        return True

    def _notes(self, other: OtherModel, pair: Pair) -> list[str]:
        from forwardcache.hf.others.vocabulary import padding_note

        ours, theirs = pair.reference, pair.view
        first = self.plan.reference.name
        found = [padding_note(other.name, first, ours.head.vocab_size, theirs.head.vocab_size)]
        here, there = ours.states.ways.batches, theirs.states.ways.batches
        if here != there:
            found.append(
                f"{other.name} runs its rows otherwise than {first} does ({there}, not {here}), "
                "which rounds otherwise too."
            )
        return [note for note in found if note is not None]

    def _moved(self, pair: Pair, items: Sequence[PositionDifferences]) -> tuple[MovedPosition, ...]:
        """The positions that a model moved most; both heads are asked for their top tokens."""
        places = most_moved(items, skip_first=self.plan.skip_first, most=MOST)
        good = [(items[number], place) for number, place in places]
        tokenizer = self.reference.texts.tokenizer
        ours, theirs = (
            named_tops(tokenizer, dists, good) for dists in pair.top_tokens(places, k=TOP)
        )
        prompts = [self.plan.prompts[self.positions[number]] for number, _ in places]
        return tuple(
            moved_position(
                tokenizer, one, place, id_=str(prompt.id), line=prompt.line,
                reference_top=our_top, view_top=their_top,
            )
            for (one, place), prompt, our_top, their_top in zip(
                good, prompts, ours, theirs, strict=True
            )
        )  # fmt: skip

    def _link(self, name: str, kept: Kept) -> None:
        """Holds a stage against its neighbour, unless that is the reference."""
        assert self._last is not None
        neighbour, before = self._last
        if neighbour == self.plan.reference.name:
            return
        items = self._pair(before, kept).differences()
        known = [_NOTHING if isinstance(one, ForwardCacheError) else one for one in items]
        positions = Positions.of(known, skip_first=self.plan.skip_first)
        self.found.links[name] = neighbour, positions


def _named(name: str, error: ForwardCacheError) -> ForwardCacheError:
    """An error of a text that says which model it is of; memory stays memory."""
    if is_out_of_memory(error):
        return error
    return InvalidInputError(f"{name}: {error}")


def _nothing() -> PositionDifferences:
    none: Any = np.empty(0)
    return PositionDifferences(np.zeros(1, np.int64), *[none] * 9)


_NOTHING = _nothing()
"""In the place of a text that a model has nothing of, so that items keep their numbers."""
