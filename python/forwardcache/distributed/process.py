"""A worker as a process of its own, which a crew of this machine starts.

``python -m forwardcache.distributed.process DESCRIPTOR KIND``: the descriptor is that of a socket
to the process that started this one. Over it come the options, and then calls: a method's name, a
zero byte, and what it is given. What it returns goes back. All of it is bytes, and nothing is
unpickled.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.connection import Connection
from queue import SimpleQueue
from threading import Thread
from typing import Any

from forwardcache.distributed.wire import SEPARATOR
from forwardcache.jobs.imports import OWN_PROCESS

# How often to look whether the process that started this one is there. It closes its end when it
# ends, unless a process that it forked has a copy of that.
_LOOK_S = 1.0


def main(argv: Sequence[str]) -> None:
    """Does what comes, until whoever asks has gone.

    Args:
        argv: The socket's descriptor, and what a worker is: ``module:class``.
    """
    OWN_PROCESS.set(True)
    socket: Connection[bytes, bytes] = Connection(int(argv[0]))
    calls: SimpleQueue[bytes] = SimpleQueue()
    Thread(target=_listen, args=(socket, calls, os.getppid()), daemon=True).start()
    module, _, name = argv[1].partition(":")
    worker = getattr(import_module(module), name)(calls.get())
    while True:
        socket.send_bytes(_answer(worker, calls.get()))


def _answer(worker: Any, call: bytes) -> bytes:
    method, separator, data = call.partition(SEPARATOR)
    given = (data,) if separator else ()
    result: bytes = getattr(worker, method.decode("ascii"))(*given)
    return result


def _listen(socket: Connection[bytes, bytes], calls: SimpleQueue[bytes], parent: int) -> None:
    """Takes calls from the socket, also while one is being done.

    Ends this process as soon as nobody is left who could take what it does.
    """
    try:
        while os.getppid() == parent:
            if socket.poll(_LOOK_S):
                calls.put(socket.recv_bytes())
    finally:
        os._exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
