"""What ``forwardcache diff`` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.other_models import OtherModel
from forwardcache.jobs.skips import OnError

if TYPE_CHECKING:
    from forwardcache.statistics import Bounds

NULLS = 20
"""Matched nulls unless another number is asked for: 19 are the fewest that allow p = 0.05."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffOptions:
    """What was asked for; ``forwardcache diff --help`` describes each."""

    loading: ModelOptions
    texts: str
    views: str | None = None
    lambdas: str | None = None
    reference: str = "base"
    nulls: int = NULLS
    detect: bool = False
    group_by: str | None = None
    skip_first: int = 0
    out: Path | None = None
    report: Path | None = None
    junit: Path | None = None
    force: bool = False
    resume: bool = False
    expect: str | None = None
    max_kl: float | None = None
    max_ppl_ratio: float | None = None
    min_same_top: float | None = None
    limit: int | None = None
    on_error: OnError = "fail"
    strict: bool = False
    dry_run: bool = False
    json: bool = False
    others: tuple[OtherModel, ...] = ()
    chain: bool = False

    def bounds(self) -> Bounds:
        """What the views are held to.

        Raises:
            InvalidInputError: a bound that nothing could be held to.
        """
        from forwardcache.statistics import Bounds

        return Bounds(
            expect=self.expect,
            max_kl=self.max_kl,
            max_ppl_ratio=self.max_ppl_ratio,
            min_same_top=self.min_same_top,
        )
