"""The sections of RESULTS.md: how they are asked for, their figures, and how they get there."""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from benches.machine import refuse_debug_build

BESIDE = os.environ.get("BESIDE", "")
"""The folder of another build's sources, its core in them, which this build is measured beside."""

TODAY = "0df6753"
"""The commit that "today" is in the tables, beside which the bounds were set."""


@dataclass(frozen=True)
class Line:
    """A figure and its two bounds: ``must`` decides, and ``aim`` says how far one may get.

    Attributes:
        name: What is measured.
        must: The bound as it is printed, without its unit: "0.65", "1/12".
        aim: The other bound; empty where there is none.
        measured: What was measured.
        today: What it was at the commit ``TODAY``, with its unit; empty where nobody said.
        unit: What stands behind each number, with its space: " x".
        at_least: Whether the bounds are least values; most values otherwise.
        is_void: Whether what it is measured beside can't be compared with.
    """

    name: str
    must: str
    aim: str
    measured: float
    today: str = ""
    unit: str = ""
    at_least: bool = False
    is_void: bool = False

    def is_within(self, bound: str) -> bool:
        """Whether ``measured`` keeps ``bound``; a measurement that is no number keeps none."""
        limit = float(Fraction(bound.replace(",", "")))
        return self.measured >= limit if self.at_least else self.measured <= limit

    @property
    def row(self) -> str:
        """The line of the table below ``HEAD``."""
        side = "at least" if self.at_least else "at most"
        bounds = [f"{side} {bound}{self.unit}" if bound else "" for bound in (self.must, self.aim)]
        cells = [self.name, self.today, *bounds, number(self.measured) + self.unit]
        return f"| {' | '.join(cells)} | {self._verdict()} |"

    def _verdict(self) -> str:
        if self.is_void:
            return "void"
        if self.aim and self.is_within(self.aim):
            return "aim met"
        return verdict(self.is_within(self.must))


HEAD = (f"| figure | today ({TODAY}) | must | aim | measured | |", "|---|---|---|---|---|---|")


def table(lines: Iterable[Line]) -> list[str]:
    """The lines as a Markdown table, with its head."""
    return [*HEAD, *(line.row for line in lines)]


def number(value: float) -> str:
    """Three figures, and all of those before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def publish(section: Callable[..., str], doc: str | None, **defaults: float | str) -> None:
    """Measures, prints the section, with ``--write FILE`` puts it there, tells the time it took.

    Each of ``defaults`` is an argument of ``section`` and an option of the command line.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the section into FILE")
    for name, value in defaults.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help="default: %(default)s")
    options = vars(parser.parse_args())
    path = options.pop("write")
    refuse_debug_build()
    began = time.monotonic()
    text = section(**options)
    print(text)
    print(f"took {time.monotonic() - began:,.0f} s", file=sys.stderr)
    if path:
        write_section(path, text)


def write_section(path: Path, text: str) -> None:
    """Replaces the section of ``path`` that has the title of ``text``; leaves the others alone."""
    title = text.split("\n", 1)[0]
    before = path.read_text() if path.exists() else "# Results\n"
    sections = before.split("\n## ")
    kept = [each for each in sections if f"\n## {each}".split("\n")[1] != title]
    path.write_text("\n## ".join([kept[0], text.removeprefix("## "), *kept[1:]]))


def verdict(is_met: bool) -> str:
    return "met" if is_met else "**missed**"
