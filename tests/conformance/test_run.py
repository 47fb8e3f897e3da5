"""The run itself: factories, options, reports, what a failure carries.

Checked here: how often the factory is called, and when; the order of the checks; first failure or
all; JSON; options out of range; the requests that engines get; speed of a run.
"""

import asyncio
import inspect
import json
import pickle
import time
from collections.abc import AsyncIterator
from typing import Any, ClassVar

import pytest

import forwardcache.conformance as kit
from forwardcache.conformance import (
    CancellationIgnored,
    CheckTimedOut,
    CompletionTokensMismatch,
    ConformanceFailure,
    GenerateFailed,
    NoChunksYielded,
    StartFailed,
    check_conformance,
    run_conformance,
)
from forwardcache.conformance.checks import CHECKS, checks_of
from forwardcache.conformance.subject import Options, Settings
from tests.conformance import engines
from tests.conformance.cases import QUICK, SEED_FAULTS, Case, with_usage

SEED_ORDER = [
    "start",
    "kv_event_sources",
    "setup_metrics",
    "single_generate",
    "concurrent_generates",
    "cancellation",
    "cleanup",
    "cleanup_without_start",
]


class Recorder(engines.Engine):
    """Writes down what is done to it and to the factory."""

    log: ClassVar[list[str]] = []
    requests: ClassVar[list[dict[str, Any]]] = []

    def __init__(self) -> None:
        super().__init__()
        self.log.append("factory")

    async def start(self, worker_id: int) -> Any:
        self.log.append("start")
        return await super().start(worker_id)

    async def generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
        self.requests.append(request)
        async for item in super().generate(request, context):
            yield item
        request.clear()

    async def cleanup(self) -> None:
        self.log.append("cleanup")
        await super().cleanup()


@pytest.fixture
def recorder(monkeypatch: pytest.MonkeyPatch) -> type[Recorder]:
    monkeypatch.setattr(Recorder, "log", [])
    monkeypatch.setattr(Recorder, "requests", [])
    return Recorder


def test_the_seed_has_its_eight_checks_in_order() -> None:
    assert [check.name for check in checks_of("seed")] == SEED_ORDER


def test_strict_has_the_seed_in_the_same_order() -> None:
    names = [check.name for check in checks_of("strict")]
    assert [name for name in names if name in SEED_ORDER] == SEED_ORDER
    assert names == [check.name for check in CHECKS]


def test_the_factory_is_called_once_before_the_last_check_and_twice_in_all(
    recorder: type[Recorder],
) -> None:
    check_conformance(recorder)
    assert recorder.log == ["factory", "start", "cleanup", "cleanup", "factory", "cleanup"]


def test_strict_calls_the_factory_no_more_often(recorder: type[Recorder]) -> None:
    check_conformance(recorder, profile="strict", **QUICK)
    assert recorder.log.count("factory") == 2
    assert recorder.log.count("start") == 1


@pytest.mark.parametrize(
    "case", [c for c in SEED_FAULTS if c.check != "cleanup_without_start"], ids=lambda c: c.id
)
def test_a_run_that_fails_before_the_last_check_has_called_the_factory_once(case: Case) -> None:
    made = []

    def factory() -> Any:
        made.append(case.factory())
        return made[-1]

    Case(case.row, factory, case.expected, options=case.options).verdict()
    assert len(made) == 1


def test_a_factory_may_be_a_coroutine_function() -> None:
    async def factory() -> Any:
        await asyncio.sleep(0)
        return engines.Engine()

    assert check_conformance(factory).conforms


@pytest.mark.parametrize("error", [ValueError("no folder"), SystemExit(3)])
def test_what_the_factory_raises_is_no_verdict(error: BaseException) -> None:
    def factory() -> Any:
        raise error

    with pytest.raises(type(error)) as raised:
        check_conformance(factory)
    assert raised.value is error
    with pytest.raises(type(error)):
        asyncio.run(run_conformance(factory))


def test_requests_are_those_of_the_page(recorder: type[Recorder]) -> None:
    class Keeping(recorder):  # type: ignore[misc,valid-type]
        async def generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
            self.requests.append(json.loads(json.dumps(request)))
            async for item in engines.Engine.generate(self, request, context):
                yield item
            request.clear()

    check_conformance(Keeping, max_tokens=5, concurrency=2)
    limits = [request["stop_conditions"]["max_tokens"] for request in recorder.requests]
    assert limits == [5, 5, 5, 10_000]
    assert recorder.requests[0] == {
        "model": "toy",
        "token_ids": [1, 2, 3],
        "stop_conditions": {"max_tokens": 5},
        "sampling_options": {},
        "output_options": {},
    }


