"""Stages of a model, each against the first and against the one before it.

What a merge or a quantisation adds is seen against its neighbour; what all of them come to, against
the first. Divergences don't add up along a chain, so that both are needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forwardcache.statistics.figures import Figures
from forwardcache.statistics.spread import finite


@dataclass(frozen=True, slots=True)
class Stage:
    """One stage of a chain behind its first.

    Attributes:
        view: Its id.
        against_first: Its figures against the first stage.
        neighbour: Id of the stage before it.
        against_neighbour: Its figures against that one.
    """

    view: str
    against_first: Figures
    neighbour: str
    against_neighbour: Figures

    def as_json(self) -> dict[str, Any]:
        """The stage's entry in ``chain``; what is no finite number is None."""
        return {
            "view": self.view,
            "against_first": _said(self.against_first),
            "neighbour": self.neighbour,
            "against_neighbour": _said(self.against_neighbour),
        }


def chained(
    first: str, views: Mapping[str, Figures], links: Mapping[str, tuple[str, Figures]]
) -> tuple[Stage, ...]:
    """The stages of a chain, in the order of ``views``.

    Args:
        first: Id of the first stage.
        views: By id of each later one: its figures against the first.
        links: By id of each that follows another than the first: that one, and the figures against
            it.
    """
    return tuple(
        Stage(view, figures, *links.get(view, (first, figures))) for view, figures in views.items()
    )


def stages_as_json(stages: Sequence[Stage]) -> list[dict[str, Any]] | None:
    """``chain`` of the JSON object; None without one.

    Args:
        stages: All of them.
    """
    return [stage.as_json() for stage in stages] or None


def _said(figures: Figures) -> dict[str, Any]:
    return {
        "kl": {"mean": finite(figures.kl.mean), "interval": figures.kl.interval.as_json()},
        "same_top": finite(figures.same_top),
        "same_top_interval": figures.same_top_interval.as_json(),
    }
