"""Streams of ``HFEngine`` compared with transformers' ``generate``: ``python -m benches.engine``.

The question: what do requests gain by decoding together, and what does a stream cost? The model is
the one that ships with the package; the baseline runs in the same process, interleaved.
"""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import asyncio
import gc
import statistics
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch

import forwardcache
from benches.machine import description
from benches.measure import turned
from benches.sections import publish, verdict
from forwardcache.conformance import check_conformance, mock_context
from forwardcache.hf import HFBackend, HFEngine

TITLE = "## Streams: HFEngine on the demo's model"
TOKENS = 64
REQUESTS = 16
ROUNDS = 7
DEMO = Path(forwardcache.__file__).parent / "demo"
PROMPTS = [list(range(5 + row, 13 + row)) for row in range(REQUESTS)]


@dataclass
class Times:
    """CPU seconds of the process and seconds on the wall, round by round."""

    cpu_s: list[float] = field(default_factory=list)
    wall_s: list[float] = field(default_factory=list)

    def tokens_per_cpu_s(self) -> float:
        return REQUESTS * TOKENS / statistics.median(self.cpu_s)

    def tokens_per_wall_s(self) -> float:
        return REQUESTS * TOKENS / statistics.median(self.wall_s)


def request(row: int, max_tokens: int = TOKENS) -> dict[str, Any]:
    stop = {"max_tokens": max_tokens, "ignore_eos": True}
    return {"model": "demo", "token_ids": PROMPTS[row], "stop_conditions": stop}


async def drain(engine: HFEngine, row: int) -> None:
    async for _ in engine.generate(request(row), mock_context()):
        pass


async def streams(engine: HFEngine, concurrent: int) -> None:
    """All requests, so many at a time."""
    for first in range(0, REQUESTS, concurrent):
        await asyncio.gather(*(drain(engine, row) for row in range(first, first + concurrent)))


def generated(backend: HFBackend) -> None:
    """All requests by transformers, one after the other."""
    options = {"do_sample": False, "max_new_tokens": TOKENS, "min_new_tokens": TOKENS}
    with torch.inference_mode():
        for prompt in PROMPTS:
            ids = torch.tensor([prompt])
            mask = torch.ones_like(ids)
            backend.model.generate(input_ids=ids, attention_mask=mask, pad_token_id=0, **options)


async def measured(backend: HFBackend, engine: HFEngine, rounds: int) -> dict[str, Times]:
    async def baseline() -> None:
        generated(backend)

    contenders: dict[str, Callable[[], Any]] = {
        "`generate`, one after the other": baseline,
        **{f"engine, {count} at a time": partial(streams, engine, count) for count in (1, 4, 16)},
    }
    times = {name: Times() for name in contenders}
    for number in range(-1, rounds):
        for name in turned(list(contenders), max(number, 0)):
            cpu, wall = time.process_time(), time.perf_counter()
            await contenders[name]()
            if number >= 0:
                times[name].cpu_s.append(time.process_time() - cpu)
                times[name].wall_s.append(time.perf_counter() - wall)
    return times


async def first_token_ms(engine: HFEngine, beside: int) -> float:
    """Median time to the first token of a request that comes while others decode."""
    taken = []
    for _ in range(11):
        others = [asyncio.create_task(drain(engine, row)) for row in range(beside)]
        await asyncio.sleep(0.02 if beside else 0)
        began = time.perf_counter()
        stream = engine.generate(request(15), mock_context())
        await anext(stream)
        taken.append((time.perf_counter() - began) * 1e3)
        await stream.aclose()  # type: ignore[attr-defined]
        await asyncio.gather(*others)
    return statistics.median(taken)


async def kv_bytes_of_a_stream(engine: HFEngine) -> float:
    """Keys and values that one more stream holds at its 32nd token."""
    stream = engine.generate(request(0), mock_context())
    for _ in range(32):
        await anext(stream)
    held = engine.kv_bytes
    await stream.aclose()  # type: ignore[attr-defined]
    return held


async def steps_to_cancel(engine: HFEngine) -> int:
    """Most decoding steps made between a stop and the end of the stream, in 20 tries."""
    most = 0
    for _ in range(20):
        context = mock_context()
        stream = engine.generate(request(0, 10_000), context)
        await anext(stream)
        steps = engine.steps
        context.stop_generating()
        async for _ in stream:
            pass
        most = max(most, engine.steps - steps)
    return most


class TrivialEngine:
    """The least that conforms."""

    async def start(self, worker_id: int) -> dict[str, str]:
        return {"model": "trivial"}

    async def generate(self, request: Any, context: Any) -> AsyncIterator[dict[str, Any]]:
        most = request["stop_conditions"]["max_tokens"]
        for position in range(most):
            await asyncio.sleep(0)
            if context.is_stopped():
                yield {"token_ids": [], "index": 0, "finish_reason": "cancelled"}
                return
            reason = "length" if position == most - 1 else None
            yield {"token_ids": [position], "index": 0, "finish_reason": reason}

    async def cleanup(self) -> None:
        return None


def profile_ms(profile: str) -> float:
    """Median time of a whole profile on the trivial engine."""
    taken = []
    for _ in range(21):
        began = time.perf_counter()
        check_conformance(TrivialEngine, profile=profile)
        taken.append((time.perf_counter() - began) * 1e3)
    return statistics.median(taken)


def section(rounds: int) -> str:
    return asyncio.run(section_of_a_loop(rounds, profile_ms("seed")))


async def section_of_a_loop(rounds: int, seed_ms: float) -> str:
    torch.set_num_threads(1)
    backend = HFBackend.load(DEMO / "model", DEMO / "adapter", dtype="float32")
    engine = HFEngine(backend)
    await engine.start(0)
    times = await measured(backend, engine, rounds)
    baseline = times["`generate`, one after the other"].tokens_per_cpu_s()
    lines = ["| | tokens / CPU s | x `generate` | tokens / s |", "|---|---|---|---|"]
    for name, each in times.items():
        rate = each.tokens_per_cpu_s()
        wall = each.tokens_per_wall_s()
        lines.append(f"| {name} | {rate:,.0f} | {rate / baseline:.2f} | {wall:,.0f} |")
    one, many = (times[f"engine, {count} at a time"].tokens_per_wall_s() for count in (1, 16))
    gc.collect()
    figures = [
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        f"| 16 at a time beside one after the other, tokens a second | at least 3 x | "
        f"{many / one:.1f} x | {verdict(many >= 3 * one)} |",
    ]
    steps = await steps_to_cancel(engine)
    figures += [
        f"| decoding steps from a stop to the end of the stream | at most 1 | {steps} | "
        f"{verdict(steps <= 1)} |",
        f"| profile `seed` on a trivial engine | under 50 ms | {seed_ms:.1f} ms | "
        f"{verdict(seed_ms < 50)} |",
        f"| first token, alone | | {await first_token_ms(engine, 0):.1f} ms | |",
        f"| first token, while 15 others decode | | {await first_token_ms(engine, 15):.1f} ms | |",
        f"| keys and values of a stream of 8 + 32 tokens | | "
        f"{await kv_bytes_of_a_stream(engine) / 1024:.0f} KiB | |",
    ]
    await engine.cleanup()
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.engine", ["torch", "transformers", "peft"]),
            f"- How: {REQUESTS} greedy requests of {TOKENS} tokens after 8, one process, one torch "
            f"thread, {rounds} interleaved rounds, medians.",
            "",
            *figures,
            "",
            *lines,
            "",
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, rounds=ROUNDS)
