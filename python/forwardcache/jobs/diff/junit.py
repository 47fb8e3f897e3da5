"""What a comparison came to as JUnit XML, which continuous integration shows.

One test case a view and bound: broken is a failure, and undecided is an error, since readers count
what is skipped as passed. Another model that couldn't be compared is an error too where there are
bounds, and skipped without them.
A view without bounds is one passing case, so that its figures are shown; its text begins with there
being no bound, and says what is in no figure.
Times aren't given: what a bound took is nothing that was measured.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from xml.etree import ElementTree

from forwardcache.jobs.diff.found import NUMBERS
from forwardcache.jobs.whole_file import whole_file
from forwardcache.statistics import DiffResult, Outcome, ViewDifference, verdict_sentences
from forwardcache.statistics.sentences import left_out_notes

SUITE = "forwardcache diff"
_CLASS = "forwardcache.diff"
NO_BOUND = "No bound was set: this case says what was found, and passes whatever that is."
_TAGS = {"broken": "failure", "undecided": "error"}
# XML 1.0 has no way to write any other character, not even as a reference to its number.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


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
        The format has no standard; elements and attributes are those that the schema of Jenkins'
        plugin xunit (``junit-10.xsd``) allows.
    """
    with whole_file(path, force=force) as part:
        part.write(as_junit(result))


def as_junit(result: DiffResult) -> bytes:
    """``result`` as JUnit XML, in UTF-8.

    Args:
        result: What a run found, with the outcomes of its bounds.
    """
    cases = [case for view in result.views for case in _cases(view)]
    cases += _cases_without_figures(result)
    kinds = Counter(part.tag for case in cases for part in case)
    counts = {
        "tests": str(len(cases)),
        "failures": str(kinds["failure"]),
        "errors": str(kinds["error"]),
    }
    root = ElementTree.Element("testsuites", {"name": SUITE, **counts})
    suite = ElementTree.SubElement(
        root, "testsuite", {"name": SUITE, **counts, "skipped": str(kinds["skipped"])}
    )
    suite.append(_properties(result))
    suite.extend(cases)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def _properties(result: DiffResult) -> ElementTree.Element:
    told = {
        "reference": result.reference,
        "texts": str(result.texts),
        "positions": str(result.positions),
        "skipped texts": str(result.skipped),
    }
    found = ElementTree.Element("properties")
    for name, value in told.items():
        ElementTree.SubElement(found, "property", {"name": name, "value": _in_xml(value)})
    return found


def _cases(view: ViewDifference) -> Iterable[ElementTree.Element]:
    if view.outcomes:
        return [_case(view.view, outcome) for outcome in view.outcomes]
    case = _named(f"{view.view} measured")
    said = [NO_BOUND, *verdict_sentences(view), *left_out_notes([view])]
    ElementTree.SubElement(case, "system-out").text = _in_xml("\n".join(said))
    return [case]


def _cases_without_figures(result: DiffResult) -> Iterable[ElementTree.Element]:
    """Of each view that was asked for and couldn't be compared."""
    has_bounds = any(one.bound != NUMBERS for view in result.views for one in view.outcomes)
    for name, why in result.not_compared.items():
        case, line = _named(f"{name} compared"), _in_xml(f"{name} was not compared: {why}")
        if has_bounds:
            told = {"message": line, "type": "undecided"}
            ElementTree.SubElement(case, "error", told).text = line
        else:
            ElementTree.SubElement(case, "skipped", {"message": line})
        yield case


def _case(view: str, outcome: Outcome) -> ElementTree.Element:
    case, line = _named(f"{view} {outcome.bound}"), _in_xml(outcome.line)
    tag = _TAGS.get(outcome.state)
    if tag is None:
        ElementTree.SubElement(case, "system-out").text = line
    else:
        told = ElementTree.SubElement(case, tag, {"message": line, "type": outcome.state})
        told.text = line
    return case


def _named(name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"classname": _CLASS, "name": _in_xml(name)})


def _in_xml(text: str) -> str:
    """``text`` with every character that XML can't have written as Python would write it."""
    return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
