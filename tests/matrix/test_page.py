"""Claims: ``docs/models.md`` has a row for every type of the versions that it names, and counts
what its rows say; a run fails for what is wrong, for a crash, and for too many refused streams.
"""

import re
from importlib.metadata import version

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from tests.hf.adapter_cases import CASES
from tools.matrix.page import LIBRARIES, MOST_STREAMS_REFUSED, OUTCOMES, faults, page
from tools.matrix.pool import ROOT
from tools.matrix.verdict import Finding, Verdict

PAGE = (ROOT / "docs" / "models.md").read_text("utf-8")


def rows(title: str, text: str = PAGE) -> list[list[str]]:
    """Cells of the table below a heading, without its head."""
    section = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.split(" | ")] for line in lines[2:]]


def test_the_page_says_when_and_with_what_it_was_written() -> None:
    names = ", ".join(rf"{name} (\S+)" for name in LIBRARIES)
    assert re.search(rf"^Seen on \d{{4}}-\d\d-\d\d with {names};", PAGE, re.MULTILINE)


def test_the_page_has_every_type_and_every_adapter() -> None:
    if f"transformers {version('transformers')}," not in PAGE:
        pytest.skip("the page is about other versions than those that are installed")
    names = [cells[0].lstrip("| ") for cells in rows("Types")]
    assert names == sorted(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
    assert [cells[0].lstrip("| ") for cells in rows("Adapters")] == list(CASES)


def test_the_counts_are_those_of_the_rows() -> None:
    types = rows("Types")
    built = [cells for cells in types if cells[1] != "not built"]
    assert f"\n{len(types)} types, {len(built)} built.\n" in PAGE
    for outcome, cells in zip(OUTCOMES, rows("Counts"), strict=True):
        assert int(cells[1]) == sum(row[1] == outcome for row in built)
        assert int(cells[4].rstrip(" |")) == sum(row[5].split(",")[0] == outcome for row in built)


def verdict(name: str, **outcomes: str) -> Verdict:
    parts = {part: Finding(outcome) for part, outcome in outcomes.items()}  # type: ignore[arg-type]
    return Verdict(name, "type", parts)


@pytest.mark.parametrize("outcome", ["WRONG", "crash"])
def test_a_run_fails_for_what_is_wrong_and_for_a_crash(outcome: str) -> None:
    assert faults([verdict("one", scoring="ok", streams=outcome)])
    assert not faults([verdict("one", scoring="ok", streams="ok")])


def test_a_run_fails_if_too_many_types_that_are_scored_have_no_streams() -> None:
    few = [
        verdict(f"type {n}", scoring="ok", streams="refused") for n in range(MOST_STREAMS_REFUSED)
    ]
    assert not faults(few)
    assert not faults([*few, verdict("none", scoring="refused", streams="refused")])
    assert faults([*few, verdict("one more", scoring="ok", streams="refused")])


def test_a_row_says_how_a_model_is_run_and_why_not() -> None:
    one = verdict("one", scoring="ok", streams="refused")
    one.how, one.parts["streams"].reason = "packed, shared prefixes; streams refused", "a | b"
    unmade = Verdict("two", "type", not_built="ImportError: timm")
    found = rows("Types", page([unmade, one], []))
    assert found[0][1:3] == ["ok", "packed, shared prefixes"]
    assert found[0][-1] == "a \\| b |"
    assert found[1][1] == "not built"
