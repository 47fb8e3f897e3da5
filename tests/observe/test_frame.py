"""``to_polars``: a row an event with its values; columns; what is refused."""

from __future__ import annotations

import json
from io import BytesIO
from typing import Any

import pytest

from forwardcache.observe import read_trace, to_polars
from tests.observe.test_read_trace import EIGHT, FURTHER, line


def test_a_row_holds_what_its_event_holds() -> None:
    frame = to_polars(read_trace(BytesIO(line(**FURTHER) + line(probe="p", top_k=None))))
    assert frame.row(0, named=True) == EIGHT | FURTHER
    second: dict[str, Any] = EIGHT | dict.fromkeys(FURTHER) | {"waited": False}
    assert frame.row(1, named=True) == second | {"probe": "p", "top_k": None}


def test_columns_are_kept_in_the_order_asked_for() -> None:
    frame = to_polars(read_trace(BytesIO(line())), columns=["hit", "op"])
    assert json.loads(frame.write_json()) == [{"hit": True, "op": "next_token_dist"}]


def test_no_events_are_no_rows() -> None:
    assert to_polars([]).shape == (0, 18)


def test_a_column_that_is_no_field_is_refused() -> None:
    with pytest.raises(ValueError, match="no column 'seconds'; there are ts, probe"):
        to_polars([], columns=["seconds"])
