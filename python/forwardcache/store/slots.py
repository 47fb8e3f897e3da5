"""Which of several servers has a key: by its hash slot, as in a cluster of Redis.

In a cluster the servers say who has which slot. Of servers that know nothing of each other each
slot belongs to the one that is drawn highest for it (rendezvous hashing): with a server more or
less only the slots that it gets or had have another place, and the order of the names is no matter.
"""

from __future__ import annotations

from array import array
from binascii import crc_hqx
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np

SLOTS = 16_384
# More nodes than a cluster has; also no slot's place among the nodes.
MOST_NODES = 4096
_NOBODY = 0xFFFF

Node = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True, slots=True)
class Ring:
    """Which server has which slot.

    Attributes:
        nodes: The servers.
        table: For each slot the place of its server in ``nodes``.
    """

    nodes: tuple[Node, ...]
    table: array[int] = field(repr=False)

    def node_of(self, name: bytes) -> Node | None:
        """The server that has a key; None if the cluster has none for its slot.

        Args:
            name: The key as the server has it.
        """
        at = self.table[slot_of(name)]
        return None if at == _NOBODY else self.nodes[at]

    def moved(self, slots: Mapping[int, Node]) -> Ring:
        """The same ring, with some slots in another place.

        Args:
            slots: Their new servers.
        """
        nodes, table = list(self.nodes), array("H", self.table)
        for slot, node in slots.items():
            if node not in nodes and len(nodes) < MOST_NODES:
                nodes.append(node)
            if node in nodes and 0 <= slot < SLOTS:
                table[slot] = nodes.index(node)
        return Ring(tuple(nodes), table)


def slot_of(name: bytes) -> int:
    """The hash slot of a key, as a cluster reckons it: of what stands in braces, if anything does.

    Args:
        name: The key as the server has it.
    """
    begin = name.find(b"{")
    if begin >= 0 and (end := name.find(b"}", begin + 1)) > begin + 1:
        name = name[begin + 1 : end]
    return crc_hqx(name, 0) % SLOTS


def shared_out(nodes: Sequence[Node]) -> Ring:
    """All slots, shared out among servers that know nothing of each other.

    Args:
        nodes: At least one; every process that names the same ones gets the same places.
    """
    if len(nodes) == 1:
        return Ring(tuple(nodes), array("H", bytes(2 * SLOTS)))
    seeds = [sha256(f"{host}:{port}".encode()).digest()[:8] for host, port in nodes]
    slots = np.arange(SLOTS, dtype=np.uint64)
    drawn = np.stack([_mixed(slots ^ np.uint64(int.from_bytes(each, "big"))) for each in seeds])
    return Ring(tuple(nodes), array("H", drawn.argmax(0).astype(np.uint16).tobytes()))


def told_by_cluster(answer: Any, asked: Node) -> Ring | None:
    """What a server's ``CLUSTER SLOTS`` says; None if that is no such answer.

    Args:
        answer: A list of first slot, last slot, the node that has them, and its replicas.
        asked: The server, which may leave its own name out.
    """
    places: dict[Node, int] = {}
    table = array("H", [_NOBODY]) * SLOTS
    try:
        for first, last, (host, port, *_), *_ in answer:
            if not 0 <= first <= last < SLOTS:
                return None
            node = named(host, port, asked)
            place = places.setdefault(node, len(places))
            table[first : last + 1] = array("H", [place]) * (last + 1 - first)
    except (TypeError, ValueError):
        return None
    if not 0 < len(places) <= MOST_NODES:
        return None
    return Ring(tuple(places), table)


def named(host: str | bytes | None, port: int, asked: Node) -> Node:
    """A node as another names it, which leaves out the host where it is the one that was asked.

    Args:
        host: Its name or number; empty, None or ``?`` for that of ``asked``.
        port: Its port.
        asked: The server that named it.

    Raises:
        ValueError: that is no name and port.
    """
    text = host.decode() if isinstance(host, bytes) else (host or "")
    if not 0 < int(port) < 2**16:
        raise ValueError(f"no port: {port}")
    return (asked[0] if text in ("", "?") else text), int(port)


def _mixed(numbers: np.ndarray[Any, np.dtype[np.uint64]]) -> np.ndarray[Any, np.dtype[np.uint64]]:
    """Numbers of which each bit depends on all bits of the given ones (splitmix64's end)."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * np.uint64(factor)
    return numbers ^ (numbers >> np.uint64(31))
