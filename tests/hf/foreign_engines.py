"""Engines as others write them over transformers, each with the methods of the engine kit."""

import asyncio
import inspect
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import torch
from transformers import (
    ContinuousBatchingConfig,
    GenerationConfig,
    StoppingCriteria,
    StoppingCriteriaList,
)

from tests.hf import tiny

Chunk = dict[str, Any]


def terminal(reason: str, prompt: list[int], count: int, token_ids: list[int]) -> Chunk:
    usage = {
        "prompt_tokens": len(prompt),
        "completion_tokens": count,
        "total_tokens": len(prompt) + count,
    }
    return {
        "token_ids": token_ids,
        "index": 0,
        "finish_reason": reason,
        "completion_usage": usage,
    }


class Stop(StoppingCriteria):
    """Ends ``generate`` after the step in which the caller wants it to end."""

    def __init__(self, wanted: Callable[[], bool]) -> None:
        self.wanted = wanted

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        return torch.full((input_ids.shape[0],), self.wanted(), dtype=torch.bool)


class Streamer:
    """Hands each token over to the loop; transformers calls ``put`` with the prompt first."""

    def __init__(self, deliver: Callable[[int | None], None]) -> None:
        self.deliver = deliver
        self.is_prompt = True

    def put(self, value: Any) -> None:
        if not self.is_prompt:
            self.deliver(int(value))
        self.is_prompt = False

    def end(self) -> None:
        self.deliver(None)


class GenerateEngine:
    """``model.generate`` in a thread, with a streamer; ``heeds_stop`` gives it StoppingCriteria."""

    def __init__(self, *, heeds_stop: bool = True, longest: int = 10_000) -> None:
        self.model = tiny.llama()
        self.model.generation_config.eos_token_id = None
        self.heeds_stop = heeds_stop
        self.longest = longest
        self.threads: list[threading.Thread] = []
        self.closed = False
        # One forward at a time: the model's cache helpers are not made for two.
        self.lock = threading.Lock()

    async def start(self, worker_id: int) -> Any:
        return {"model": f"tiny-{worker_id}"}

    async def generate(self, request: dict[str, Any], context: Any) -> AsyncIterator[Chunk]:
        loop, tokens = asyncio.get_running_loop(), asyncio.Queue[int | None]()
        gone = threading.Event()

        def deliver(token: int | None) -> None:
            if not loop.is_closed():
                loop.call_soon_threadsafe(tokens.put_nowait, token)

        def wants_to_end() -> bool:
            return self.closed or gone.is_set() or (self.heeds_stop and context.is_stopped())

        prompt, asked = request["token_ids"], request["stop_conditions"]["max_tokens"]
        thread = threading.Thread(
            target=self._write,
            args=(prompt, min(asked, self.longest), Streamer(deliver), Stop(wants_to_end)),
            daemon=True,
        )
        self.threads.append(thread)
        thread.start()
        count = 0
        try:
            while (token := await tokens.get()) is not None:
                count += 1
                if count == asked:
                    yield terminal("length", prompt, count, [token])
                    return
                yield {"token_ids": [token], "index": 0, "finish_reason": None}
            yield terminal("cancelled", prompt, count, [])
        finally:
            gone.set()

    def _write(self, prompt: list[int], most: int, streamer: Streamer, stop: Stop) -> None:
        ids = torch.tensor([prompt])
        with self.lock, torch.inference_mode():
            self.model.generate(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                max_new_tokens=most,
                do_sample=False,
                pad_token_id=0,
                streamer=streamer,
                stopping_criteria=StoppingCriteriaList([stop]),
            )

    async def cleanup(self) -> None:
        self.closed = True
        while any(thread.is_alive() for thread in self.threads):
            await asyncio.sleep(0.01)


class ContinuousBatchingEngine:
    """transformers' continuous batching; after a cancel it delivers nothing, so the last chunk is
    made here and the handler taken out by hand.
    """

    def __init__(self) -> None:
        self.manager: Any = None

    async def start(self, worker_id: int) -> Any:
        config = GenerationConfig(do_sample=False, eos_token_id=-1, pad_token_id=0)
        # Small, or the cache would be sized for all of the machine's memory.
        named = inspect.signature(ContinuousBatchingConfig).parameters
        size: dict[str, Any] = {"page_size" if "page_size" in named else "block_size": 256}
        blocks = ContinuousBatchingConfig(num_blocks=64, max_batch_tokens=64, **size)
        self.manager = tiny.llama().init_continuous_batching(config, blocks)
        self.manager.start()
        return {"model": "tiny"}

    async def generate(self, request: dict[str, Any], context: Any) -> AsyncIterator[Chunk]:
        prompt, outputs = request["token_ids"], asyncio.Queue[Any]()
        asked = request["stop_conditions"]["max_tokens"]
        name = context.id()
        self.manager.register_result_handler(name, outputs.put_nowait)
        self.manager.add_request(prompt, request_id=name, max_new_tokens=asked, streaming=True)
        stopped = asyncio.ensure_future(context.async_killed_or_stopped())
        sent, finished = 0, False
        try:
            while not finished:
                output = asyncio.ensure_future(outputs.get())
                done, _ = await asyncio.wait({output, stopped}, return_when="FIRST_COMPLETED")
                if output not in done:
                    output.cancel()
                    finished = True
                    self.manager.cancel_request(name)
                    yield terminal("cancelled", prompt, sent, [])
                    return
                new = output.result().generated_tokens[sent:]
                sent += len(new)
                finished = output.result().is_finished()
                if finished:
                    yield terminal("length", prompt, sent, new)
                else:
                    yield {"token_ids": new, "index": 0, "finish_reason": None}
        finally:
            stopped.cancel()
            if not finished:
                self.manager.cancel_request(name)
            self.manager.output_router.result_handlers.pop(name, None)

    async def cleanup(self) -> None:
        manager, self.manager = self.manager, None
        if manager is not None:
            await asyncio.get_running_loop().run_in_executor(None, manager.stop, True)
