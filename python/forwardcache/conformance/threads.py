"""Which threads an engine has started: those that began in its loop, or in a thread that did.

A process has threads of other tools too: the timer of pytest-timeout, the workers of a runner that
runs tests at once. ``threading`` does not say who started a thread, so its ``start`` is wrapped,
once a process and for good: taking a wrapper off again would take off whatever others have put
over it since.
"""

from __future__ import annotations

import asyncio
import threading
import weakref
from functools import wraps

__all__ = ["started_by", "watch"]

Loop = asyncio.AbstractEventLoop

_watched: weakref.WeakSet[Loop] = weakref.WeakSet()
_began_in: weakref.WeakKeyDictionary[threading.Thread, weakref.ref[Loop]] = (
    weakref.WeakKeyDictionary()
)
_installing = threading.Lock()
_installed: list[object] = []


def watch(loop: Loop) -> None:
    """Note from now on which threads are started in ``loop``, or in threads that were."""
    _watched.add(loop)
    with _installing:
        if not _installed:
            _install()


def started_by(loop: Loop) -> set[threading.Thread]:
    """The living threads that began in ``loop``, at whatever remove, since ``watch``."""
    return {thread for thread in threading.enumerate() if _origin(thread) is loop}


def _install() -> None:
    original = threading.Thread.start

    @wraps(original)
    def start(self: threading.Thread) -> None:
        loop = _loop_here()
        if loop is not None:
            _began_in[self] = weakref.ref(loop)
        original(self)

    threading.Thread.start = start  # type: ignore[method-assign]
    _installed.append(start)


def _loop_here() -> Loop | None:
    """The watched loop that the running thread belongs to; a loop of the engine's own is none."""
    try:
        running = asyncio.get_running_loop()
    except RuntimeError:
        running = None
    if running is not None and running in _watched:
        return running
    return _origin(threading.current_thread())


def _origin(thread: threading.Thread) -> Loop | None:
    known = _began_in.get(thread)
    return None if known is None else known()
