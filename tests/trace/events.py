"""Numbered events: how a process leaves them in a trace, and what the trace has to hold afterwards.

A *step* is one call, or two, that leaves one or more events. The step's number is the ``top_k`` of
its lines, and the rest of a line tells its place in the step. So every event has a number within
its thread, from 0, that can be read back from its line alone.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from forwardcache.instrumentation import (
    BackendInstrumentation,
    TraceEvent,
    TraceWriter,
    prompt_hash,
)
from tests.instrumentation.doubles import strict_loads

OP, PROMPT = "op", "prompt"
LOSS_OP = "trace_lost"
BATCH = ["a", "b", "c"]
LABELS = {prompt_hash(prompt): place for place, prompt in enumerate(BATCH)}

EVENTS_A_STEP = {"write": 1, "call": 2, "batch": len(BATCH)}
"""By how the events are made: ``TraceWriter.write``, a miss and a hit, one batch."""

Line = dict[str, Any]
Step = Callable[[str, int], None]
"""Leaves the events of a step: given the thread's view and the step's number."""

Trace = TraceWriter | BackendInstrumentation


def opened(path: str | Path, how: str, **options: Any) -> tuple[Trace, Step]:
    """A trace that takes events, and what makes them."""
    writer = TraceWriter(path, **options)
    trace: Trace = writer
    if how != "write":
        # Without a limit, since a miss is told from the hit after it by that alone.
        trace = BackendInstrumentation(cache_maxsize=None)
        trace.trace = writer
    return trace, stepping(trace, how)


def stepping(trace: Trace, how: str, event: Callable[..., Any] = TraceEvent) -> Step:
    """What makes the events of an open trace: a function that shares no variable with another one.

    Args:
        trace: The trace.
        how: A key of ``EVENTS_A_STEP``.
        event: Makes what ``TraceWriter.write`` is given, from the fields of ``TraceEvent``.
    """
    if isinstance(trace, TraceWriter):
        return writing(trace, event)
    return {"call": calling, "batch": batching}[how](trace)


def writer_of(trace: Trace) -> TraceWriter:
    return trace if isinstance(trace, TraceWriter) else trace.trace


def writing(writer: TraceWriter, event: Callable[..., Any] = TraceEvent) -> Step:
    def step(view: str, number: int) -> None:
        writer.write(event(0.5, None, view, "label", number, OP, 0.25, False))

    return step


def calling(inst: BackendInstrumentation) -> Step:
    def step(view: str, number: int) -> None:
        inst.cached(OP, view, PROMPT, number, int)
        inst.cached(OP, view, PROMPT, number, int)

    return step


def batching(inst: BackendInstrumentation) -> Step:
    def step(view: str, number: int) -> None:
        inst.cached_batch(OP, view, BATCH, number, list)

    return step


def number_of(line: Line, how: str) -> int:
    """The number of an event within its thread."""
    place = {"write": 0, "call": int(line["hit"]), "batch": LABELS.get(line["prompt_hash"], 0)}
    first: int = line["top_k"] * EVENTS_A_STEP[how]
    return first + place[how]


# Reading and checking


def read_whole_lines(path: Path) -> list[Line]:
    """All lines of a trace. Every one is strict JSON and ends with a newline."""
    text = path.read_bytes().decode("ascii")
    assert not text or text.endswith("\n"), f"torn: ...{text[-200:]!r}"
    return [strict_loads(line) for line in text.split("\n")[:-1]]


def events_of(lines: Iterable[Line]) -> list[Line]:
    """Without the lines that report losses."""
    return [line for line in lines if line["op"] != LOSS_OP]


def reported_losses(lines: Iterable[Line]) -> int:
    """How many events the trace itself says are lost."""
    return sum(line["lost"] for line in lines if line["op"] == LOSS_OP)


def assert_no_line_twice(lines: Iterable[Line]) -> None:
    seen = set()
    for line in lines:
        identity = (line["run"], line["thread"], line["seq"])
        assert identity not in seen, f"twice: {line}"
        seen.add(identity)


def assert_in_order(lines: Iterable[Line]) -> None:
    """Within a thread of a run, ``seq`` only grows."""
    last: dict[tuple[str, int], int] = {}
    for line in lines:
        thread, seq = (line["run"], line["thread"]), line["seq"]
        assert seq > last.get(thread, -1), f"after {last[thread]}: {line}"
        last[thread] = seq


def numbers_by_view(lines: Iterable[Line], how: str) -> dict[str, list[int]]:
    numbers = defaultdict(list)
    for line in lines:
        numbers[line["view_id"]].append(number_of(line, how))
    return numbers


def assert_exactly(lines: list[Line], returned: Mapping[str, int], how: str) -> int:
    """The events of all steps that returned are there, once and in order, and none was invented.

    Args:
        lines: The lines of a trace after all recoveries.
        returned: The steps that returned, by view.
        how: How the events were made.

    Returns:
        The number of events.
    """
    assert_no_line_twice(lines)
    assert_in_order(lines)
    assert not reported_losses(lines)
    found = numbers_by_view(lines, how)
    assert found.keys() <= returned.keys()
    for view, steps in returned.items():
        numbers = found.get(view, [])
        assert numbers == list(range(len(numbers))), f"{view}: lost, doubled or out of order"
        least = steps * EVENTS_A_STEP[how]
        # The step that was under way may have left its events, or some.
        assert least <= len(numbers) <= least + EVENTS_A_STEP[how], (
            f"{view}: {least} events returned, {len(numbers)} are there"
        )
    return sum(map(len, found.values()))


def companions(path: Path) -> list[str]:
    """What lies beside a trace, its lock aside."""
    names = [each.name for each in path.parent.glob(f"{path.name}.*")]
    return sorted(name for name in names if name != f"{path.name}.lock")
