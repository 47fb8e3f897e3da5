"""How much ``diff`` would run, and about how long that takes: told before it begins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from forwardcache.jobs.diff import detect as detection
from forwardcache.jobs.diff import measured
from forwardcache.jobs.diff.begun import Begun
from forwardcache.jobs.diff.detect import MOST_READS
from forwardcache.jobs.diff.kept import Kept
from forwardcache.jobs.diff.measured import RERUNS
from forwardcache.jobs.diff.nulls import Scale, are_known, scales
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.diff.others import passes_of_others
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.statistics.intervals import FEWEST_TEXTS

if TYPE_CHECKING:
    from forwardcache.jobs.session import Session

_MEASURED_TEXTS = 16
_MEASURED_TOKENS = 512


@dataclass(frozen=True, slots=True)
class Estimate:
    """What would be run.

    Attributes:
        texts: Texts that are compared; those that an unfinished run compared aren't among them.
        passes: Times that each of them is read: once a view, and once for the reference, and as
            often for other models.
        sampled: Texts that floor, nulls and the smallest visible scale are measured on.
        reruns: Times that each of these is read for the floor.
        nulls: Times for the nulls, and for the reference that they are held against.
        detect: Times for the smallest visible scale of all adapters, at most.
        forwards: Texts read in all.
        tokens: Tokens read in all.
        seconds: About how long that takes; None where it couldn't be measured.
        why_no_nulls: Why there are none although they were asked for.
        adapters: Adapters that are compared.
        loads: Times that one is loaded again, where not all are in memory at once.
        done: Texts that an unfinished run compared.
        of_others: Times that these are read all the same, for other models.
    """

    texts: int
    passes: int
    sampled: int
    reruns: int
    nulls: int
    detect: int
    forwards: int
    tokens: int
    seconds: float | None
    why_no_nulls: str | None = None
    adapters: int = 1
    loads: int = 0
    done: int = 0
    of_others: int = 0

    def as_json(self) -> dict[str, Any]:
        """By field."""
        return asdict(self)

    def line(self) -> str:
        """For a person."""
        of_sample = {
            "for the floor": self.reruns,
            "for nulls": self.nulls,
            "for --detect": self.detect,
        }
        more = ", ".join(f"{times:,} times {why}" for why, times in of_sample.items() if times)
        of_all = "of them" if self.texts else "are read"
        sampled = f", {self.sampled:,} {of_all} {more}" if more else ""
        without = "" if self.why_no_nulls is None else f"; no matched nulls: {self.why_no_nulls}"
        again = f", loaded {_counted(self.loads, 'time', 'times')}," if self.loads else ""
        of_many = f" with {self.adapters:,} adapters{again}" if self.adapters > 1 else ""
        return (
            f"{self._read()}{of_many}{sampled}: "
            f"{self.forwards:,} forwards of {_counted(self.tokens, 'token', 'tokens')}, "
            f"{self._time()}{without}"
        )

    def _read(self) -> str:
        """How often texts are read: those of a run that goes on, and those that it has done."""
        found = []
        if self.texts:
            what = _counted(self.texts, "text is", "texts are")
            found.append(f"{what} read {self.passes:,} times")
        if self.done and self.of_others:
            times = _counted(self.of_others, "time", "times")
            found.append(f"{self.done:,} of before {times} for other models")
        return ", ".join(found) or "no text is left to be compared"

    def _time(self) -> str:
        if self.seconds is None:
            return "for an unknown time"
        return f"about {timedelta(seconds=max(1, round(self.seconds)))}"


def _counted(count: int, one: str, more: str) -> str:
    return f"{count:,} {one if count == 1 else more}"


def estimate(
    session: Session, plan: DiffPlan, options: DiffOptions, begun: Begun | None = None
) -> Estimate:
    """What a run would take; a few texts are run to tell.

    Args:
        session: The loaded model.
        plan: What would be compared.
        options: What was asked for.
        begun: What is known already; None for nothing.
    """
    from forwardcache.hf.scoring.rehearsal import loads_of_adapters

    begun = Begun.anew(plan) if begun is None else begun
    passes, left = 1 + len(plan.views), plan.lengths[begun.done :]
    of_others = passes_of_others(plan, options)
    sample = plan.sample()
    reruns = RERUNS if begun.kept.find(measured.KEPT) is None else 0
    reruns += RERUNS * len(options.others)
    nulls = (options.nulls + 1) * len(_missing_nulls(plan, options, begun.kept))
    detect = 0
    if len(sample) >= FEWEST_TEXTS:
        detect = MOST_READS * len(_undetected(plan, options, begun.kept))
    of_sample = reruns + nulls + detect
    tokens = passes * sum(left) + of_others * sum(plan.lengths)
    tokens += of_sample * sum(plan.lengths[at] for at in sample)
    rate = _seconds_a_token(session, plan)
    most, load = loads_of_adapters(session.backend)
    loads = _loads(plan, options, begun, most)
    return Estimate(
        texts=len(left),
        passes=passes + of_others,
        sampled=len(sample),
        reruns=reruns,
        nulls=nulls,
        detect=detect,
        forwards=passes * len(left) + of_others * len(plan.lengths) + of_sample * len(sample),
        tokens=tokens,
        seconds=None if rate is None else rate * tokens + load * loads,
        why_no_nulls=plan.why_no_nulls,
        adapters=len({view.adapter for view in plan.views if view.kind != "base"}),
        loads=loads,
        done=begun.done,
        of_others=of_others,
    )


def _loads(plan: DiffPlan, options: DiffOptions, begun: Begun, most: int | None) -> int:
    """How often an adapter is loaded again: of more than are in memory, each once a step.

    Steps are a chunk of texts, the nulls, the smallest visible scale, and what moved most.
    """
    adapters = {view.adapter for view in plan.views if view.adapter is not None}
    if most is None or len(adapters) <= most:
        return 0
    chunks = sum(chunk.stop > begun.done for chunk in plan.chunks())
    of_nulls = {adapter for adapter, _ in _missing_nulls(plan, options, begun.kept)}
    of_moved = adapters if options.report is not None else ()
    found = chunks * len(adapters) + len(of_nulls) + len(of_moved)
    return found + len(_undetected(plan, options, begun.kept))


def _undetected(plan: DiffPlan, options: DiffOptions, kept: Kept) -> list[str | None]:
    """The adapters whose smallest visible scale is asked for and not known yet."""
    whole = dict.fromkeys(view.adapter for view in plan.views if view.is_whole_adapter)
    if not options.detect:
        return []
    return [adapter for adapter in whole if kept.find(detection.KEPT, adapter or "") is None]


def _missing_nulls(plan: DiffPlan, options: DiffOptions, kept: Kept) -> list[Scale]:
    """Whose nulls aren't known yet, and at what factor."""
    if not options.nulls or plan.why_no_nulls is not None:
        return []
    return [scale for scale in scales(plan) if not are_known(kept, scale, options.nulls)]


def _seconds_a_token(session: Session, plan: DiffPlan) -> float | None:
    """From a comparison of some texts, the longest first; None where they can't be compared.

    What makes the figures of a position takes longer than the forward of a small model, so that a
    forward alone would promise too little.
    """
    from forwardcache.jobs.diff.compared import differences

    chosen = _measured_texts(plan.lengths)
    took = 0.0
    # What comes first is slower than what is like it.
    for _ in range(2):
        began = time.perf_counter()
        found = differences(session.backend, plan, plan.views[:1] or (plan.reference,), chosen)
        took = time.perf_counter() - began
    if any(isinstance(one, Exception) for items in found.values() for one in items):
        return None
    return took / ((2 if plan.views else 1) * sum(plan.lengths[at] for at in chosen))


def _measured_texts(lengths: Sequence[int]) -> list[int]:
    """The longest text, and others spread over the input while there is room for them."""
    chosen = [max(range(len(lengths)), key=lengths.__getitem__)]
    room = _MEASURED_TOKENS - lengths[chosen[0]]
    step = -(-len(lengths) // _MEASURED_TEXTS)
    for at in range(0, len(lengths), step):
        if at not in chosen and lengths[at] <= room:
            chosen.append(at)
            room -= lengths[at]
    return chosen
