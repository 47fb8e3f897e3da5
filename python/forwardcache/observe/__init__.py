"""Reading traces: files in, events and counts out.

Reading order: ``reader`` (what is called), ``lines`` (whole lines of a file, in bounded memory),
``parse`` (what a line says). Nothing here writes, and nothing here needs a model, torch or numpy.
"""

from forwardcache._event import TraceEvent, TraceLine
from forwardcache.observe.reader import TraceReader, read_trace

__all__ = ["TraceEvent", "TraceLine", "TraceReader", "read_trace"]
