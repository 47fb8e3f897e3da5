"""Claims: the documented queries of DuckDB count every event of a trace, also those whose fields
are null, or not there, in the lines that DuckDB would take types from; the pages' columns are those
of the code.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import duckdb
import pytest

from forwardcache import BackendInstrumentation
from forwardcache.observe import parse
from forwardcache.observe.sql import COLUMNS

DOCS = Path(__file__).parents[2] / "docs"
# As many lines as DuckDB looks at, without a probe.
BEFORE, MMLU = 20_480, 501
# Callers without types leave it out.
NO_TOP_K: Any = None

[QUERY_OF_TRACE_PAGE] = re.findall(
    r"```text\n(.*?);\n```", (DOCS / "trace.md").read_text("utf-8"), re.DOTALL
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a trace whose probe, top_k, error and waited come late."""
    folder = tmp_path_factory.mktemp("trace")
    with BackendInstrumentation(trace_path=folder / "trace.jsonl") as inst:
        for number in range(BEFORE):
            inst.cached("op", "base", f"{number % 7}", NO_TOP_K, lambda: 1)
        with inst.probe("mmlu"):
            for number in range(MMLU - 1):
                inst.cached("op", "base", f"{number % 7}", 8, lambda: 1)
            with pytest.raises(ZeroDivisionError):
                inst.cached("op", "base", "fails", 8, lambda: 1 // 0)
    with (folder / "trace.jsonl").open("a", encoding="ascii") as file:
        file.write(
            '{"ts": 1.5, "probe": null, "view_id": "base", "prompt_hash": "0", "top_k": null, '
            '"op": "trace_lost", "wall_ms": 0.0, "hit": false, "lost": 7}\n'
        )
    return folder


def test_the_how_tos_query_counts_late_probes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (DOCS / "how-to" / "see-what-happened.md").read_text("utf-8")
    [block] = [each for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
               if "read_json" in each]  # fmt: skip
    monkeypatch.chdir(folder)
    found: dict[str, list[tuple[object, ...]]] = {}
    exec(block, found)
    counts = {probe: events for probe, _, events, _ in found["rows"]}
    assert counts == {"mmlu": MMLU, None: BEFORE}


def test_the_trace_pages_columns_are_the_codes_and_read_every_field(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = re.findall(r"(\w+): '(\w+)'", QUERY_OF_TRACE_PAGE)
    assert names == list(COLUMNS.items())
    monkeypatch.chdir(folder)
    counts = ", ".join(f"count({name})" for name in ("probe", "top_k", "error", "lost", "seq"))
    with duckdb.connect() as connection:
        row = connection.execute(
            f"SELECT {counts}, sum(lost), max(error) FROM ({QUERY_OF_TRACE_PAGE})"
        ).fetchone()
    assert row == (MMLU, MMLU, 1, 1, BEFORE + MMLU, 7, "ZeroDivisionError")


def test_every_field_has_a_column_of_its_type() -> None:
    assert list(COLUMNS) == list(parse.FIELD_TYPES)
    assert {COLUMNS["ts"], COLUMNS["seq"], COLUMNS["hit"]} == {"DOUBLE", "BIGINT", "BOOLEAN"}
