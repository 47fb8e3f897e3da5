"""A trace as a polars frame: one row an event, one column a field."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING

from forwardcache._event import TraceLine
from forwardcache.extras import extra_named

if TYPE_CHECKING:
    import polars

COLUMNS = tuple(field.name for field in fields(TraceLine))

_BLOCK_EVENTS = 1 << 16


def to_polars(
    events: Iterable[TraceLine], *, columns: Sequence[str] | None = None
) -> polars.DataFrame:
    """The events as a frame, in their order.

    Args:
        events: What :func:`~forwardcache.observe.read_trace` gives.
        columns: Fields to keep, in this order; None: all. Few columns take little memory.

    Returns:
        A row an event. Times and ``wall_ms`` are Float64 (NaN where the trace says null), whole
        numbers Int64, ``hit`` and ``waited`` Boolean; ``probe``, ``view_id``, ``op``, ``run`` and
        ``error`` are Categorical, the other texts String.

    Raises:
        MissingExtraError: polars isn't installed (``pip install 'forwardcache[cli]'``).
        OverflowError: a whole number doesn't fit 64 bits.
        ValueError: a column is no field of an event.
    """
    with extra_named("to_polars"):
        import polars as pl

    names = COLUMNS if columns is None else tuple(columns)
    for name in names:
        if name not in COLUMNS:
            raise ValueError(f"no column {name!r}; there are {', '.join(COLUMNS)}")
    schema = {name: _kinds()[name] for name in names}
    stream = iter(events)
    frames = [pl.DataFrame(schema=schema)]
    while block := list(islice(stream, _BLOCK_EVENTS)):
        values = {name: list(map(attrgetter(name), block)) for name in names}
        frames.append(pl.DataFrame(values, schema=schema))
    return pl.concat(frames)


def _kinds() -> dict[str, type[polars.DataType]]:
    import polars as pl

    kinds: dict[str, type[polars.DataType]] = dict.fromkeys(COLUMNS, pl.Int64)
    kinds |= dict.fromkeys(("ts", "wall_ms", "batch_wall_ms"), pl.Float64)
    kinds |= dict.fromkeys(("hit", "waited"), pl.Boolean)
    kinds |= dict.fromkeys(("probe", "view_id", "op", "run", "error"), pl.Categorical)
    return kinds | dict.fromkeys(("prompt_hash", "key"), pl.String)
