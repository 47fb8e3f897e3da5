"""Hits of many callers in one trace: each line says whose hit it is, however they take turns."""

from itertools import product
from pathlib import Path
from threading import Thread
from types import ModuleType
from typing import Any

from tests.instrumentation.doubles import raising, read_events

OPS, VIEWS, PROBES = ("op", "another op"), ("base", "ft"), (None, "one", "two")
# Around the largest that a brief event holds, and beyond what a word does.
TOP_KS = (0, 8, 2**22 - 1, 2**22, -1, 2**70)
CALLERS = list(product(OPS, VIEWS, TOP_KS, PROBES))


def hit(inst: Any, op: str, view: str, top_k: int, probe: str | None) -> None:
    inst.set_current_probe(probe)
    inst.cached(op, view, "abc", top_k, raising(AssertionError()))


def filled(rust: ModuleType, path: Path) -> Any:
    """An instrumentation with a value for every key, and a trace that begins after that."""
    inst = rust.BackendInstrumentation()
    for op, view, top_k in product(OPS, VIEWS, TOP_KS):
        inst.cached(op, view, "abc", top_k, lambda: 1)
    inst.trace = rust.TraceWriter(path)
    return inst


def asked(path: Path) -> list[tuple[Any, ...]]:
    lines = read_events(path)
    assert {line["prompt_hash"] for line in lines} == {"a9993e364706"}
    assert all(line["hit"] is True for line in lines)
    return [tuple(line[name] for name in ("op", "view_id", "top_k", "probe")) for line in lines]


def test_hits_of_callers_in_turn_are_told_apart(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    inst = filled(rust, path)
    turns = [*CALLERS, *CALLERS, *(each for each in CALLERS for _ in range(3))]
    for caller in turns:
        hit(inst, *caller)
    inst.close()
    assert asked(path) == turns
    keys: dict[tuple[Any, ...], set[str]] = {}
    for line in read_events(path):
        keys.setdefault((line["op"], line["view_id"], line["top_k"]), set()).add(line["key"])
    assert all(len(of) == 1 for of in keys.values())
    assert len(set.union(*keys.values())) == len(keys) == 24


def test_a_caller_is_known_to_each_trace_by_its_own_numbers(
    rust: ModuleType, tmp_path: Path
) -> None:
    one, other = tmp_path / "one.jsonl", tmp_path / "other.jsonl"
    inst = filled(rust, one)
    traces = [inst.trace, rust.TraceWriter(other)]
    for caller in [*reversed(CALLERS), *CALLERS]:
        for trace in traces:
            inst.trace = trace
            hit(inst, *caller)
            hit(inst, *caller)
    for trace in traces:
        trace.close()
    assert asked(one) == asked(other)
    assert asked(one)[-1] == CALLERS[-1]


def test_hits_of_a_thread_have_its_number(rust: ModuleType, tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    inst = filled(rust, path)
    for _ in range(3):
        hit(inst, *CALLERS[0])
        thread = Thread(target=hit, args=(inst, *CALLERS[0]))
        thread.start()
        thread.join()
    inst.close()
    numbers = [line["thread"] for line in read_events(path)]
    assert len(set(numbers[::2])) == 1
    assert len(set(numbers)) == 4
