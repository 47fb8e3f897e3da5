"""Reading traces: files in, events and counts out.

Reading order: ``reader`` (what is called), ``lines`` (whole lines of a file, in bounded memory),
``parse`` (what a line says). On them stand ``summary``, ``chrome`` with ``tracks``, ``table``, and
``follow`` with ``recent``; ``metrics`` is about a live instrumentation instead. Nothing here writes
a trace, and nothing here needs a model, torch or numpy; ``table`` needs polars.
"""

from forwardcache._event import TraceEvent, TraceLine
from forwardcache.observe.reader import TraceReader, read_trace

__all__ = ["TraceEvent", "TraceLine", "TraceReader", "read_trace"]
