"""Ends the process at the first attempt to reach another machine: ``python without_network.py -m
MODULE ...`` or ``... SCRIPT``.

An audit hook sees what any library does, and can't be taken away. Only this machine's own addresses
and Unix sockets may be connected to, and no name but its own may be looked up.
"""

from __future__ import annotations

import os
import runpy
import socket
import sys

REFUSED = 97
_OWN_NAMES = {None, "", "localhost", socket.gethostname()}


def _is_own(host: object) -> bool:
    return host in _OWN_NAMES or str(host).startswith("127.") or host in {"::1", "0.0.0.0"}


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if event == "socket.getaddrinfo":
        asked = arguments[0]
    elif event in {"socket.connect", "socket.sendto", "socket.sendmsg"}:
        address = arguments[1]
        if not isinstance(address, tuple):
            return
        asked = address[0]
    elif event == "urllib.Request":
        asked = arguments[0]
    else:
        return
    if not _is_own(asked):
        os.write(2, f"{event}: {asked!r}\n".encode())
        os._exit(REFUSED)


def main() -> None:
    """Run a module or a script under the hook."""
    sys.addaudithook(_watch)
    first, *rest = sys.argv[1:]
    if first == "-m":
        sys.argv = rest
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = [first, *rest]
        runpy.run_path(first, run_name="__main__")


if __name__ == "__main__":
    main()
