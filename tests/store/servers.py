"""Servers on loopback for the tests: a real redis-server, and some that answer badly."""

from __future__ import annotations

import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from random import SystemRandom

from tests.patience import PATIENCE_S

Serve = Callable[[socket.socket], None]

_PORTS = range(20_000, 32_000)
"""Below those that systems give to whoever asks for any port, as every connection does."""

_HELD: list[socket.socket] = []


def free_port() -> int:
    """A port that is this process's until it ends, whether something listens there or not.

    Of processes that ask here only one gets it: who does holds the datagram port of that number.
    """
    for port in SystemRandom().sample(_PORTS, 1_000):
        held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        try:
            held.bind(("127.0.0.1", port))
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", port))
        except OSError:
            held.close()
            continue
        _HELD.append(held)
        return port
    raise AssertionError("of a thousand ports none is free")


class RedisServer:
    """A redis-server without persistence, on a port of its own."""

    def __init__(self, folder: Path, port: int | None = None, *options: str) -> None:
        program = shutil.which("redis-server") or shutil.which("valkey-server")
        if program is None:
            raise AssertionError(
                "these tests need redis-server: apt-get install redis-server, or make setup"
            )
        self.port = port or free_port()
        self.bus = ""
        command = [
            *(program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder)),
            *("--save", "", "--appendonly", "no", *options),
        ]
        said = folder / "said"
        with said.open("wb") as output:
            self._process = subprocess.Popen(command, stdout=output)
        self._wait(said)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _wait(self, said: Path) -> None:
        """Returns when this process serves: another one on the same port would answer too."""
        deadline = time.monotonic() + PATIENCE_S
        while b"Ready to accept connections" not in said.read_bytes():
            assert self._process.poll() is None, f"redis-server ended: {said.read_text()}"
            assert time.monotonic() < deadline, f"redis-server does not begin: {said.read_text()}"
            time.sleep(0.005)


@contextmanager
def answering(serve: Serve) -> Iterator[str]:
    """A server that calls ``serve`` with every connection, in a thread of its own; its URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def run(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            serve(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                connection, _ = listener.accept()
                threading.Thread(target=run, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"redis://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        # Wakes the thread up that waits in accept.
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def slowed(port: int, delay_s: float) -> Serve:
    """Passes everything on to ``port``, each piece of an answer ``delay_s`` late."""

    def serve(connection: socket.socket) -> None:
        with socket.create_connection(("127.0.0.1", port)) as server:
            for one in (connection, server):
                # Otherwise small pieces wait for each other, tens of milliseconds.
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            asks = threading.Thread(target=_pump, args=(connection, server, 0.0), daemon=True)
            asks.start()
            _pump(server, connection, delay_s)

    return serve


def dribbling(connection: socket.socket) -> None:
    """Begins an answer and adds a byte now and then, for good."""
    connection.recv(65536)
    connection.sendall(b"$1000000\r\n")
    while True:
        connection.sendall(b"x")
        time.sleep(0.01)


def silent(connection: socket.socket) -> None:
    """Takes whatever comes and never answers."""
    while connection.recv(65536):
        pass


def saying(answer: bytes) -> Serve:
    """Answers everything with the same bytes."""

    def serve(connection: socket.socket) -> None:
        while connection.recv(65536):
            connection.sendall(answer)

    return serve


def _pump(source: socket.socket, target: socket.socket, delay_s: float) -> None:
    with suppress(OSError):
        while data := source.recv(65536):
            time.sleep(delay_s)
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)
