"""A process that has imported torch and what goes with it once, and forks for each command.

Starting Python with torch, transformers and peft takes seconds, forking one that has imported them
next to nothing. Each command still is a process of its own, with a folder, an environment, files
and an exit status of its own, that ends as Python ends. Before it nothing was done but importing:
no model was loaded, no thread started. What imports cost or leave out, signals and kills are for
tests that start Python itself.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import runpy
import select
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

IMPORTS = (
    "torch._dynamo",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "peft",
)
"""What takes long to import. Nothing of ours is among it: a command imports that by itself."""

PROGRAM = f"""#!{sys.executable} -IS
import json, os, socket, sys
there = socket.socket(socket.AF_UNIX)
there.connect(SOCKET)
request = {{"words": sys.argv[1:], "folder": os.getcwd(), "environment": dict(os.environ)}}
socket.send_fds(there, [json.dumps(request).encode()], [0, 1, 2])
there.shutdown(socket.SHUT_WR)
status = int(there.recv(16) or b"1")
sys.exit(status if status >= 0 else 128 - status)
"""
"""What asks for a command; it goes behind its first line where the socket is."""


class WarmPython:
    """The process; a context manager, at whose end it ends.

    Args:
        folder: For its socket and its program.

    Attributes:
        python: A program that is called as Python is, with ``-m MODULE`` or ``-c CODE``.
    """

    def __init__(self, folder: Path) -> None:
        where, self.python = folder / "socket", folder / "python"
        first, rest = PROGRAM.split("\n", 1)
        self.python.write_text(f"{first}\nSOCKET = {str(where)!r}\n{rest}", "utf-8")
        self.python.chmod(0o755)
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(str(where))
            listener.listen()
            self._process = subprocess.Popen(
                [sys.executable, "-m", "tests.warm", str(listener.fileno())],
                stdin=subprocess.PIPE,
                pass_fds=[listener.fileno()],
                cwd=Path(__file__).parents[1],
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait() == 0


def serve(listener: socket.socket) -> dict[str, Any]:
    """Fork for each command until standard input ends; in a fork its request is returned."""
    # OpenBLAS has threads of its own, which it ends before a fork and makes again.
    assert threading.active_count() == 1, "a fork would lose the other threads"
    while listener in select.select([listener, sys.stdin], [], [])[0]:
        there, _ = listener.accept()
        with suppress(ChildProcessError):
            # What ended meanwhile, whose time counts as this one's from now on.
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if os.fork() == 0:
            listener.close()
            return asked(there)
        there.close()
    sys.exit(0)


def asked(there: socket.socket) -> dict[str, Any]:
    """The request, in a process of its own; the one that waits for that ends here."""
    data, files, _, _ = socket.recv_fds(there, 1 << 16, 3)
    while more := there.recv(1 << 16):
        data += more
    if (child := os.fork()) == 0:
        there.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        request: dict[str, Any] = json.loads(data)
        return request
    for file in files:
        os.close(file)
    _, status = os.waitpid(child, 0)
    there.sendall(str(os.waitstatus_to_exitcode(status)).encode())
    os._exit(0)


def become(request: Mapping[str, Any]) -> None:
    """Run the command as a fresh Python would."""
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    path = [each for each in os.environ.get("PYTHONPATH", "").split(os.pathsep) if each]
    # The first is this file's own, for which the command's folder stands.
    sys.path[:] = [request["folder"], *path, *(each for each in sys.path[1:] if each not in path)]
    open_again()
    kind, what, *arguments = request["words"]
    sys.argv[:] = [kind, *arguments]
    if kind == "-m":
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        assert kind == "-c", kind
        module = sys.modules["__main__"] = types.ModuleType("__main__")
        exec(compile(what, "<string>", "exec"), module.__dict__)


def open_again() -> None:
    """Standard input, output and errors as Python opens them, with the files of the command."""
    is_unbuffered = bool(os.environ.get("PYTHONUNBUFFERED"))
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - as Python's own
    for number, name, errors in ((1, "stdout", "strict"), (2, "stderr", "backslashreplace")):
        raw: Any = open(number, "wb", 0 if is_unbuffered else -1, closefd=False)  # noqa: SIM115
        text = io.TextIOWrapper(
            raw,
            "utf-8",
            errors,
            line_buffering=name == "stderr" or raw.isatty(),
            write_through=is_unbuffered,
        )
        setattr(sys, name, text)
        setattr(sys, f"__{name}__", text)


if __name__ == "__main__":
    for name in IMPORTS:
        importlib.import_module(name)
    become(serve(socket.socket(fileno=int(sys.argv[1]))))
