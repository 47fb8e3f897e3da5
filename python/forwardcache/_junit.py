"""JUnit XML, which continuous integration shows: one suite of cases.

Source:
    The format has no standard; elements and attributes are those that the schema of Jenkins'
    plugin xunit (``junit-10.xsd``) allows.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from xml.etree import ElementTree

__all__ = ["case", "document", "in_xml"]

# XML 1.0 has no way to write any other character, not even as a reference to its number.
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def document(
    suite: str, cases: Iterable[ElementTree.Element], properties: Mapping[str, str]
) -> bytes:
    """A suite as a whole file, in UTF-8.

    Args:
        suite: Its name.
        cases: Made by ``case``.
        properties: What is told of the run, by name.
    """
    cases = list(cases)
    kinds = Counter(part.tag for each in cases for part in each)
    counts = {
        "tests": str(len(cases)),
        "failures": str(kinds["failure"]),
        "errors": str(kinds["error"]),
    }
    root = ElementTree.Element("testsuites", {"name": suite, **counts})
    inner = ElementTree.SubElement(
        root, "testsuite", {"name": suite, **counts, "skipped": str(kinds["skipped"])}
    )
    told = ElementTree.SubElement(inner, "properties")
    for name, value in properties.items():
        ElementTree.SubElement(told, "property", {"name": name, "value": in_xml(value)})
    inner.extend(cases)
    ElementTree.indent(root)
    written: bytes = ElementTree.tostring(root, encoding="utf-8", xml_declaration=True)
    return written + b"\n"


def case(
    group: str,
    name: str,
    tag: str | None = None,
    text: str | None = None,
    *,
    seconds: float | None = None,
    **attributes: str,
) -> ElementTree.Element:
    """One case, which passes unless ``tag`` says otherwise.

    Args:
        group: Its class name; readers take what stands before the last dot for a package.
        name: Its name.
        tag: ``"failure"``, ``"error"``, ``"skipped"`` or ``"system-out"``; None for none.
        text: What stands in it.
        seconds: How long it took; None where nothing was measured.
        **attributes: Of the tag.
    """
    took = {} if seconds is None else {"time": f"{seconds:.3f}"}
    made = ElementTree.Element("testcase", {"classname": group, "name": in_xml(name), **took})
    if tag is not None:
        said = {key: in_xml(value) for key, value in attributes.items()}
        ElementTree.SubElement(made, tag, said).text = None if text is None else in_xml(text)
    return made


def in_xml(text: str) -> str:
    """``text`` with every character that XML can't have written as Python would write it."""
    return _NOT_XML.sub(lambda found: found[0].encode("unicode_escape").decode(), text)
