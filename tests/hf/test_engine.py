"""``HFEngine``: streams that decode together are what each would be alone, and leave nothing."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import torch

from forwardcache.errors import (
    ContextLengthError,
    EmptyPromptError,
    EngineStateError,
    InvalidInputError,
)
from forwardcache.hf import HFBackend, HFEngine
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.patience import HANG_S

PROMPTS = [[2 + row, 40 + 3 * row, 7, 90 + row, 11, 60][: 1 + row % 6] for row in range(16)]


class Context:
    """What a caller stops a stream with."""

    def __init__(self) -> None:
        self.stopped = False

    def is_stopped(self) -> bool:
        return self.stopped

    def is_killed(self) -> bool:
        return False

    def stop_generating(self) -> None:
        self.stopped = True


def request(token_ids: list[int], max_tokens: int | None = 12, **fields: Any) -> dict[str, Any]:
    stop = {"max_tokens": max_tokens, **fields.pop("stop", {})}
    return {"model": "m", "token_ids": token_ids, "stop_conditions": stop, **fields}


async def collect(engine: HFEngine, asked: dict[str, Any], context: Any = None) -> list[Any]:
    return [chunk async for chunk in engine.generate(asked, context or Context())]


def tokens(chunks: list[Any]) -> list[int]:
    return [token for chunk in chunks for token in chunk["token_ids"]]


@asynccontextmanager
async def running(backend: HFBackend, **options: Any) -> AsyncIterator[HFEngine]:
    engine = HFEngine(backend, **options)
    await engine.start(0)
    try:
        yield engine
    finally:
        await engine.cleanup()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def main() -> None:
        await asyncio.wait_for(test(), HANG_S)

    asyncio.run(main())


async def until_idle(engine: HFEngine) -> None:
    while engine.in_flight:
        await asyncio.sleep(0.001)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
@pytest.mark.parametrize("view", ["base", "ft", "scaled:0.5"])
def test_greedy_streams_are_what_generate_writes(
    make_backend: MakeBackend, name: str, view: str
) -> None:
    backend = make_backend(name)

    async def test() -> None:
        async with running(backend, view=view) as engine:
            asked = [request(prompt, stop={"ignore_eos": True}) for prompt in PROMPTS]
            streams = await asyncio.gather(*(collect(engine, each) for each in asked))
        for prompt, stream in zip(PROMPTS, streams, strict=True):
            assert tokens(stream) == written_by_generate(backend, view, prompt)

    run(test)


def written_by_generate(backend: HFBackend, view: str, prompt: list[int]) -> list[int]:
    """Greedy tokens, one row, by transformers itself."""
    lam = 0.5 if view.startswith("scaled") else 1.0
    entered = backend.as_base() if view == "base" else backend.as_scaled_adapter(lam)

    def write(_: Any) -> list[int]:
        ids = torch.tensor([prompt])
        lm = backend._scorer.causal_lm
        lm_options = {"do_sample": False, "max_new_tokens": 12, "min_new_tokens": 12}
        out = lm.generate(
            input_ids=ids, attention_mask=torch.ones_like(ids), pad_token_id=0, **lm_options
        )
        new: list[int] = out[0, len(prompt) :].tolist()
        return new

    return backend._scorer.run_in(entered._spec, write)  # type: ignore[no-any-return]


def test_streams_that_join_while_others_decode_equal_their_solo_runs(
    make_backend: MakeBackend,
) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            solo = [tokens(await collect(engine, request(prompt, 20))) for prompt in PROMPTS]

            async def later(row: int) -> list[int]:
                await asyncio.sleep(0.003 * row)
                return tokens(await collect(engine, request(PROMPTS[row], 20)))

            assert await asyncio.gather(*map(later, range(len(PROMPTS)))) == solo

    run(test)


def test_a_seed_draws_the_same_tokens_in_any_batch(make_backend: MakeBackend) -> None:
    def drawn(seed: int) -> dict[str, Any]:
        return request(
            [5, 6], 20, sampling_options={"temperature": 1.5, "top_p": 0.9, "seed": seed}
        )

    async def test() -> None:
        async with running(make_backend()) as engine:
            alone = tokens(await collect(engine, drawn(3)))
            others = [collect(engine, drawn(seed)) for seed in range(6)]
            together = list(map(tokens, await asyncio.gather(*others)))
        assert together[3] == alone
        assert len({tuple(stream) for stream in together}) > 1

    run(test)


def test_top_p_draws_only_from_the_most_likely_tokens(make_backend: MakeBackend) -> None:
    narrow = {"temperature": 5.0, "top_p": 1e-6, "seed": 1}

    async def test() -> None:
        async with running(make_backend()) as engine:
            greedy = tokens(await collect(engine, request([5, 6])))
            sampled = await collect(engine, request([5, 6], sampling_options=narrow))
        assert tokens(sampled) == greedy

    run(test)


def test_the_last_chunk_alone_is_terminal_and_counts_exactly(make_backend: MakeBackend) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            chunks = await collect(engine, request([5, 6, 7], 5, stop={"ignore_eos": True}))
        assert [chunk["finish_reason"] for chunk in chunks] == [None] * 4 + ["length"]
        usage = {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8}
        assert chunks[-1]["completion_usage"] == usage

    run(test)


def test_a_stop_id_ends_the_stream_and_is_its_last_token(make_backend: MakeBackend) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            free = tokens(await collect(engine, request([5, 6], 12, stop={"ignore_eos": True})))
            stop = {"stop_token_ids": [free[4]], "ignore_eos": True}
            chunks = await collect(engine, request([5, 6], 12, stop=stop))
        assert chunks[-1]["finish_reason"] == "stop"
        assert tokens(chunks) == free[: free.index(free[4]) + 1]

    run(test)


def test_an_end_of_text_token_ends_the_stream_unless_ignored(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)

    async def test() -> None:
        async with running(backend) as engine:
            free = tokens(await collect(engine, request([5, 6], 12, stop={"ignore_eos": True})))
            backend._scorer.causal_lm.generation_config.eos_token_id = [free[2]]
            chunks = await collect(engine, request([5, 6], 12))
            ignoring = await collect(engine, request([5, 6], 12, stop={"ignore_eos": True}))
        assert chunks[-1]["finish_reason"] == "stop"
        assert tokens(chunks) == free[: free.index(free[2]) + 1]
        assert tokens(ignoring) == free

    run(test)


@pytest.mark.parametrize("most", [None, 10_000])
def test_a_stream_ends_with_the_context(make_backend: MakeBackend, most: int | None) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            asked = request([5] * 60, most, stop={"ignore_eos": True})
            chunks = await collect(engine, asked)
        assert len(tokens(chunks)) == tiny.CONTEXT - 60
        assert chunks[-1]["finish_reason"] == "length"

    run(test)


def test_a_request_may_name_its_own_view(make_backend: MakeBackend) -> None:
    async def test() -> None:
        backend = make_backend()
        async with running(backend, view="base") as engine:
            views = ["base", "ft", "scaled:0.5", "scaled:1"]
            asked = [request([5, 6], view=view, stop={"ignore_eos": True}) for view in views]
            streams = await asyncio.gather(*(collect(engine, each) for each in asked))
        for view, stream in zip(views, streams, strict=True):
            named = "ft" if view == "scaled:1" else view
            assert tokens(stream) == written_by_generate(backend, named, [5, 6])

    run(test)


def test_cancelling_is_seen_within_one_step_and_counted_exactly(make_backend: MakeBackend) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            context, seen, after = Context(), 0, 0
            asked = request([5, 6], 10_000, stop={"ignore_eos": True})
            async for chunk in engine.generate(asked, context):
                seen += len(chunk["token_ids"])
                after += context.stopped and bool(chunk["token_ids"])
                if seen == 3:
                    steps_before = engine.steps
                    context.stop_generating()
            assert chunk["finish_reason"] == "cancelled"
            assert chunk["completion_usage"]["completion_tokens"] == seen
            # Steps made before the stop may still lie in the queue; the worker made one more.
            assert engine.steps - steps_before <= 1 + after
            await until_idle(engine)
            assert engine.kv_bytes == 0

    run(test)


def test_a_stream_stopped_before_it_is_read_runs_nothing(make_backend: MakeBackend) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            context = Context()
            stream = engine.generate(request([5, 6], 10_000), context)
            context.stop_generating()
            chunks = [chunk async for chunk in stream]
            assert [chunk["finish_reason"] for chunk in chunks] == ["cancelled"]
            assert engine.steps == 0

    run(test)


def test_waiting_streams_can_be_cancelled_and_are_served_when_a_row_is_free(
    make_backend: MakeBackend,
) -> None:
    async def test() -> None:
        async with running(make_backend(), max_rows=1) as engine:
            context = Context()
            free = {"ignore_eos": True}
            first = asyncio.create_task(collect(engine, request([5, 6], 40, stop=free)))
            second = asyncio.create_task(collect(engine, request([7], 3, stop=free)))
            third = asyncio.create_task(collect(engine, request([8], 3, stop=free), context))
            context.stop_generating()
            assert (await third)[-1]["finish_reason"] == "cancelled"
            assert len(tokens(await first)) == 40
            assert len(tokens(await second)) == 3

    run(test)


def test_dropped_streams_leave_nothing_and_disturb_nobody(make_backend: MakeBackend) -> None:
    asked = [request(PROMPTS[row % 16], 30, stop={"ignore_eos": True}) for row in range(64)]

    async def drop(engine: HFEngine, row: int) -> None:
        stream = engine.generate(asked[row], Context())
        for _ in range(1 + row % 7):
            await anext(stream)
        await stream.aclose()  # type: ignore[attr-defined]

    async def test() -> None:
        async with running(make_backend()) as engine:
            solo = [tokens(await collect(engine, each)) for each in asked[:16]]
            await until_idle(engine)
            before = live_tensors()
            kept = [row for row in range(64) if row % 3]
            dropped = [drop(engine, row) for row in range(64) if row % 3 == 0]
            streams, _ = await asyncio.gather(
                asyncio.gather(*(collect(engine, asked[row]) for row in kept)),
                asyncio.gather(*dropped),
            )
            await until_idle(engine)
            assert [tokens(stream) for stream in streams] == [solo[row % 16] for row in kept]
            assert engine.in_flight == 0
            assert engine.kv_bytes == 0
            assert live_tensors() == before

    run(test)


def live_tensors() -> int:
    gc.collect()
    return sum(issubclass(type(each), torch.Tensor) for each in gc.get_objects())


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (request([]), EmptyPromptError),
        (request([1] * tiny.CONTEXT), ContextLengthError),
        (request([tiny.VOCAB]), InvalidInputError),
        (request([-1]), InvalidInputError),
        (request([1], 0), InvalidInputError),
        (request([1], view="tuned"), InvalidInputError),
        (request([1], view="scaled:x"), InvalidInputError),
        (request([1], sampling_options={"temperature": -1.0}), InvalidInputError),
        (request([1], sampling_options={"top_p": 0.0}), InvalidInputError),
    ],
)
def test_what_cannot_be_served_is_refused_and_the_engine_goes_on(
    make_backend: MakeBackend, asked: dict[str, Any], error: type[Exception]
) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            with pytest.raises(error):
                await collect(engine, asked)
            assert tokens(await collect(engine, request([5, 6], 3)))

    run(test)


class Panic(BaseException):
    """As a panic in Rust code arrives in Python: no ``Exception``."""


@pytest.mark.parametrize("error", [MemoryError("no room for the cache"), Panic("unwrap")])
def test_a_forward_that_fails_ends_its_streams_and_not_the_engine(
    error: BaseException, make_backend: MakeBackend
) -> None:
    backend = make_backend(copied=True)

    async def test() -> None:
        async with running(backend) as engine:

            def fail(*_: Any) -> None:
                raise error

            hook = backend.model.register_forward_pre_hook(fail)
            streams = [collect(engine, request(prompt)) for prompt in PROMPTS[:3]]
            errors = await asyncio.gather(*streams, return_exceptions=True)
            assert errors == [error] * 3
            hook.remove()
            assert tokens(await collect(engine, request([5, 6], 3)))
            await until_idle(engine)

    run(test)


class NeverKilled(Context):
    """A context without ``is_killed``."""

    is_killed: Any = property()


class BreaksLater(Context):
    """A context that raises from its fourth question on."""

    asked = 0

    def is_stopped(self) -> bool:
        self.asked += 1
        if self.asked > 3:
            raise OSError("the connection is gone")
        return False


@pytest.mark.parametrize(
    ("context", "reason"), [(NeverKilled, "is_killed"), (BreaksLater, "the connection is gone")]
)
def test_a_context_that_cannot_be_asked_ends_its_own_stream_alone(
    make_backend: MakeBackend, context: type[Context], reason: str
) -> None:
    async def test() -> None:
        async with running(make_backend("llama+lora")) as engine:
            neighbour = asyncio.create_task(collect(engine, request(PROMPTS[5], 20)))
            with pytest.raises(InvalidInputError, match=reason):
                await collect(engine, request(PROMPTS[4], 20), context())
            assert len(tokens(await neighbour)) == 20
            await until_idle(engine)
            assert tokens(await collect(engine, request(PROMPTS[3], 4)))

    run(test)


def test_the_loop_stays_free_while_streams_decode(make_backend: MakeBackend) -> None:
    async def test() -> None:
        async with running(make_backend()) as engine:
            beats = 0

            async def beat() -> None:
                nonlocal beats
                while True:
                    await asyncio.sleep(0)
                    beats += 1

            heart = asyncio.create_task(beat())
            asked = request([5, 6], 40, stop={"ignore_eos": True})
            chunks = await collect(engine, asked)
            heart.cancel()
            # A loop that were blocked for a step would beat about once a chunk.
            assert beats > 10 * len(chunks)

    run(test)


def test_generate_needs_a_started_engine(make_backend: MakeBackend) -> None:
    async def test() -> None:
        engine = HFEngine(make_backend())
        await engine.cleanup()
        with pytest.raises(EngineStateError, match="start"):
            await collect(engine, request([5]))
        await engine.start(0)
        with pytest.raises(EngineStateError, match="running"):
            await engine.start(0)
        await engine.cleanup()
        with pytest.raises(EngineStateError, match="start"):
            await collect(engine, request([5]))
        await engine.start(1)
        assert tokens(await collect(engine, request([5, 6], 3)))
        await engine.cleanup()
        await engine.cleanup()

    run(test)


def test_cleanup_ends_open_streams_and_leaves_no_thread(make_backend: MakeBackend) -> None:
    async def test() -> None:
        threads = threading.active_count()
        engine = HFEngine(make_backend())
        await engine.start(0)
        stream = engine.generate(request([5], 10_000, stop={"ignore_eos": True}), Context())
        await anext(stream)
        await engine.cleanup()
        with pytest.raises(EngineStateError, match="cleaned up"):
            async for _ in stream:
                pass
        assert threading.active_count() == threads
        assert engine.in_flight == 0
        assert engine.kv_bytes == 0

    run(test)


@pytest.mark.parametrize("options", [{"view": "tuned"}, {"view": "null:7"}, {"max_rows": 0}])
def test_an_engine_of_an_unknown_view_or_no_row_is_refused(
    make_backend: MakeBackend, options: dict[str, Any]
) -> None:
    with pytest.raises(InvalidInputError):
        HFEngine(make_backend(), **options)


def test_a_stream_that_draws_a_token_that_the_model_can_not_read_ends_alone(tokenizer: Any) -> None:
    backend = HFBackend(tiny.drawing_unreadable(), tokenizer)

    async def test() -> None:
        async with running(backend, view="base") as engine:
            stops = {"stop_token_ids": [tiny.VOCAB]}
            asked = (request([3, 4], 4), request([5], 1), request([6, 7], 4, stop=stops))
            lost, last, stopped = await asyncio.gather(
                *(collect(engine, each) for each in asked), return_exceptions=True
            )
        assert isinstance(lost, InvalidInputError)
        assert f"drew token {tiny.VOCAB}" in str(lost)
        assert not isinstance(last, BaseException)
        assert not isinstance(stopped, BaseException)
        assert (last[-1]["finish_reason"], stopped[-1]["finish_reason"]) == ("length", "stop")

    run(test)
