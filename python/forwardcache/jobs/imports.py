"""Importing torch and transformers for a command that scores, without what no scoring needs.

Nothing that is imported becomes garbage, so that looking for some, a quarter of the time, is put
off. And transformers imports scipy's optimisers for the losses of models that find objects in
images, which no command trains: in a process of its own a command says meanwhile that there is no
scipy.
"""

from __future__ import annotations

import atexit
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

OWN_PROCESS: ContextVar[bool] = ContextVar("OWN_PROCESS", default=False)
"""Whether nothing but one command runs in this process."""

_TOLD = "is_scipy_available"


@contextmanager
def without_collections() -> Iterator[None]:
    """Garbage is not looked for meanwhile; in a command's own process never in what is there now.

    A look goes over a million objects of torch and transformers, of which none ever goes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if OWN_PROCESS.get():
            gc.freeze()
            # Libraries look at the end for what was never thrown away.
            atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()


def import_transformers() -> None:
    """Imports what all of its models are made with."""
    if not OWN_PROCESS.get():
        return
    import transformers.utils

    known = vars(transformers.utils).get(_TOLD)
    try:
        if known is not None:
            setattr(transformers.utils, _TOLD, _there_is_none)
        import transformers.modeling_utils
    finally:
        if known is not None:
            setattr(transformers.utils, _TOLD, known)


def _there_is_none() -> bool:
    return False


__all__ = ["OWN_PROCESS", "import_transformers", "without_collections"]
