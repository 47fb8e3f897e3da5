"""Test doubles in plain Python that tests assign to an instrumentation or put into a key, a usual
event, and how tests read a trace file.
"""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

FIELDS = ("ts", "probe", "view_id", "prompt_hash", "top_k", "op", "wall_ms", "hit")

EVENT = {
    "ts": 1_700_000_000.25,
    "probe": "probe-1",
    "view_id": "base",
    "prompt_hash": "a9993e364706",
    "top_k": 256,
    "op": "next_token_dist",
    "wall_ms": 1.5,
    "hit": False,
}


def event(**changes: object) -> SimpleNamespace:
    return SimpleNamespace(**{**EVENT, **changes})


class RecordingTrace:
    """A trace that keeps its events."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self.closed = 0

    def write(self, event: Any) -> None:
        self.events.append(event)

    def close(self) -> None:
        self.closed += 1

    @property
    def hits(self) -> list[bool]:
        return [event.hit for event in self.events]

    @property
    def probes(self) -> list[str | None]:
        return [event.probe for event in self.events]


class Scripted:
    """A field of a key, equal by name; ``on_eq`` runs at the next comparison of a stored one."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.on_eq: Callable[[], object] = lambda: True

    def __eq__(self, other: object) -> Any:
        if not isinstance(other, Scripted):
            return NotImplemented
        on_eq, self.on_eq = self.on_eq, lambda: True
        return on_eq() and self.name == other.name

    def __hash__(self) -> int:
        return hash(self.name)


class DictCache:
    """A cache without a limit that keeps a list of what was asked of it."""

    def __init__(self, miss: object) -> None:
        self.miss = miss
        self.values: dict[object, object] = {}
        self.calls: list[tuple[str, object]] = []

    def get(self, key: object) -> object:
        self.calls.append(("get", key))
        return self.values.get(key, self.miss)

    def put(self, key: object, value: object) -> None:
        self.calls.append(("put", key))
        self.values[key] = value


class Counters:
    """Statistics that are nothing but attributes."""

    def __init__(self) -> None:
        self.cache_hits = 0
        self.cache_misses = 0
        self.forward_passes = 0
        self.scoring_wall_s = 0.0
        self.batches_sent = 0
        self.batched_prompts = 0
        self.max_batch_size = 0


def never() -> NoReturn:
    raise AssertionError("computed although the value is cached")


def never_batch(indices: list[int]) -> NoReturn:
    raise AssertionError(f"computed {indices} although the values are cached")


class Computes:
    """A backend for batches: gives ``value-of-PROMPT`` and remembers what it was asked."""

    def __init__(self, prompts: list[Any]) -> None:
        self.prompts = prompts
        self.asked: list[list[int]] = []

    def __call__(self, indices: list[int]) -> list[str]:
        self.asked.append(list(indices))
        return [f"value-of-{self.prompts[index]}" for index in indices]


def raising(error: BaseException) -> Callable[..., NoReturn]:
    def compute(*_: object) -> NoReturn:
        raise error

    return compute


def read_events(path: Path, *open_writers: Any) -> list[dict[str, Any]]:
    """The lines of a trace, read as strictly as JSON allows; every one ends with a newline.

    ``open_writers`` still write it; ours flush first, the plain ones always have.
    """
    for writer in open_writers:
        if hasattr(writer, "flush"):
            writer.flush()
    text = path.read_text(encoding="ascii")
    assert not text or text.endswith("\n")
    return [strict_loads(line) for line in text.splitlines()]


def strict_loads(line: str) -> dict[str, Any]:
    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not JSON")

    event = json.loads(line, parse_constant=refuse)
    assert isinstance(event, dict)
    return event
