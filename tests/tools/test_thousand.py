"""Claims: the table of 1,000 GPUs is made of what the results say, and says what isn't measured."""

from __future__ import annotations

import pytest

from tools.thousand import LACKING, PAGE, RESULTS, read, replaced, table

DRIVER = "## The driver's time a row\n\n- How: 0.50 us a row where workers write and 130.0 us\n"
PARTS = "## Parts and their merging\n\n| rows of parts merged to JSON lines | 60,000 |\n"


def test_the_results_have_what_it_is_made_of() -> None:
    found = read(RESULTS.read_text("utf-8"))
    assert [kind.name for kind in found.kinds] == ["top 256", "top 16", "`logprob_of`"]
    assert all(kind.driver_us > 0 for kind in found.kinds)


def test_figures_are_computed_and_what_lacks_is_told() -> None:
    results = RESULTS.read_text("utf-8")
    machines = results[results.index("## Many machines") :].split("\n## ")[0]
    whole = {line.split("|")[1].strip(): line for line in table(read(
        f"{machines}\n\n{DRIVER}\n{PARTS}"
    )).splitlines()}  # fmt: skip
    assert "| 1.9 h | 1.9 h | 1.9 h |" in whole["the GPUs: 300,000 rows a second"]
    assert whole["... GPUs that it keeps busy"].endswith("| 6,700 | 6,700 | 6,700 |")
    assert f"| 9.3 h | {LACKING} | {LACKING} |" in whole["one process merges parts to JSON lines"]
    without = table(read(machines))
    assert f"takes receipts of | {LACKING} | {LACKING} | {LACKING} |" in without


def test_the_page_has_a_table_that_can_be_replaced() -> None:
    page = PAGE.read_text("utf-8")
    assert replaced(replaced(page, "| a |"), "| a |") == replaced(page, "| a |")
    assert "\n| a |\n" in replaced(page, "| a |")
    with pytest.raises(ValueError, match="no table"):
        replaced("# A page\n", "| a |")
