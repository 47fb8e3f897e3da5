"""Reading traces: files in, events and counts out.

Reading order: ``reader`` (what is called), ``opened`` and ``lines`` (whole lines of files, in
bounded memory), ``parse`` (what a line says), ``workers`` (one trace after the other). They are the
base of ``summary`` with ``quantiles``, ``curve`` (what another size of cache would have missed),
``frame`` (a trace as a table) and the ``report``, ``chrome`` with ``tracks``, ``table``, ``sql``,
and ``follow`` and ``follow_many`` with ``recent``; ``metrics`` is about a live instrumentation
instead. Nothing here writes a trace, and nothing here needs a model, torch or numpy; ``table``,
``frame`` and ``report`` need polars.
"""

from forwardcache._event import TraceEvent, TraceLine
from forwardcache.observe.curve import miss_ratio_curve
from forwardcache.observe.frame import to_polars
from forwardcache.observe.reader import TraceReader, read_trace

__all__ = [
    "TraceEvent",
    "TraceLine",
    "TraceReader",
    "miss_ratio_curve",
    "read_trace",
    "to_polars",
]
