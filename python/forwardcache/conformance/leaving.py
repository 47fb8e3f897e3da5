"""How a kit's command ends its process, whatever an engine has left in it."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Container
from typing import Final, NoReturn

__all__ = ["CALLS", "leave"]

CALLS: Final = "engine call"
"""Name of the threads, all of them daemons, in which a kit calls an engine."""

_ENDING_S = 5.0


def leave(code: int, *, besides: Container[threading.Thread] = ()) -> NoReturn:
    """End the process with ``code``, also where the engine has left threads in it.

    One that is no daemon would hold the process. One that is still in a call of the engine's may be
    in native code, which aborts where the interpreter goes away under it: the exit status would be
    that of the signal.

    Args:
        code: The exit status.
        besides: Threads that aren't the engine's: those that were there before it.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    known = {threading.main_thread(), threading.current_thread()}
    others = [each for each in threading.enumerate() if each not in known and each not in besides]
    if any(map(_stays, others)):
        os._exit(code)
    raise SystemExit(code)


def _stays(thread: threading.Thread) -> bool:
    if thread.daemon and thread.name == CALLS:
        thread.join(_ENDING_S)
        return thread.is_alive()
    return not thread.daemon
