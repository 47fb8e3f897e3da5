"""The columns of a trace for tools that ask for them in SQL.

A tool that takes types from the first lines takes a column that is null in all of these for one
that has no values, and reads null for ever: DuckDB 2.0 does so after 20,480 lines.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType

from forwardcache.observe.parse import FIELD_TYPES

_SQL_TYPES: Mapping[frozenset[type], str] = {
    frozenset({str}): "VARCHAR",
    frozenset({int}): "BIGINT",
    frozenset({float, int}): "DOUBLE",
    frozenset({bool}): "BOOLEAN",
}

COLUMNS = {name: _SQL_TYPES[types - {NoneType}] for name, types in FIELD_TYPES.items()}
"""SQL type of each field that a line may have. As text it is what DuckDB's ``read_json`` takes for
``columns``."""
