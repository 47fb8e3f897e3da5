"""Which name each faulty engine has to get, and which check alone sees it."""

from __future__ import annotations

from typing import Any

from tests.conformance.adapter.toy import Sound

__all__ = ["FAULTS", "ONLY_BY", "caught_as"]

FAULTS: dict[type[Sound], str] = {}
"""By faulty engine: the one name that it has to get."""

ONLY_BY: dict[type[Sound], str] = {}
"""By faulty engine: the one check that sees it."""


def caught_as(name: str, *, only_by: str | None = None) -> Any:
    """Puts an engine into the tables."""

    def put(kind: type[Sound]) -> type[Sound]:
        FAULTS[kind] = name
        if only_by is not None:
            ONLY_BY[kind] = only_by
        return kind

    return put
