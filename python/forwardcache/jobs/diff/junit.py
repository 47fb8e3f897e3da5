"""What a comparison came to as JUnit XML, which continuous integration shows.

One test case a view and bound: broken is a failure, and undecided is an error, since readers count
what is skipped as passed. Another model that couldn't be compared is an error too where there are
bounds, and skipped without them.
A view without bounds is one passing case, so that its figures are shown; its text begins with there
being no bound, and says what is in no figure.
Times aren't given: what a bound took is nothing that was measured.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from forwardcache._junit import case, document
from forwardcache.jobs.diff.found import NUMBERS
from forwardcache.jobs.whole_file import whole_file
from forwardcache.statistics import DiffResult, Outcome, ViewDifference, verdict_sentences
from forwardcache.statistics.sentences import left_out_notes

SUITE = "forwardcache diff"
_CLASS = "forwardcache.diff"
NO_BOUND = "No bound was set: this case says what was found, and passes whatever that is."
_TAGS = {"broken": "failure", "undecided": "error"}


def write_junit(path: Path, result: DiffResult, *, force: bool = True) -> None:
    """Write what ``result`` came to as JUnit XML.

    Args:
        path: The file; it has this name only when it is whole.
        result: What a run found, with the outcomes of its bounds.
        force: Whether a file under that name is replaced.

    Raises:
        InvalidInputError: another command writes it, or one is there and ``force`` isn't set.
        MachineError: the disk is full or fails.

    Source:
        As of ``forwardcache._junit``.
    """
    with whole_file(path, force=force) as part:
        part.write(as_junit(result))


def as_junit(result: DiffResult) -> bytes:
    """``result`` as JUnit XML, in UTF-8.

    Args:
        result: What a run found, with the outcomes of its bounds.
    """
    cases = [each for view in result.views for each in _cases(view)]
    told = {
        "reference": result.reference,
        "texts": str(result.texts),
        "positions": str(result.positions),
        "skipped texts": str(result.skipped),
    }
    return document(SUITE, [*cases, *_cases_without_figures(result)], told)


def _cases(view: ViewDifference) -> Iterable[ElementTree.Element]:
    if view.outcomes:
        return [_case(view.view, outcome) for outcome in view.outcomes]
    said = [NO_BOUND, *verdict_sentences(view), *left_out_notes([view])]
    return [case(_CLASS, f"{view.view} measured", "system-out", "\n".join(said))]


def _cases_without_figures(result: DiffResult) -> Iterable[ElementTree.Element]:
    """Of each view that was asked for and couldn't be compared."""
    has_bounds = any(one.bound != NUMBERS for view in result.views for one in view.outcomes)
    for name, why in result.not_compared.items():
        line = f"{name} was not compared: {why}"
        if has_bounds:
            yield case(_CLASS, f"{name} compared", "error", line, message=line, type="undecided")
        else:
            yield case(_CLASS, f"{name} compared", "skipped", message=line)


def _case(view: str, outcome: Outcome) -> ElementTree.Element:
    name, line = f"{view} {outcome.bound}", outcome.line
    tag = _TAGS.get(outcome.state)
    if tag is None:
        return case(_CLASS, name, "system-out", line)
    return case(_CLASS, name, tag, line, message=line, type=outcome.state)
