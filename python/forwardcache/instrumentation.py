"""The drop-in part: cache, statistics and trace under the scoring calls of a backend.

A backend written against this interface in plain Python works with no change but the import. All of
it runs in Rust (``forwardcache._core``); neither torch, transformers nor numpy is imported.
"""

from forwardcache._core import (
    _MISS,
    BackendInstrumentation,
    BackendStats,
    ForwardCache,
    TraceWriter,
    prompt_hash,
)
from forwardcache._event import TraceEvent
from forwardcache._figures import CallStats, Report

_TraceEvent = TraceEvent
_prompt_hash = prompt_hash

__all__ = [
    "_MISS",
    "BackendInstrumentation",
    "BackendStats",
    "CallStats",
    "ForwardCache",
    "Report",
    "TraceEvent",
    "TraceWriter",
    "_TraceEvent",
    "_prompt_hash",
    "prompt_hash",
]