def test_no_limit_is_asked_for_as_none(recorder: type[Recorder]) -> None:
    seen = []

    class Keeping(engines.Engine):
        async def generate(self, request: Any, context: Any) -> AsyncIterator[Any]:
            seen.append(request["stop_conditions"]["max_tokens"])
            async for item in engines.Engine.generate(self, request, context):
                yield item

    check_conformance(Keeping, max_tokens=None, concurrency=1)
    assert seen == [None, None, 10_000]


def test_every_stream_gets_a_context_of_its_own() -> None:
    contexts = []

    def context_factory() -> Any:
        contexts.append(kit.mock_context())
        return contexts[-1]

    check_conformance(engines.Engine, context_factory=context_factory)
    assert len({context.id() for context in contexts}) == len(contexts) == 1 + 8 + 1
    assert [context.is_stopped() for context in contexts] == [*[False] * 9, True]


def test_metrics_get_one_context_twice_and_nothing_is_published() -> None:
    contexts = []

    class Bindings:
        dp_ranks = (0,)

        def on_publisher_ready(self, *args: object) -> None:
            raise AssertionError("published")

    class Engine(engines.Engine):
        async def setup_metrics(self, context: Any) -> Any:
            contexts.append(context)
            context.metrics.gauge("depth").set(3)
            return Bindings()

    check_conformance(Engine)
    first, second = contexts
    assert first is second
    assert (first.model, first.component, first.model_load_time_seconds) == (
        "test-model",
        "test",
        0.0,
    )


def test_abort_is_called_only_when_asked_for() -> None:
    aborted: list[str] = []

    class Engine(engines.Engine):
        async def abort(self, context: Any) -> None:
            assert context.is_stopped()
            aborted.append(context.id())

    check_conformance(Engine, profile="strict", **QUICK)
    assert aborted == []
    check_conformance(Engine, drive_abort=True)
    assert len(aborted) == 1


def test_a_failure_carries_its_check_its_fields_and_what_was_received() -> None:
    with pytest.raises(CompletionTokensMismatch) as raised:
        check_conformance(engines.ending(with_usage(completion_tokens=9)), max_tokens=2)
    failure = raised.value
    assert (failure.chunked, failure.reported, failure.check) == (2, 9, "single_generate")
    assert [chunk.finish_reason for chunk in failure.chunks] == [None, "length"]
    times = [chunk.at for chunk in failure.chunks]
    assert times == sorted(times)
    assert all(0 <= at < 1 for at in times)


def test_a_failure_shows_sentence_check_and_the_last_chunks_as_a_table() -> None:
    with pytest.raises(CancellationIgnored) as raised:
        check_conformance(engines.stopped(*[engines.chunk(1, 2)] * 9, engines.chunk(3)))
    lines = str(raised.value).splitlines()
    assert lines[0].startswith("the stopped stream did not end with a cancelled chunk")
    assert lines[1] == "check: cancellation"
    assert lines[3] == "(5 chunks before these)"
    assert lines[4].split() == ["chunk", "ms", "token_ids", "finish_reason", "usage"]
    assert [line.split()[0] for line in lines[5:]] == ["5", "6", "7", "8", "9"]
    assert "[1, 2]" in lines[5]


@pytest.mark.parametrize("case", SEED_FAULTS[::4], ids=lambda case: case.id)
def test_failures_survive_pickling(case: Case) -> None:
    failure = case.verdict()
    assert failure is not None
    failure.report = None
    copy = pickle.loads(pickle.dumps(failure))  # noqa: S301
    assert type(copy) is type(failure)
    assert str(copy) == str(failure)
    assert copy.values() == failure.values()


def test_a_failure_is_an_assertion_error_and_made_from_its_fields() -> None:
    failure = kit.CancellationNotObserved(after=2.0)
    assert isinstance(failure, AssertionError)
    assert str(failure) == "the stream did not end within 2 s after stop_generating()"
    assert (failure.check, failure.chunks, failure.report) == ("", (), None)


def test_the_first_failure_ends_the_run() -> None:
    with pytest.raises(NoChunksYielded) as raised:
        check_conformance(engines.streaming())
    report = raised.value.report
    assert report is not None
    assert [result.outcome for result in report.results] == [
        *["passed"] * 3,
        "failed",
        *["not_run"] * 4,
    ]


def test_all_failures_are_reported_when_asked_for_and_the_first_is_raised() -> None:
    item = engines.chunk(1, finish="length", usage=engines.usage(3, 5))
    factory = engines.streaming(item, item)
    with pytest.raises(kit.ChunkAfterTerminal) as raised:
        check_conformance(factory, report_all=True)
    assert raised.value.report is not None
    names = [type(failure).__name__ for failure in raised.value.report.failures]
    assert names == ["ChunkAfterTerminal", "CompletionTokensMismatch"]
    assert raised.value.__notes__ == ["also broken: CompletionTokensMismatch"]


