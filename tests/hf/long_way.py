"""Backends in pairs: one takes the short way where everything is cached, one never does.

A walk makes the same random calls of both, edits both in the same way in between, and holds values,
errors, counters, progress and trace of the one to those of the other.
"""

from __future__ import annotations

import copy
import json
import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import normalizers, processors

from forwardcache.errors import ForwardCacheError
from forwardcache.hf import HFBackend
from forwardcache.hf.scoring import hits
from forwardcache.hf.scoring.terms import KnownTerms
from forwardcache.instrumentation import _MISS, BackendInstrumentation
from tests.hf import tiny
from tests.tolerance import hold_to_tolerance

PROMPTS = list(tiny.PROMPTS[:4])
TEMPLATE = (
    "{% for m in messages %}[{{ m['role'] }}:{{ m['content'] }}]{% endfor %}"
    "{% if add_generation_prompt %}[assistant:{% endif %}"
)
COUNTERS = (
    "cache_hits", "cache_misses", "forward_passes", "batches_sent", "batched_prompts",
    "max_batch_size", "failed_computes",
)  # fmt: skip
VIEWS: list[Callable[[HFBackend], Any]] = [
    lambda backend: backend.as_base(),
    lambda backend: backend.as_finetuned(),
    lambda backend: backend.as_scaled_adapter(0.5),
    lambda backend: backend.as_scaled_adapter(1.0),
    lambda backend: backend.as_null_adapter(3),
    lambda backend: backend.as_null_adapter(3, matched=True),
]
# Times, and what no other backend has: its name, and a digest of a key that holds its bytes.
_OWN = ("ts", "wall_ms", "batch_wall_ms", "run", "key")
Call = Callable[[Any], Any]
Open = Callable[[HFBackend], Any]
Edit = Callable[[HFBackend], Any]


class Text(str):
    """A str of a class of its own."""

    __slots__ = ()


class Forgetful(KnownTerms):
    """Remembers nothing, so that all of a call is found anew."""

    def keep(self, terms: Any) -> Any:
        return terms


class LookAlike:
    """The least that a cache in Python has to be."""

    def __init__(self) -> None:
        self.entries: dict[Any, Any] = {}

    def get(self, key: Any) -> Any:
        return self.entries.get(key, _MISS)

    def put(self, key: Any, value: Any) -> None:
        self.entries[key] = value

    def clear(self) -> None:
        self.entries.clear()


