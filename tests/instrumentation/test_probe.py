"""Who asked: ``set_current_probe`` for everybody, ``with inst.probe(name)`` for one context."""

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tests.instrumentation.doubles import RecordingTrace, read_events
from tests.instrumentation.together import INHERITS, LONG


@pytest.fixture
def inst(api: ModuleType) -> Any:
    """An instrumentation that keeps its events."""
    inst = api.BackendInstrumentation()
    inst.trace = RecordingTrace()
    return inst


def call(inst: Any, prompt: str = "prompt") -> None:
    inst.cached("op", "view", prompt, 8, lambda: 1)


def test_nobody_asked_unless_somebody_says_so(inst: Any) -> None:
    call(inst)
    assert inst.trace.probes == [None]


def test_a_current_probe_labels_later_events_until_it_is_taken_away(inst: Any) -> None:
    inst.set_current_probe("one")
    call(inst)
    inst.set_current_probe("two")
    call(inst)
    inst.set_current_probe(None)
    call(inst)
    assert inst.trace.probes == ["one", "two", None]


def test_a_current_probe_labels_every_event_of_a_batch(inst: Any) -> None:
    inst.set_current_probe("one")
    call(inst, "a")
    inst.cached_batch("op", "view", ["a", "b", "b"], 8, lambda misses: misses)
    assert inst.trace.probes == ["one"] * 4


def test_a_current_probe_is_that_of_every_thread(inst: Any) -> None:
    inst.set_current_probe("one")
    in_a_thread(lambda: call(inst))
    assert inst.trace.probes == ["one"]


def test_a_with_labels_its_events_and_no_later_one(inst: Any) -> None:
    with inst.probe("scoped"):
        call(inst)
        inst.cached_batch("op", "view", ["a"], 8, lambda misses: misses)
    call(inst)
    assert inst.trace.probes == ["scoped", "scoped", None]


def test_a_with_comes_before_the_current_probe(inst: Any) -> None:
    inst.set_current_probe("current")
    with inst.probe("scoped"):
        call(inst)
        inst.set_current_probe("newer")
        call(inst)
    call(inst)
    assert inst.trace.probes == ["scoped", "scoped", "newer"]


def test_withs_nest_and_end_with_an_exception_too(inst: Any) -> None:
    def fail() -> None:
        with inst.probe("inner"):
            call(inst)
            raise ZeroDivisionError

    with inst.probe("outer"):
        with pytest.raises(ZeroDivisionError):
            fail()
        call(inst)
    call(inst)
    assert inst.trace.probes == ["inner", "outer", None]


def test_a_with_labels_the_events_of_its_thread_alone(inst: Any) -> None:
    inst.set_current_probe("current")
    with ThreadPoolExecutor(1) as other:
        other.submit(call, inst).result()
        with inst.probe("scoped"):
            other.submit(call, inst).result()
            call(inst)
    assert inst.trace.probes == ["current", "current", "scoped"]


def test_a_thread_begun_inside_has_the_label_if_it_inherits_the_context(inst: Any) -> None:
    inst.set_current_probe("current")
    with inst.probe("scoped"):
        in_a_thread(lambda: call(inst))
    assert inst.trace.probes == ["scoped" if INHERITS else "current"]


def test_threads_have_their_own_probes_at_the_same_time(inst: Any) -> None:
    barrier = threading.Barrier(4)

    def score(name: str) -> None:
        with inst.probe(name):
            barrier.wait(LONG)
            call(inst, name)
            barrier.wait(LONG)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(score, ["p0", "p1", "p2", "p3"]))
    assert sorted(inst.trace.probes) == ["p0", "p1", "p2", "p3"]


def test_tasks_have_their_own_probes_at_the_same_time(inst: Any) -> None:
    async def score(name: str) -> None:
        with inst.probe(name):
            await asyncio.sleep(0)
            call(inst, name)
            await asyncio.sleep(0)
            call(inst, name)

    async def all_of_them() -> None:
        await asyncio.gather(*[score(f"p{number}") for number in range(3)])

    asyncio.run(all_of_them())
    assert sorted(inst.trace.probes) == ["p0", "p0", "p1", "p1", "p2", "p2"]
    by_prompt: dict[str, set[str | None]] = {}
    for event in inst.trace.events:
        by_prompt.setdefault(event.prompt_hash, set()).add(event.probe)
    assert all(len(probes) == 1 for probes in by_prompt.values())


def test_a_task_inherits_the_probe_it_was_made_under(inst: Any) -> None:
    async def score() -> None:
        with inst.probe("outer"):
            task = asyncio.create_task(asyncio.to_thread(call, inst))
        call(inst)
        await task

    asyncio.run(score())
    assert sorted(inst.trace.probes, key=str) == [None, "outer"]


def test_a_copied_context_keeps_its_probe(inst: Any) -> None:
    with inst.probe("scoped"):
        context = copy_context()
    context.run(call, inst)
    call(inst)
    assert inst.trace.probes == ["scoped", None]


def test_the_probe_of_one_instrumentation_does_not_label_anothers(
    api: ModuleType, inst: Any
) -> None:
    other = api.BackendInstrumentation()
    other.trace = RecordingTrace()
    with inst.probe("mine"), other.probe("theirs"):
        call(inst)
        call(other)
    other.set_current_probe("current")
    call(inst)
    assert (inst.trace.probes, other.trace.probes) == (["mine", None], ["theirs"])


def test_probes_stand_in_the_file(api: ModuleType, tmp_path: Path) -> None:
    with api.BackendInstrumentation(trace_path=tmp_path / "trace.jsonl") as inst:
        call(inst)
        with inst.probe("scoped"):
            call(inst)
    assert [line["probe"] for line in read_events(tmp_path / "trace.jsonl")] == [None, "scoped"]


def test_calls_inside_a_computation_have_the_probe_of_their_context(inst: Any) -> None:
    def compute() -> int:
        with inst.probe("inner"):
            call(inst, "inner")
        return 1

    with inst.probe("outer"):
        inst.cached("op", "view", "outer", 8, compute)
    assert inst.trace.probes == ["inner", "outer"]


def in_a_thread(run: Any) -> None:
    thread = threading.Thread(target=run)
    thread.start()
    thread.join(LONG)
    assert not thread.is_alive()


def test_a_refused_second_entry_of_a_probe_leaves_no_label(rust: ModuleType) -> None:
    inst = rust.BackendInstrumentation()
    events: list[Any] = []
    inst.trace = SimpleNamespace(write=events.append)
    probe = inst.probe("n")
    with pytest.raises(RuntimeError, match="already entered"), probe, probe:
        pass
    inst.cached("op", "view", "prompt", 8, lambda: 1)
    assert [event.probe for event in events] == [None]