def test_an_engine_that_does_not_start_skips_what_needs_it_and_says_so() -> None:
    with pytest.raises(StartFailed) as raised:
        check_conformance(engines.FailsToStart, report_all=True)
    assert raised.value.report is not None
    results = {result.check: result for result in raised.value.report.results}
    assert results["cancellation"].outcome == "skipped"
    assert "no memory" in str(results["cancellation"].reason)
    assert results["cleanup_without_start"].outcome == "passed"


def test_a_report_is_strict_json() -> None:
    report = json.loads(check_conformance(engines.Engine, profile="strict", **QUICK).to_json())
    assert report["conforms"] is True
    assert [check["check"] for check in report["checks"]] == [c.name for c in CHECKS]
    assert report["checks"][-1]["outcome"] == "skipped"


@pytest.mark.parametrize("odd", [float("nan"), float("inf"), {1, 2}, b"x"])
def test_values_of_the_engine_that_json_lacks_become_text(odd: Any) -> None:
    chunks = [engines.chunk(odd), engines.chunk(1, usage=engines.usage(3, odd, odd))]
    with pytest.raises(kit.NoTerminalChunk) as raised:
        check_conformance(engines.streaming(*chunks))
    assert raised.value.report is not None
    check = json.loads(raised.value.report.to_json())["checks"][3]
    failure = check["failures"][0]
    assert failure["name"] == "NoTerminalChunk"
    assert failure["chunks"][0]["token_ids"] == [repr(odd)]


def test_a_failure_inside_a_failure_is_json_too() -> None:
    with pytest.raises(kit.ConcurrentStreamInvalid) as raised:
        check_conformance(engines.RaisesInConcurrentStreams, profile="strict", **QUICK)
    assert isinstance(raised.value.failure, kit.StreamYieldedError)
    assert raised.value.report is not None
    assert "StreamYieldedError" in raised.value.report.to_json()


@pytest.mark.parametrize(
    "options",
    [
        {"profile": "lenient"},
        {"cancel_deadline": 0},
        {"check_timeout": -1.0},
        {"max_tokens": 0},
        {"concurrency": 0},
        {"block_limit": float("nan")},
    ],
)
def test_an_option_out_of_range_is_refused_and_named(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        check_conformance(engines.Engine, **options)


def test_every_public_name_is_there_and_no_other() -> None:
    assert all(hasattr(kit, name) for name in kit.__all__)
    assert set(kit.__all__) <= set(dir(kit))
    with pytest.raises(AttributeError):
        kit.nothing  # noqa: B018


def test_every_failure_explains_itself() -> None:
    for name in kit.failures.__all__:
        assert getattr(kit, name).__doc__


@pytest.mark.parametrize("function", [run_conformance, check_conformance])
def test_the_keywords_and_their_defaults_are_those_of_the_page(function: Any) -> None:
    parameters = inspect.signature(function).parameters
    defaults = {name: p.default for name, p in parameters.items() if name != "factory"}
    assert list(defaults.items())[:7] == [
        ("profile", "seed"),
        ("cancel_deadline", 2.0),
        ("max_tokens", 8),
        ("concurrency", 8),
        ("context_factory", kit.mock_context),
        ("check_timeout", 120.0),
        ("drive_abort", False),
    ]
    settings = Settings()
    assert {name: getattr(settings, name) for name in defaults} == defaults
    assert set(Options.__annotations__) == set(defaults)


def test_a_call_from_within_a_running_loop_works() -> None:
    async def caller() -> bool:
        return check_conformance(engines.Engine).conforms

    assert asyncio.run(caller())


def test_a_timeout_is_a_failure_like_any_other() -> None:
    assert issubclass(CheckTimedOut, ConformanceFailure)
    assert not issubclass(CheckTimedOut, TimeoutError)


def test_generate_failures_have_the_engines_words() -> None:
    with pytest.raises(GenerateFailed) as raised:
        check_conformance(engines.having(generate=engines.failing_at_once))
    assert raised.value.message == "ValueError: no slot"


def test_the_seed_profile_takes_less_than_50_ms() -> None:
    check_conformance(engines.Engine)
    # A busy machine can make any one of them slow; a slow profile is slow every time.
    assert any(_seconds_of_a_run() < 0.05 for _ in range(100))


def _seconds_of_a_run() -> float:
    began = time.perf_counter()
    check_conformance(engines.Engine)
    return time.perf_counter() - began
