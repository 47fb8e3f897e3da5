"""Claims: every test that docs/threats.md names is there, and every row names one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
PAGE = (ROOT / "docs" / "threats.md").read_text("utf-8")
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.splitlines()
    if line.startswith("| ") and line.count("|") == 4 and "what stops it" not in line
]
RUST = "\n".join(path.read_text("utf-8") for path in (ROOT / "rust").rglob("*.rs"))


def named(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_there_are_rows() -> None:
    assert len(ROWS) > 15


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0][:40])
def test_what_stops_a_threat_is_shown_by_a_test_that_is_there(row: list[str]) -> None:
    names = named(row[2])
    assert names, row
    text = RUST
    for name in names:
        if name.endswith(".py"):
            text = (ROOT / "tests" / name).read_text("utf-8")
            continue
        start = re.escape(name.rstrip("…"))
        end = r"\w*" if name.endswith("…") else ""
        where = text if name.startswith("test_") else RUST
        assert re.search(rf"\b(?:def|fn) {start}{end}\(", where), name
