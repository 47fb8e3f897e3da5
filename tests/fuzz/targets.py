"""What any bytes may not do, one function a target: each raises if they do it."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

from forwardcache.conformance.judge import cancelled_ending, stream_rules, usage_contradiction
from forwardcache.conformance.stream import Reception
from forwardcache.store.seal import seal, unseal
from tests.observe.test_any_bytes import hold_to_plain_reading

KEY = bytes(range(32))


def reader(data: bytes) -> None:
    """A trace: the events that are in it by the definitions alone, and no others."""
    hold_to_plain_reading(data)


def store(data: bytes) -> None:
    """A stored value: what comes out of bytes goes back into the same value, and is its key's."""
    assert unseal(KEY, data) is None or data[36:68] == KEY
    # Checksums keep almost all bytes out, so these have right ones.
    sealed = seal(KEY, 1.0)[:4] + hashlib.sha256(KEY + data).digest() + KEY + data
    value = unseal(KEY, sealed)
    if value is not None:
        again = unseal(KEY, seal(KEY, value))
        assert type(again) is type(value)
        assert seal(KEY, again) == seal(KEY, value)
        assert unseal(KEY[::-1], sealed) is None


REASONS: list[Any] = [
    *(None, None, None, "stop", "length", "", "cancelled", "abort", "Cancelled", "error", 0, False),
    *({"error": "x"}, {"type": "stop"}, ["stop"], b"stop"),
]
COUNTS: list[Any] = [None, 0, 1, 2, 3, 7, -1, True, 1.0, 2.5, float("nan"), "3", [], 2**70, b"", {}]


def judge(data: bytes) -> None:
    """A stream of chunks: the rules that it breaks are those that it breaks as they are written."""
    items = _items(data)
    reception = Reception()
    for item in items:
        reception.add(item)
    names = _verdict(reception)
    assert names == _verdict(reception), "the same stream is judged alike"
    assert names == _expected(items)
    for item in items:
        _spoil(item)
    assert names == _verdict(reception), "what was received can't be changed any more"
    usage_contradiction(reception.chunks)


def _verdict(reception: Reception) -> tuple[list[str], list[str]]:
    whole, ending = ([*map(_told, rules(reception))] for rules in (stream_rules, cancelled_ending))
    return whole, ending


def _told(failure: Any) -> str:
    assert str(failure)
    return type(failure).__name__


def _items(data: bytes) -> list[Any]:
    """Three bytes an item: its kind and tokens, its reason, its usage."""
    items = []
    for at in range(0, len(data) - 2, 3):
        kind, reason, usage = data[at : at + 3]
        fields: dict[str, Any] = {"token_ids": [1] * (kind & 3)}
        if kind & 4:
            fields["finish_reason"] = REASONS[reason & 15]
        if kind & 8:
            completion, total = COUNTS[usage & 15], COUNTS[usage >> 4]
            counts = {"completion_tokens": completion, "prompt_tokens": 1, "total_tokens": total}
            fields["completion_usage"] = counts if kind & 16 else SimpleNamespace(**counts)
        if kind & 32:
            fields["token_ids"] = COUNTS[reason >> 4]
        item: Any = SimpleNamespace(**fields) if kind & 64 else fields
        items.append(COUNTS[usage & 15] if kind & 128 else item)
    return items


def _spoil(item: Any) -> None:
    fields = item if isinstance(item, dict) else getattr(item, "__dict__", {})
    if isinstance(fields.get("token_ids"), list):
        fields["token_ids"].append(9)
    fields["finish_reason"] = "stop"


def _field(item: Any, name: str) -> Any:
    return item.get(name) if isinstance(item, dict) else getattr(item, name, None)


def _is_whole(item: Any) -> bool:
    tokens = _field(item, "token_ids")
    fields = item if isinstance(item, dict) else getattr(item, "__dict__", None)
    is_chunk = isinstance(item, dict) or (
        fields is not None and ("token_ids" in fields or "finish_reason" in fields)
    )
    return is_chunk and (tokens is None or hasattr(tokens, "__iter__"))


def _expected(items: list[Any]) -> tuple[list[str], list[str]]:
    """The rules, once more and simply."""
    if not items:
        return ["NoChunksYielded"], ["NoChunksYielded"]
    whole = [_is_whole(item) for item in items]
    broken = [] if all(whole) else ["StreamYieldedError"]
    terminal = [
        good and _field(item, "finish_reason") is not None
        for good, item in zip(whole, items, strict=True)
    ]
    if not any(terminal):
        broken.append("NoTerminalChunk")
    else:
        broken += ["ChunkAfterTerminal"] * (True in terminal[:-1])
        broken += ["CompletionTokensMismatch"] * _miscounts(items, whole, terminal)
    return broken, _expected_ending(items[-1], whole[-1])


def _miscounts(items: list[Any], whole: list[bool], terminal: list[bool]) -> bool:
    last = max(place for place, ends in enumerate(terminal) if ends)
    usage = _field(items[last], "completion_usage")
    tokens = [_field(item, "token_ids") for item, good in zip(items, whole, strict=True) if good]
    sent = sum(len(list(each)) for each in tokens if each is not None)
    return usage is not None and bool(_field(usage, "completion_tokens") != sent)


def _expected_ending(last: Any, is_whole: bool) -> list[str]:
    if not is_whole:
        return ["StreamYieldedError"]
    reason = _field(last, "finish_reason")
    is_cancelled = isinstance(reason, str) and reason.lower() in ("cancelled", "abort")
    return [] if is_cancelled else ["CancellationIgnored"]


TARGETS: dict[str, Callable[[bytes], None]] = {"reader": reader, "store": store, "judge": judge}
