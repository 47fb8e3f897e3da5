"""What limits 1,000 GPUs and 10^9 prompts, from what was measured: ``python -m tools.thousand``.

Reads ``benches/RESULTS.md`` (sections "Many machines", "The driver's time a row", "Parts and their
merging") and prints the table of ``docs/decisions/many-machines.md``; ``--write`` puts it there.
What isn't in the results yet is told as not measured.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benches" / "RESULTS.md"
PAGE = ROOT / "docs" / "decisions" / "many-machines.md"
HEADING = "## 1,000 GPUs and 10^9 prompts"

GPUS, PROMPTS, VIEWS = 1_000, 10**9, 2
ROWS_A_GPU = 300
"""Rows a second of one GPU: an assumption, which the page gives reasons for."""
CHUNK_PROMPTS = 256
LACKING = "not measured"

_A_SECOND = GPUS * ROWS_A_GPU
_ROWS = PROMPTS * VIEWS
_HOUR_S = 3600


@dataclass(frozen=True, slots=True)
class Kind:
    """What one kind of row was measured to take.

    Attributes:
        name: What it is called.
        row_bytes: As JSON.
        driver_us: In the process that reads and writes it.
        value_bytes: In Redis; None where that was not measured.
        put_us: In Redis.
    """

    name: str
    row_bytes: float
    driver_us: float
    value_bytes: float | None
    put_us: float | None


@dataclass(frozen=True, slots=True)
class Measured:
    """What the results say.

    Attributes:
        kinds: The kinds of rows.
        receipt_us: In the driver, of a row that a worker writes; None if that isn't there.
        merged_a_second: Rows of top 256 that one process merges to JSON lines in a second.
    """

    kinds: tuple[Kind, ...]
    receipt_us: float | None
    merged_a_second: float | None


def read(results: str) -> Measured:
    """The figures in the text of ``RESULTS.md``.

    Raises:
        ValueError: it has no rows of many machines.
    """
    machines = _section(results, "Many machines")
    kinds = tuple(
        _kind(machines, row, value)
        for row, value in (
            ("next_token_dist, top 256", "distribution, top 256"),
            ("next_token_dist, top 16", None),
            ("logprob_of", "log-probability"),
        )
    )
    driver = _section(results, "The driver's time a row")
    told = re.search(r"([\d.]+) us a row where workers write", driver)
    merged = _cells(_section(results, "Parts and their merging"), "rows of parts merged")
    return Measured(kinds, float(told[1]) if told else None, merged[0] if merged else None)


def table(found: Measured) -> str:
    """The table, a column a kind of row."""
    receipts, merged = found.receipt_us, found.merged_a_second
    rows: list[tuple[str, Callable[[Kind], str]]] = [
        (f"the GPUs: {_A_SECOND:,} rows a second", lambda _: _hours(_ROWS / _A_SECOND)),
        ("a driver that writes rows, a second", lambda one: _round(1e6 / one.driver_us)),
        ("... and so needs", lambda one: _hours(_ROWS * one.driver_us / 1e6)),
        ("... GPUs that it keeps busy", lambda one: _round(1e6 / one.driver_us / ROWS_A_GPU)),
        ("with `--parts`: rows a second that it takes receipts of", _known(receipts, _a_second)),
        ("... GPUs that it keeps busy", _known(receipts, _busy)),
        (
            "one process merges parts to JSON lines",
            lambda one: _hours(_ROWS / merged) if merged and one is found.kinds[0] else LACKING,
        ),
        ("rows as JSON, bytes", lambda one: _bytes(_ROWS * one.row_bytes)),
        (
            f"Ray's tasks, {CHUNK_PROMPTS} prompts each, a second: all GPUs",
            lambda _: _round(_A_SECOND / CHUNK_PROMPTS / VIEWS),
        ),
        (
            "a store of all values, bytes (sealed and in Redis)",
            lambda one: _bytes(_ROWS * one.value_bytes) if one.value_bytes else LACKING,
        ),
        (
            "Redis servers for all writes",
            lambda one: f"{_A_SECOND * one.put_us / 1e6:.0f}" if one.put_us else LACKING,
        ),
    ]
    head = f"| | {' | '.join(one.name for one in found.kinds)} |"
    lines = [head, "|---" * (1 + len(found.kinds)) + "|"]
    lines += [f"| {name} | {' | '.join(map(of, found.kinds))} |" for name, of in rows]
    return "\n".join(lines)


def replaced(page: str, new: str) -> str:
    """The page with another table below its heading.

    Raises:
        ValueError: it has no such table.
    """
    before, heading, after = page.partition(f"{HEADING}\n")
    text, count = re.subn(r"(?:^\|.*\n)+", lambda _: f"{new}\n", after, count=1, flags=re.M)
    if not heading or not count:
        raise ValueError(f"there is no table below {HEADING!r}")
    return before + heading + text


def _section(results: str, title: str) -> str:
    found = re.search(rf"^## {re.escape(title)}.*?(?=^## |\Z)", results, re.M | re.S)
    return found[0] if found else ""


def _cells(section: str, name: str) -> Sequence[float]:
    """The numbers in the row of a table that begins with a name."""
    found = re.search(rf"^\| {re.escape(name)}[^|]*\|(.*)\|$", section, re.M)
    return [float(cell.replace(",", "")) for cell in found[1].split("|")] if found else []


def _kind(section: str, row: str, value: str | None) -> Kind:
    cells = _cells(section, row)
    if not cells:
        raise ValueError(f"no row {row!r} in the section of many machines")
    row_bytes, reading_us, writing_us, _ = cells
    name = row.removeprefix("next_token_dist, ")
    if value is None:
        return Kind(name, row_bytes, reading_us + writing_us, None, None)
    _, in_redis, _, _, put_us, _ = _cells(section, value)
    return Kind(f"`{name}`" if "_" in name else name, row_bytes, reading_us + writing_us,
                in_redis, put_us)  # fmt: skip


def _known(value: float | None, told: Callable[[float], str]) -> Callable[[Kind], str]:
    text = LACKING if value is None else told(value)
    return lambda _: text


def _a_second(us: float) -> str:
    return _round(1e6 / us)


def _busy(us: float) -> str:
    return _round(1e6 / us / ROWS_A_GPU)


def _round(value: float) -> str:
    """Two digits that count, and all before the point."""
    return f"{float(f'{value:.1e}'):,.0f}"


def _hours(seconds: float) -> str:
    hours = seconds / _HOUR_S
    return f"{hours:.0f} h" if hours >= 10 else f"{hours:.1f} h"


def _bytes(count: float) -> str:
    return f"{count / 1e12:.1f} TB" if count >= 1e12 else f"{count / 1e12:.2f} TB"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the table, and writes it where that was asked for."""
    parser = argparse.ArgumentParser(prog="python -m tools.thousand")
    parser.add_argument("--write", action="store_true", help=f"put it into {PAGE.name}")
    given = parser.parse_args(argv)
    found = table(read(RESULTS.read_text("utf-8")))
    print(found)
    if given.write:
        PAGE.write_text(replaced(PAGE.read_text("utf-8"), found), "utf-8")


if __name__ == "__main__":
    main()
