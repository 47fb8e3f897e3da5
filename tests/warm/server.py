"""``python -m tests.warm.server ADDRESS`` imports, listens, and forks for each client.

Only imports are done before the fork: no thread is there, and nothing was computed.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
from typing import NoReturn, TextIO

# What `score`, `diff` and `export` import before their first forward.
IMPORTED = (
    "torch",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.llama.modeling_llama",
    "forwardcache.cli.app",
    "forwardcache.hf",
)


def serve(address: str) -> None:
    """Fork for each client, until this process is terminated."""
    for name in IMPORTED:
        importlib.import_module(name)
    # A collection would write to all that forks share.
    gc.freeze()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        print("ready", flush=True)
        while True:
            connection, _ = listener.accept()
            if os.fork() == 0:
                listener.close()
                break
            connection.close()
            reap()
    attend(connection)


def reap() -> None:
    """Take leave of the forks that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG) != (0, 0):
            pass


def attend(connection: socket.socket) -> None:
    """Run what one client asks for in a further fork, and tell it how that ended."""
    head, files, _, _ = socket.recv_fds(connection, 8, 3)
    words, folder, environment = json.loads(read(connection, int.from_bytes(head, "big")))
    child = os.fork()
    if child == 0:
        connection.close()
        become(folder, environment, files)
        run(words)
    for file in files:
        os.close(file)
    ended = os.pidfd_open(child)
    if ended not in select.select([ended, connection.fileno()], [], [])[0]:
        os.kill(child, signal.SIGKILL)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    # The client may have gone.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    connection.send(f"{status}\n".encode())
    os._exit(0)


def read(connection: socket.socket, size: int) -> bytes:
    """Exactly ``size`` bytes."""
    found = b""
    while len(found) < size:
        found += connection.recv(size - len(found))
    return found


def become(folder: str, environment: dict[str, str], files: list[int]) -> None:
    """Take a client's streams, folder and environment, as a new interpreter would."""
    for at, file in enumerate(files):
        os.dup2(file, at)
        os.close(file)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    named = environment.get("PYTHONPATH", "")
    sys.path[:0] = [folder, *filter(None, named.split(os.pathsep))]
    sys.stdin = io.TextIOWrapper(io.BufferedReader(io.FileIO(0, closefd=False)), encoding="utf-8")
    sys.stdout = writer(1, errors="strict")
    sys.stderr = writer(2, errors="backslashreplace")


def writer(file: int, errors: str) -> TextIO:
    """A standard stream as the environment asks for it."""
    raw = io.FileIO(file, "w", closefd=False)
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    return io.TextIOWrapper(
        raw if is_unbuffered else io.BufferedWriter(raw),
        encoding="utf-8",
        errors=errors,
        write_through=is_unbuffered,
        line_buffering=file == 2 or raw.isatty(),
    )


def run(words: list[str]) -> NoReturn:
    """``-m MODULE ARGUMENTS`` or ``-c CODE ARGUMENTS``, to the end of the process."""
    option, what, *arguments = words
    if option == "-m":
        sys.argv = [what, *arguments]
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert option == "-c", words
        sys.argv = [option, *arguments]
        exec(compile(what, "<string>", "exec"), {"__name__": "__main__"})
    sys.exit()


if __name__ == "__main__":
    serve(sys.argv[1])
