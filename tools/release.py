"""Checks that a version may be released: ``python -m tools.release [TAG]``.

The version stands in ``Cargo.toml`` alone. The newest heading of the change log is about it
(``## 1.2.0 (unreleased)``, or a day) or about what comes next (``## Unreleased``); with a tag, the
tag and the heading are the version's, and the heading has its day.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

from tools.crates import ROOT, version

_HEADING = re.compile(r"^## (.+)$", re.MULTILINE)
_OF_VERSION = re.compile(r"(?P<version>\S+) \((?P<day>unreleased|\d{4}-\d\d-\d\d)\)")


def flaws(root: Path = ROOT, tag: str | None = None) -> Iterator[str]:
    """What is against a release, one sentence each.

    Args:
        root: Folder of the sources.
        tag: ``v`` and the version; None before there is one.
    """
    stated = version(root)
    heading = _HEADING.search((root / "CHANGELOG.md").read_text("utf-8"))
    if heading is None:
        yield "CHANGELOG.md has no heading"
        return
    if tag is not None and tag != f"v{stated}":
        yield f"the tag is {tag}, but Cargo.toml says {stated}: it has to be v{stated}"
    of_version = _OF_VERSION.fullmatch(heading[1])
    if of_version is None:
        if heading[1] != "Unreleased" or tag is not None:
            wanted = f"'{stated} (YYYY-MM-DD)'"
            yield f"CHANGELOG.md begins with '{heading[1]}', not with {wanted}"
    elif of_version["version"] != stated:
        yield f"CHANGELOG.md is about {of_version['version']}, but Cargo.toml says {stated}"
    elif tag is not None and of_version["day"] == "unreleased":
        yield f"CHANGELOG.md calls {stated} unreleased: it has to have its day"


def main(arguments: list[str]) -> int:
    """Tell the flaws; 1 if there are any."""
    found = list(flaws(tag=arguments[0] if arguments else None))
    for flaw in found:
        print(flaw, file=sys.stderr)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
