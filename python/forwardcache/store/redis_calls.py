"""Round trips to a Redis or Valkey server, each given a client of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from forwardcache.extras import extra_named
from forwardcache.store.header import MOST_HEADER_BYTES
from forwardcache.store.slots import Node, Ring, named, told_by_cluster

with extra_named("a shared store"):
    from redis.exceptions import (
        AskError,
        ClusterCrossSlotError,
        ClusterDownError,
        MovedError,
        ResponseError,
    )

MOST_ITEMS = 256
"""Values in one round trip."""


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """Another node of the cluster has the key.

    Attributes:
        node: Its host and port.
        slot: The key's slot, which is the node's from now on; None for this once.
    """

    node: Node
    slot: int | None


@dataclass(frozen=True, slots=True)
class Answers:
    """What a server said.

    Attributes:
        each: One answer a key: of a read the value or None, of a write True or what the server said
            against it; ``Elsewhere`` if another node has the key.
        ring: Who has which key in the server's cluster; None if that wasn't asked or not said.
        of_cluster: Whether it is seen to be one of a cluster.
    """

    each: list[Any]
    ring: Ring | None = None
    of_cluster: bool = False


@dataclass(frozen=True, slots=True)
class Way:
    """How a server is asked.

    Attributes:
        node: The server.
        of_cluster: Whether it is known for one of a cluster, which reads keys one by one.
        asks_slots: Whether it has to say who has which key.
        asking: Whether it is asked for keys that are on their way to it.
    """

    node: Node
    of_cluster: bool = False
    asks_slots: bool = False
    asking: bool = False


def read(names: Sequence[bytes], way: Way, client: Any) -> Answers:
    """The values of some keys."""
    if not way.of_cluster:
        try:
            return Answers(_mget(names, client))
        except (ClusterCrossSlotError, MovedError):
            # Of a cluster each key can be asked for by itself.
            pass
    found = _piped([("get", name) for name in names], {}, way, client)
    for answer in found.each:
        # A value of another type is somebody else's.
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            raise answer
    kept = (bytes, Elsewhere)
    each = [answer if isinstance(answer, kept) else None for answer in found.each]
    return Answers(each, found.ring, of_cluster=True)


def write(
    pairs: Sequence[tuple[bytes, bytes]], ttl_ms: int | None, way: Way, client: Any
) -> Answers:
    """Writes values by key over what was there."""
    return _piped([("set", *pair) for pair in pairs], {"px": ttl_ms}, way, client)


def slots(node: Node, client: Any) -> Answers:
    """Who has which key in a server's cluster, if it is in one."""
    try:
        return Answers([], told_by_cluster(client.execute_command("CLUSTER SLOTS"), node))
    except ResponseError:
        return Answers([])


def scan(cursor: int, prefix: bytes, client: Any) -> tuple[int, list[bytes]]:
    """The names of some keys that begin so, and where to go on."""
    following, names = client.scan(cursor, match=prefix + b"*", count=MOST_ITEMS)
    return int(following), list(names)


def headers(names: Sequence[bytes], client: Any) -> list[tuple[Any, Any]]:
    """The first bytes and the whole length of each value."""
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.getrange(name, 0, MOST_HEADER_BYTES - 1)
        pipeline.strlen(name)
    answers = pipeline.execute(raise_on_error=False)
    return list(zip(answers[::2], answers[1::2], strict=True))


def delete(names: Sequence[bytes], client: Any) -> int:
    """Removes values by their names; how many were there."""
    pipeline = client.pipeline(transaction=False)
    for name in names:
        pipeline.delete(name)
    return sum(pipeline.execute())


def cut_off(client: Any) -> None:
    """Ends whatever a client is waiting for."""
    client.connection_pool.disconnect(inuse_connections=True)


def _mget(names: Sequence[bytes], client: Any) -> list[bytes | None]:
    values = client.mget(names)
    if not isinstance(values, list) or len(values) != len(names):
        raise ValueError("the server's answer is not one value a key")
    if any(value is not None and not isinstance(value, bytes) for value in values):
        raise ValueError("the server's values are not bytes")
    return values


def _piped(
    commands: Sequence[tuple[Any, ...]], options: Mapping[str, Any], way: Way, client: Any
) -> Answers:
    """One answer a command, all in one round trip."""
    pipeline = client.pipeline(transaction=False)
    if way.asks_slots:
        pipeline.execute_command("CLUSTER SLOTS")
    for name, *given in commands:
        if way.asking:
            pipeline.execute_command("ASKING")
        getattr(pipeline, name)(*given, **options)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    told = answers.pop(0) if way.asks_slots else None
    if way.asking:
        answers = answers[1::2]
    if len(answers) != len(commands):
        raise ValueError("the server's answer is not one word a value")
    each = [_redirected(answer, way.node) for answer in answers]
    if each and all(isinstance(answer, ClusterDownError) for answer in each):
        raise each[0]
    # A slot that no node of the cluster has.
    each = [None if isinstance(answer, ClusterDownError) else answer for answer in each]
    ring = told_by_cluster(told, way.node) if way.asks_slots else None
    return Answers(each, ring, any(isinstance(answer, Elsewhere) for answer in each))


def _redirected(answer: Any, asked: Node) -> Any:
    if not isinstance(answer, AskError):
        return answer
    # A MovedError is an AskError to the library.
    slot = answer.slot_id if isinstance(answer, MovedError) else None
    return Elsewhere(named(answer.host, answer.port, asked), slot)
