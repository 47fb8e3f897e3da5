"""Checks of the engine and of ``generate``, against a naive greedy loop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Sequence
from typing import Any

from forwardcache.hf import HFBackend, HFEngine
from tools.matrix.oracle import Oracle
from tools.matrix.verdict import Finding

STEPS = 8
_LENGTHS = (5, 11, 30, 40, 11)


def _prompt(tokens: int) -> list[int]:
    return [10 + (37 * place + 11 * tokens) % 250 for place in range(tokens)]


class _Context:
    def is_stopped(self) -> bool:
        return False

    def is_killed(self) -> bool:
        return False

    def stop_generating(self) -> None:
        raise AssertionError("nobody stops these streams")


class Streams:
    """Streams of one engine, held to the model's own greedy choice.

    Args:
        engine: Started already.
        oracle: The model's plain forwards.
        ends: Tokens that end a stream.
    """

    def __init__(self, engine: HFEngine, oracle: Oracle, ends: frozenset[int]) -> None:
        self._engine, self._oracle, self._ends = engine, oracle, ends

    async def tokens(self, prompt: Sequence[int], begun: asyncio.Event | None = None) -> list[int]:
        """What a stream gives; ``begun`` is set with its second token."""
        request = {"token_ids": list(prompt), "stop_conditions": {"max_tokens": STEPS}}
        found: list[int] = []
        try:
            async for chunk in self._engine.generate(request, _Context()):
                found += chunk["token_ids"]
                if begun is not None and len(found) > 1:
                    begun.set()
        finally:
            if begun is not None:
                begun.set()
        return found

    async def alone(self) -> list[str]:
        """One stream after the other; what is wrong with them."""
        return [self._fault(length, await self.tokens(_prompt(length))) for length in (5, 30)]

    async def joined(self) -> list[str]:
        """One stream, and others that join it while it goes on; what is wrong with them."""
        begun = asyncio.Event()
        first = asyncio.ensure_future(self.tokens(_prompt(_LENGTHS[0]), begun))
        await begun.wait()
        others: list[Awaitable[list[int]]] = [self.tokens(_prompt(n)) for n in _LENGTHS[1:]]
        found = await asyncio.gather(first, *others)
        return [self._fault(length, each) for length, each in zip(_LENGTHS, found, strict=True)]

    def _fault(self, length: int, found: list[int]) -> str:
        expected = self._oracle.greedy(_prompt(length), STEPS, self._ends)
        if found[: len(expected)] == expected:
            return ""
        pairs = enumerate(zip(found, expected, strict=False))
        first = next((place for place, (one, other) in pairs if one != other), len(found))
        return f"token {first + 1} after {length} is another"


def streams(backend: HFBackend, oracle: Oracle, ends: frozenset[int]) -> Finding:
    """Streams of an engine over a backend, alone and joined."""
    finding = Finding()

    async def run() -> None:
        engine = HFEngine(backend, view="base")
        await engine.start(0)
        try:
            checked = Streams(engine, oracle, ends)
            for what, check in (("alone", checked.alone), ("joined", checked.joined)):
                await _hold(finding, what, check())
        finally:
            await engine.cleanup()

    try:
        asyncio.run(run())
    except Exception as error:
        _take(finding, "HFEngine", error)
    return finding


async def _hold(finding: Finding, what: str, check: Awaitable[list[str]]) -> None:
    try:
        faults = [fault for fault in await asyncio.wait_for(check, 60) if fault]
    except Exception as error:
        _take(finding, f"streams {what}", error)
    else:
        finding.add("WRONG" if faults else "ok", f"streams {what}: {'; '.join(faults)}")


def _take(finding: Finding, what: str, error: Exception) -> None:
    def fail() -> float:
        raise error

    finding.check(what, fail)


def written(backend: HFBackend, oracle: Oracle, tokenizer: Any, ends: frozenset[int]) -> Finding:
    """``generate`` of a view, against the naive greedy loop."""
    finding = Finding()
    prompt = "THE QUICK BROWN FOX"

    def differs() -> float:
        with backend.as_base() as base:
            found = base.generate(prompt, max_new_tokens=STEPS)
        tokens = oracle.greedy(tokenizer(prompt)["input_ids"], STEPS, ends)
        # The loop may end before the text, and then perhaps inside a letter.
        expected = tokenizer.decode(tokens, skip_special_tokens=True).rstrip("\ufffd")
        return 0.0 if found.startswith(expected) else float("inf")

    finding.check("generate", differs)
    return finding
