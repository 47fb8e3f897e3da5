"""Clusters of real servers on loopback, without a program beside the servers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import redis

from tests.patience import PATIENCE_S
from tests.store.servers import RedisServer, free_port

SLOTS = 16_384


def asked(server: RedisServer, *words: object) -> Any:
    """What a node says to a command."""
    with redis.Redis(port=server.port) as client:
        return client.execute_command(*words)


def identity(server: RedisServer) -> str:
    """A node's name among the nodes."""
    name = asked(server, "CLUSTER MYID")
    return name.decode() if isinstance(name, bytes) else str(name)


@contextmanager
def nodes(folder: Path, count: int, *options: str) -> Iterator[list[RedisServer]]:
    """Servers in cluster mode that don't know of each other and have no slots."""
    with ExitStack() as stack:
        made = []
        for number in range(count):
            (path := folder / str(number)).mkdir(parents=True)
            # By itself a node takes the port 10,000 above its own for its bus, which may be none.
            bus = str(free_port())
            ours = "--cluster-enabled", "yes", "--cluster-port", bus, *options
            made.append(RedisServer(path, None, *ours))
            made[-1].bus = bus
            stack.callback(made[-1].kill)
        yield made


def share_slots(servers: Sequence[RedisServer]) -> None:
    """Shares all slots out in equal parts."""
    bounds = [SLOTS * at // len(servers) for at in range(len(servers) + 1)]
    for server, (first, last) in zip(servers, pairwise(bounds), strict=True):
        asked(server, "CLUSTER ADDSLOTS", *range(first, last))


def meet(servers: Sequence[RedisServer]) -> None:
    """Makes nodes known to each other."""
    for number, server in enumerate(servers[1:], 2):
        # Otherwise two of them may begin with the same number and take turns for seconds.
        asked(server, "CLUSTER SET-CONFIG-EPOCH", number)
        asked(servers[0], "CLUSTER MEET", "127.0.0.1", server.port, server.bus)


def wait_until_served(servers: Sequence[RedisServer]) -> None:
    """Returns when each of the nodes knows all of them and who has which slot, and serves."""

    def serves(server: RedisServer) -> bool:
        state = asked(server, "CLUSTER INFO")
        # A node counts others before it has heard of their slots, and then may serve its own.
        known = state["cluster_known_nodes"], state["cluster_slots_assigned"]
        return state["cluster_state"] == "ok" and known == (str(len(servers)), str(SLOTS))

    until(lambda: all(map(serves, servers)))


def wait_until_known(servers: Sequence[RedisServer], slot: int, owner: RedisServer) -> None:
    """Returns when each of the nodes says that ``owner`` has the slot."""

    def says(server: RedisServer) -> bool:
        told = asked(server, "CLUSTER SLOTS")
        [port] = [primary[1] for first, last, primary, *_ in told if first <= slot <= last]
        return int(port) == owner.port

    until(lambda: all(map(says, servers)))


def until(holds: Callable[[], object]) -> None:
    """Returns when something holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, "the cluster does not get there"
        time.sleep(0.02)


@contextmanager
def cluster(folder: Path, count: int, *options: str) -> Iterator[list[RedisServer]]:
    """A cluster of some nodes, with the slots in equal parts."""
    with nodes(folder, count, *options) as servers:
        share_slots(servers)
        meet(servers)
        wait_until_served(servers)
        yield servers
