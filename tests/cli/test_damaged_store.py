"""Claims: the commands over a store whose file is partly damaged give what can be read, say what
can't, and end with status 1.
"""

from __future__ import annotations

from pathlib import Path

import polars
import pytest

from tests.cli.conftest import Run
from tests.store.test_partly_damaged import (
    PAGE_BYTES,
    VALUES,
    content,
    found_one_by_one,
    leaves_of_values,
    overwritten,
)

__all__ = ["content"]


@pytest.fixture
def damaged(content: bytes, tmp_path: Path) -> Path:
    path = tmp_path / "values.db"
    path.write_bytes(overwritten(content, [leaves_of_values(content)[2]], 0xFF))
    return path


def test_an_export_writes_what_can_be_read_says_what_not_and_ends_with_1(
    run: Run, damaged: Path, tmp_path: Path
) -> None:
    there = found_one_by_one(damaged)
    ended = run("store", "export", damaged, tmp_path / "values.parquet")
    assert ended.code == 1
    assert f"{there} values written" in ended.out
    assert f"{VALUES - there} values damaged or unreadable" in ended.out
    table = polars.read_parquet(tmp_path / "values.parquet")
    assert len(table) == there
    assert set(table["view"]) == {"base"}


def test_verify_drops_what_can_not_be_read_and_ends_with_1(run: Run, damaged: Path) -> None:
    there = found_one_by_one(damaged)
    first, second = run("store", "verify", damaged), run("store", "verify", damaged)
    told = f"{there} values are whole, {VALUES - there} were damaged and are dropped"
    assert (first.code, first.out.strip()) == (1, told)
    assert (second.code, second.out.strip()) == (
        0,
        f"{there} values are whole, 0 were damaged and are dropped",
    )


def test_an_export_of_a_cut_file_ends_with_1(run: Run, content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "values.db"
    path.write_bytes(content[:-PAGE_BYTES])
    ended = run("store", "export", path, tmp_path / "values.parquet")
    assert ended.code == 1
    assert "damaged" in ended.out
    assert len(polars.read_parquet(tmp_path / "values.parquet")) > VALUES - 10
