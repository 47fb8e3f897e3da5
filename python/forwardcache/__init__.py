"""Every forward pass once, never a wrong one, nothing lost.

Reading order: ``instrumentation`` (the cached, traced calls under a backend), ``scoring`` (values
and protocols), ``errors``, ``operation`` and ``operations`` (what can be asked of a model, a file
each), ``hf`` (Hugging Face models as views), ``store`` (values that last), ``observe`` (reading
traces), ``conformance`` (is it an engine, is it a backend), ``statistics`` (what a difference is,
and how sure one may be of it), ``divergence`` and ``jobs`` (prompts through views, as data),
``distributed`` and ``integrations``, ``cli``; ``extras`` says what to install, ``adapter_names``
what an adapter may be called. This package imports neither numpy nor torch; ``scoring`` imports
numpy, ``statistics`` scipy too, ``hf`` imports torch, when they are imported.
"""

from forwardcache._core import __version__
from forwardcache.errors import ForwardCacheError
from forwardcache.instrumentation import (
    BackendInstrumentation,
    BackendStats,
    CallStats,
    ForwardCache,
    Report,
    TraceEvent,
    TraceWriter,
    prompt_hash,
)

__all__ = [
    "BackendInstrumentation",
    "BackendStats",
    "CallStats",
    "ForwardCache",
    "ForwardCacheError",
    "Report",
    "TraceEvent",
    "TraceWriter",
    "__version__",
    "prompt_hash",
]
