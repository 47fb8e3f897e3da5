"""The servers of a shared store, and which of them is asked for what.

One, several that know nothing of each other, or the nodes of a cluster, of which the address names
some. Nobody has to say which: a server of a cluster tells by its answers that another has a key,
and is then asked who has which. All servers that a call needs are asked at the same time, each in
one round trip, and the call waits for the slowest no longer than for one. What a server that is
down has is a miss; the others are asked as before.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

from forwardcache.store.address import Address
from forwardcache.store.link import Link
from forwardcache.store.redis_calls import MOST_ITEMS, Answers, Elsewhere, Way, slots
from forwardcache.store.server import Server
from forwardcache.store.slots import Node, shared_out

_MOST_BYTES = 2**20
# Who has which key is asked again after so long, where a node of a cluster is left alone.
_LOOK_AGAIN_S = 1.0


@dataclass(frozen=True, slots=True)
class Task:
    """What every server is asked for its part of the keys.

    Attributes:
        side: By which of its links.
        names: The keys, as servers have them.
        sizes: Bytes that go with each.
        call: The round trip: which of ``names``, in which way, and the client.
        worth_s: Seconds that an answer may take.
    """

    side: Literal["reading", "writing"]
    names: Sequence[bytes]
    sizes: Sequence[int]
    call: Callable[[Sequence[int], Way, Any], Answers]
    worth_s: Callable[[Answers], float]


# Places in ``Task.names``, by the server that has them.
Parts = Mapping[Node, Sequence[int]]


class Servers:
    """All servers of one address.

    Args:
        address: What it says.
        call_s: The longest wait of a call for one round trip, in seconds.

    Attributes:
        unserved: Values of slots that no node of the cluster has.
    """

    def __init__(self, address: Address, call_s: float) -> None:
        self._address, self._call_s = address, call_s
        self._named = address.nodes
        self._ring = shared_out(self._named)
        self._known: dict[Node, Server] = {}
        self._of_cluster = self._is_stale = False
        self._turn = 0
        self._told_at = -_LOOK_AGAIN_S
        self.unserved = 0

    @property
    def all(self) -> list[Server]:
        """Every server that was ever asked."""
        return list(self._known.values())

    def ask(self, task: Task) -> list[Any]:
        """One answer a key, as in ``Answers``; None where nobody was asked or answered."""
        answers: list[Any] = [None] * len(task.names)
        for parts in self._rounds(task):
            until = time.perf_counter() + self._call_s
            said = self._round(task, parts, until, answers)
            if self._is_stale and not said:
                self._ask_a_named_one(parts, until)
            # Whoever another names has what it was asked for, so one more round is enough.
            for asking, others in self._redirected(parts, answers):
                self._round(task, others, until, answers, asking=asking)
        return [None if isinstance(each, Elsewhere) else each for each in answers]

    def for_survey(self) -> list[Server]:
        """The servers that have values, asked first whether they are a cluster."""
        for node in self._named:
            told = self._server(node).slowly(partial(slots, node), counts=False)
            if told is not None:
                self._learn(told)
                break
        return [self._server(node) for node in self._ring.nodes]

    def close(self) -> None:
        """Closes all connections; what comes later opens others."""
        for server in self.all:
            server.close()

    def _rounds(self, task: Task) -> Iterator[Parts]:
        """The keys by server, in as many rounds as the server with the most of them needs."""
        left = {node: _chunks(at, task.sizes) for node, at in self._parts(task.names).items()}
        while left:
            parts = {node: next(chunks, None) for node, chunks in left.items()}
            left = {node: left[node] for node, chunk in parts.items() if chunk is not None}
            if left:
                yield {node: chunk for node, chunk in parts.items() if chunk is not None}

    def _parts(self, names: Sequence[bytes]) -> Parts:
        ring = self._ring
        if len(ring.nodes) == 1 and not self._of_cluster:
            return {ring.nodes[0]: range(len(names))}
        parts: dict[Node, list[int]] = {}
        for at, name in enumerate(names):
            node = ring.node_of(name)
            if node is None:
                self.unserved += 1
                # Some node may have it by now.
                self._is_stale = True
            else:
                parts.setdefault(node, []).append(at)
        return parts

    def _round(
        self,
        task: Task,
        parts: Parts,
        until: float,
        answers: list[Any],
        *,
        asking: bool = False,
    ) -> int:
        """Asks each server for its part and puts what they say into ``answers``; how many did."""
        teller = self._teller(task, parts)
        begun = []
        for node, part in parts.items():
            way = Way(node, self._of_cluster, asks_slots=node == teller, asking=asking)
            link: Link = getattr(self._server(node), task.side)
            job = partial(task.call, part, way)
            begun.append((link, part, link.begin(job, items=len(part), until=until)))
        said = 0
        for link, part, call in begun:
            found = link.end(call, until=until, worth_s=task.worth_s) if call else None
            if found is None:
                # Another node may take over for it, also while it is left alone.
                is_long_ago = time.perf_counter() > self._told_at + _LOOK_AGAIN_S
                self._is_stale |= self._of_cluster and (call is not None or is_long_ago)
                continue
            said += 1
            self._learn(found)
            for at, answer in zip(part, found.each, strict=True):
                answers[at] = answer
            if task.side == "writing":
                _tell_what_was_taken(link, found.each)
        return said

    def _redirected(self, parts: Parts, answers: Sequence[Any]) -> Iterator[tuple[bool, Parts]]:
        """Keys that other nodes have, and whether they are still on their way there."""
        found: dict[bool, dict[Node, list[int]]] = {}
        moved: dict[int, Node] = {}
        for at in (at for part in parts.values() for at in part):
            if isinstance(there := answers[at], Elsewhere):
                found.setdefault(there.slot is None, {}).setdefault(there.node, []).append(at)
                if there.slot is not None:
                    moved[there.slot] = there.node
        if moved:
            self._is_stale = True
            self._ring = self._ring.moved(moved)
        yield from found.items()

    def _teller(self, task: Task, parts: Parts) -> Node | None:
        """Which of the servers that are asked has to say who has which key; another each time."""
        if not self._is_stale:
            return None
        well = [node for node in parts if not getattr(self._server(node), task.side).rests]
        self._turn += 1
        return well[self._turn % len(well)] if well else None

    def _ask_a_named_one(self, parts: Parts, until: float) -> None:
        """Asks a server of the address who has which key, where all that were asked are down."""
        others = [node for node in self._named if node not in parts]
        if others:
            self._turn += 1
            node = others[self._turn % len(others)]
            link = self._server(node).reading
            call = link.begin(partial(slots, node), items=0, until=until)
            told = link.end(call, until=until, worth_s=lambda _: 0.0) if call else None
            if told is not None:
                self._learn(told)

    def _learn(self, told: Answers) -> None:
        self._of_cluster |= told.of_cluster or told.ring is not None
        if told.ring is not None:
            self._ring, self._is_stale = told.ring, False
            self._told_at = time.perf_counter()

    def _server(self, node: Node) -> Server:
        server = self._known.get(node)
        if server is None:
            count = len(self._ring.nodes)
            made = Server(node, self._address, call_s=self._call_s, servers=count)
            # Another thread may have been quicker.
            server = self._known.setdefault(node, made)
        return server


def _tell_what_was_taken(link: Link, each: Sequence[Any]) -> None:
    here = [answer for answer in each if not isinstance(answer, Elsewhere | None)]
    if any(answer is True for answer in here):
        link.accepted()
    elif here:
        # Full, or only to be read: asking again at once would cost as much for nothing.
        link.refused(here[0])


def _chunks(places: Sequence[int], sizes: Sequence[int]) -> Iterator[list[int]]:
    """Places in parts of one round trip each."""
    chunk: list[int] = []
    nbytes = 0
    for at in places:
        if chunk and (len(chunk) >= MOST_ITEMS or nbytes + sizes[at] > _MOST_BYTES):
            yield chunk
            chunk, nbytes = [], 0
        chunk.append(at)
        nbytes += sizes[at]
    if chunk:
        yield chunk
