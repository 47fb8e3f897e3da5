"""A figure's line says whether its bounds are kept, and in which direction they bind."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from benches.sections import HEAD, Line, number, table, write_section


@pytest.mark.parametrize(
    ("measured", "is_least", "said"),
    [
        (0.05, False, "met"),
        (1 / 25, False, "aim met"),
        (0.09, False, "**missed**"),
        (math.nan, False, "**missed**"),
        (0.05, True, "aim met"),
        (0.01, True, "**missed**"),
    ],
)
def test_the_must_decides_and_the_aim_is_told(measured: float, is_least: bool, said: str) -> None:
    line = Line("a hit", "1/12", "1/25", measured, "504 us", " x", at_least=is_least)
    side = "at least" if is_least else "at most"
    assert line.row.startswith(f"| a hit | 504 us | {side} 1/12 x | {side} 1/25 x | ")
    assert line.row.endswith(f" | {said} |")


def test_a_line_may_lack_an_aim_and_be_void() -> None:
    alone = Line("entries", "1,000", "", 1_234.5, at_least=True)
    assert alone.row == "| entries |  | at least 1,000 |  | 1,234 | met |"
    assert Line("a", "1", "", 0.5, is_void=True).row.endswith(" | 0.5 | void |")
    assert table([alone]) == [*HEAD, alone.row]
    assert [number(each) for each in (0.0421, 7.104, 99.96, 123_456.7)] == [
        "0.0421",
        "7.1",
        "100",
        "123,457",
    ]


def test_a_section_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    for text in ("## A\n\n1\n", "## B\n\n2\n", "## A\n\n3\n"):
        write_section(path, text)
    assert "1" not in path.read_text()
    assert path.read_text().count("## A\n\n3\n") == path.read_text().count("## B\n\n2\n") == 1
