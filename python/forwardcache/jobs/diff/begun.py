"""Where a run stands when it begins: at nothing, or where an unfinished one ended."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from forwardcache.jobs.diff.found import Found
from forwardcache.jobs.diff.kept import Kept
from forwardcache.jobs.diff.plan import DiffPlan
from forwardcache.jobs.diff.resume import take_up
from forwardcache.jobs.diff.rows import COLUMNS
from forwardcache.jobs.metadata import Facts
from forwardcache.jobs.results import PartFile, measured_of


@dataclass(frozen=True, slots=True)
class Begun:
    """What a run goes on with.

    Attributes:
        found: What is known of the texts that are done.
        kept: What else is known, and where more of it is kept.
        done: Texts that are done.
        part: Where rows go; None for nowhere.
    """

    found: Found
    kept: Kept
    done: int = 0
    part: PartFile | None = None

    @classmethod
    def anew(cls, plan: DiffPlan) -> Begun:
        """Nothing is known, and nothing is kept."""
        return cls(Found({view.name: [] for view in plan.views}), Kept())


@contextmanager
def begun(
    plan: DiffPlan, out: Path | None, job: Facts, *, force: bool, resume: bool
) -> Iterator[Begun]:
    """What a run with rows in ``out`` goes on with; what it keeps until they are published stays.

    Args:
        plan: What is compared.
        out: The final name of the rows; None keeps nothing.
        job: What decides the rows, as ``deciding`` gives it.
        force: Whether a file under that name is replaced.
        resume: Whether an unfinished run is gone on with.

    Raises:
        InvalidInputError: another process writes the file or has finished it meanwhile, or what is
            there is of another job.
    """
    if out is None:
        yield Begun.anew(plan)
        return
    part = PartFile(out, job, force=force, resume=resume, prompts=plan.prompts, columns=COLUMNS)
    try:
        kept = Kept(measured_of(out))
        try:
            found, done = take_up(part, plan, kept)
            yield Begun(found, kept, done, part)
        finally:
            kept.close()
    finally:
        part.close()