class Pair:
    """Two backends over equal models, which are asked the same.

    Attributes:
        both: The one with the short way, then the one without it.
        taken: How often the first took it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, **options: Any) -> None:
        self.both: list[HFBackend] = []
        self.taken = 0
        self._traces = [folder / f"trace{number}.jsonl" for number in range(2)]
        self._told: list[list[int]] = [[], []]
        template = options.get("chat_template", False)
        store = options.pop("store", False)
        for number, trace in enumerate(self._traces):
            tokenizer = tiny.tokenizer()
            tokenizer.chat_template = TEMPLATE if template else None
            model = tiny.with_lora(tiny.llama(hidden=16)).requires_grad_(False)
            kept: dict[str, Any] = {"store": folder / f"values{number}.db"} if store else {}
            self.both.append(HFBackend(model, tokenizer, trace_path=trace, **kept, **options))
        monkeypatch.setattr(self.both[1]._scorer, "_terms", Forgetful())
        short = hits.found

        def found(scorer: Any, *args: Any, **keywords: Any) -> Any:
            if scorer is self.both[1]._scorer:
                return None
            values = short(scorer, *args, **keywords)
            self.taken += values is not None
            return values

        monkeypatch.setattr(hits, "found", found)

    def edit(self, change: Edit) -> None:
        """Does the same to both."""
        for backend in self.both:
            self._changed(backend, change)

    def ask(self, opened: Open | None, calls: list[tuple[Call, Edit]]) -> None:
        """Makes calls in a view of each, or of the backend itself, with an edit after each."""
        found = [self._asked(backend, opened, calls) for backend in self.both]
        for one, other in zip(*found, strict=True):
            hold_to(one, other)
        self.compare()

    def _asked(
        self, backend: HFBackend, opened: Open | None, calls: list[tuple[Call, Edit]]
    ) -> list[Any]:
        if opened is None:
            return [self._outcome(backend, backend, *each) for each in calls]
        try:
            view = opened(backend)
            view.__enter__()
        except ForwardCacheError as error:
            for _, change in calls:
                self._changed(backend, change)
            return [error] * len(calls)
        try:
            return [self._outcome(backend, view, *each) for each in calls]
        finally:
            view.__exit__(None, None, None)

    def _outcome(self, backend: HFBackend, view: Any, call: Call, change: Edit) -> Any:
        try:
            return call(view)
        except (ForwardCacheError, TypeError) as error:
            return error
        finally:
            self._changed(backend, change)

    @staticmethod
    def _changed(backend: HFBackend, change: Edit) -> None:
        # Adapters may be there to merge or not, a cache may have values to invalidate or not.
        torch.manual_seed(5)
        with torch.no_grad(), suppress(ForwardCacheError, TypeError):
            change(backend)

    def compare(self) -> None:
        """Holds counters and progress of the one to those of the other."""
        one, other = (backend.stats for backend in self.both)
        for name in COUNTERS:
            assert getattr(one, name) == getattr(other, name), name
        calls = [
            {key: (each.hits, each.misses) for key, each in stats.calls().items()}
            for stats in (one, other)
        ]
        assert calls[0] == calls[1]
        assert self._told[0] == self._told[1]
        assert self.both[0].store == self.both[1].store
        assert self.both[0].nonfinite_results == self.both[1].nonfinite_results

    def report(self, on: bool) -> None:
        """Has both report their progress, or no longer."""
        for backend, told in zip(self.both, self._told, strict=True):
            backend.progress = told.append if on else None

    def close(self) -> None:
        """Closes both, and holds the trace of the one to that of the other."""
        lines = []
        for backend, trace in zip(self.both, self._traces, strict=True):
            backend.close()
            events = map(json.loads, trace.read_text().splitlines())
            lines.append([{k: v for k, v in each.items() if k not in _OWN} for each in events])
        assert len(lines[0]) == len(lines[1])
        for one, other in zip(*lines, strict=True):
            assert one == other


def hold_to(one: Any, other: Any) -> None:
    """Asserts that two outcomes are the same, but for the last bits."""
    assert type(one) is type(other), (one, other)
    if isinstance(one, list | tuple):
        assert len(one) == len(other)
        for each, of_other in zip(one, other, strict=True):
            hold_to(each, of_other)
    elif isinstance(one, Exception):
        assert str(one) == str(other)
        # The one that was raised is among its own results.
        results = [_told(getattr(each, "results", None) or []) for each in (one, other)]
        hold_to(*results)
    elif isinstance(one, str):
        assert one == other
    elif isinstance(one, np.ndarray):
        np.testing.assert_allclose(one, other, atol=1e-4)
    elif hasattr(one, "logprob"):
        assert (one.logprob, one.num_tokens) == (pytest.approx(other.logprob), other.num_tokens)
    elif one is not None:
        hold_to_tolerance([one], [other])


def _told(results: list[Any]) -> list[Any]:
    return [str(each) if isinstance(each, Exception) else each for each in results]


def _calls(rng: random.Random, *, template: bool) -> Call:
    """A random call of a view."""
    several = rng.choices(PROMPTS, k=rng.randrange(1, 5))
    prompt, top_k = several[0], rng.choice([4, 8, 8, 64])
    prompts: list[Any] = list(several)
    if template and rng.random() < 0.5:
        prompts[0] = [{"role": "user", "content": prompt}]
    if rng.random() < 0.1:
        prompts[0] = rng.choice([None, 3, b"a", "word " * 99, Text(prompt), ("a", "b")])
    pairs: list[Any] = [(each, rng.choice([" dog", " fox"])) for each in prompts]
    ids = rng.choice([[3, 9], [200], [], [tiny.VOCAB]])
    one, on_error = prompts[0], rng.choice(["raise", "return"])
    return rng.choice(
        [
            lambda view: view.next_token_dist(one, top_k=top_k),
            lambda view: view.next_token_dist(one, top_k=top_k),
            lambda view: view.next_token_dist_batch(prompts, top_k=top_k, on_error=on_error),
            lambda view: view.next_token_dist_batch(prompts, top_k=top_k, on_error=on_error),
            lambda view: view.rolling_logprob(one),
            lambda view: view.rolling_logprob(prompt, windows=True),
            lambda view: view.rolling_logprob_batch(prompts, on_error=on_error),
            lambda view: view.logprob_of(*pairs[0]),
            lambda view: view.logprob_of_batch(list(map(list, pairs)), on_error=on_error),
            lambda view: view.completion_logprob_batch(pairs, on_error=on_error),
            lambda view: view.logprobs_at(one, ids),
            lambda view: view.logprobs_at_batch(prompts, [ids] * len(prompts), on_error=on_error),
            lambda view: view.continuation_logprob([1, 2, top_k], [3]),
            lambda view: view.next_token_dist_batch([]),
        ]
    )


def _nothing(_: HFBackend) -> None: ...


def _layer(backend: HFBackend) -> Any:
    return backend.model.base_model.model.model.layers[0]


def _scale(backend: HFBackend, factor: float) -> None:
    for layer in tiny.lora_layers(backend.model):
        layer.scaling["default"] *= factor


def _unhook(backend: HFBackend) -> None:
    _layer(backend)._forward_hooks.clear()


EDITS: list[Edit] = [
    lambda backend: _layer(backend).mlp.up_proj.weight.mul_(1.5),
    lambda backend: tiny.lora_layers(backend.model)[0].lora_B["default"].weight.add_(0.2),
    lambda backend: tiny.lora_layers(backend.model)[1].lora_A["default"].weight.data.mul_(1.5),
    lambda backend: _scale(backend, 1.5),
    lambda backend: _scale(backend, 2.0 / 3.0),
    lambda backend: backend.weights_changed(),
    lambda backend: backend.tokenizer.add_tokens(["quick"]),
    lambda backend: setattr(
        backend.tokenizer.backend_tokenizer, "normalizer", normalizers.Replace("o", "a")
    ),
    lambda backend: setattr(
        backend.tokenizer.backend_tokenizer,
        "post_processor",
        processors.TemplateProcessing(single="<s> <s> $A", special_tokens=[("<s>", 0)]),
    ),
    lambda backend: setattr(backend.tokenizer, "bos_token", "</s>"),
    lambda backend: setattr(backend, "tokenizer", copy.deepcopy(backend.tokenizer)),
    lambda backend: _layer(backend).register_forward_hook(lambda _m, _i, out: out),
    _unhook,
    lambda backend: backend.model.merge_adapter(),
    lambda backend: backend.model.unmerge_adapter(),
    lambda backend: backend.model.base_model.disable_adapter_layers(),
    lambda backend: backend.model.base_model.enable_adapter_layers(),
    lambda backend: backend.instrumentation.cache.clear(),
    lambda backend: backend.instrumentation.invalidate("base"),
    lambda backend: backend.instrumentation.invalidate(op="next_token_dist"),
    lambda backend: setattr(backend.instrumentation, "cache", LookAlike()),
    lambda backend: setattr(
        backend.instrumentation, "cache", BackendInstrumentation(cache_maxsize=9).cache
    ),
    lambda backend: backend.instrumentation.set_current_probe("second"),
]


def walk(pair: Pair, seed: int, steps: int, *, template: bool) -> None:
    """Some random steps with both."""
    rng = random.Random(seed)
    for _ in range(steps):
        if rng.random() < 0.15:
            pair.edit(rng.choice(EDITS))
        if rng.random() < 0.05:
            pair.report(rng.random() < 0.5)
        opened = rng.choice([None, *VIEWS])
        inside = rng.choice(EDITS) if rng.random() < 0.1 else _nothing
        call = _calls(rng, template=template)
        calls = [(call, inside), (call, _nothing)] if rng.random() < 0.7 else [(call, inside)]
        pair.ask(opened, calls)
