"""An engine in plain torch that applies LoRA by itself, from the files that PEFT writes."""

from __future__ import annotations

import asyncio
import copy
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from forwardcache.hf import HFBackend
from tests.hf import tiny

Ids = tuple[int, ...]


def model() -> Any:
    """Two layers, as many key heads as query heads: q and v can be taken for each other."""
    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=64,
        bos_token_id=0,
        eos_token_id=1,
    )
    return tiny.sharpened(LlamaForCausalLM(config)).eval().requires_grad_(False)


@dataclass(frozen=True)
class Delta:
    """What an adapter adds to one module: ``scale * b @ a``, and a bias."""

    a: torch.Tensor
    b: torch.Tensor
    scale: float
    bias: torch.Tensor | None = None
    rank: int = 8

    def __call__(self, module: Any, given: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        is_lookup = isinstance(module, torch.nn.Embedding)
        inner = self.a.T[given] if is_lookup else given @ self.a.T
        added = inner @ self.b.T
        if self.bias is not None:
            added = added + self.bias
        return added * self.scale * positions[:, None].to(added.dtype)


@dataclass(frozen=True)
class Content:
    """An adapter: its deltas by module, and what its values are kept under."""

    key: str
    deltas: dict[str, Delta]
    config: dict[str, Any]

    def changed(self, key: str, change: Callable[[str, Delta], Delta | None]) -> Content:
        """This one with each delta changed, or left out where the change is None."""
        deltas = {name: change(name, delta) for name, delta in self.deltas.items()}
        return replace(
            self,
            key=f"{self.key}|{key}",
            deltas={name: delta for name, delta in deltas.items() if delta is not None},
        )


BASE = Content("base", {}, {})


class Arithmetic:
    """Rows of log-probabilities, each computed once."""

    def __init__(self) -> None:
        self.model = model()
        self._kept: dict[Any, torch.Tensor] = {}
        self._read: dict[str, Content] = {}
        self._others: dict[torch.dtype, Arithmetic] = {}
        self.dtype = torch.float32
        # Hooks are on the model, and so count for whoever runs it.
        self._lock = threading.Lock()

    def rows(self, ids: Ids, content: Content, positions: range | None = None) -> torch.Tensor:
        """Log-probabilities after each token but the last, [n - 1, vocab]."""
        key = ids, content.key, positions
        with self._lock:
            return self._rows(key, ids, content, positions)

    def _rows(self, key: Any, ids: Ids, content: Content, positions: range | None) -> torch.Tensor:
        if key not in self._kept:
            counts = torch.zeros(len(ids))
            counts[list(positions or range(len(ids)))] = 1.0
            with torch.no_grad(), self._hooked(content, counts):
                logits = self.model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, :-1]
            self._kept[key] = logits.float().log_softmax(-1)
        return self._kept[key]

    def rounded(self, dtype: torch.dtype) -> Arithmetic:
        """The same in another dtype."""
        if dtype not in self._others:
            other = self._others[dtype] = Arithmetic()
            other.model = copy.deepcopy(self.model).to(dtype)
            other.dtype = dtype
        return self._others[dtype]

    def read(self, folder: str) -> Content:
        """The adapter in ``folder``, whose files never change here."""
        if folder not in self._read:
            self._read[folder] = _read(Path(folder), self.dtype)
        return self._read[folder]

    @contextmanager
    def _hooked(self, content: Content, positions: torch.Tensor) -> Iterator[None]:
        handles = []
        for name, delta in content.deltas.items():

            def add(module: Any, args: Any, out: Any, delta: Delta = delta) -> Any:
                return out + delta(module, args[0], positions)

            handles.append(self.model.get_submodule(name).register_forward_hook(add))
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


def _read(folder: Path, dtype: torch.dtype) -> Content:
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    found: dict[str, dict[str, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        name, _, part = key.removeprefix("base_model.model.").partition(".lora_")
        if part:
            found.setdefault(name, {})[part] = tensor.to(dtype)
    return Content(str(folder), {n: _delta(n, p, config) for n, p in found.items()}, config)


def _delta(name: str, parts: dict[str, torch.Tensor], config: dict[str, Any]) -> Delta:
    a = parts.get("A.weight", parts.get("embedding_A"))
    b = parts.get("B.weight", parts.get("embedding_B"))
    assert a is not None
    assert b is not None
    rank = a.shape[0]
    alpha = _of_pattern(name, config["alpha_pattern"], config["lora_alpha"])
    scale = alpha / (rank**0.5 if config["use_rslora"] else rank)
    return Delta(a, b, scale, parts.get("B.bias"), config["r"])


def _of_pattern(name: str, pattern: dict[str, int], otherwise: int) -> int:
    return next((value for key, value in pattern.items() if name.endswith(f".{key}")), otherwise)


class Sound:
    """Runs every adapter as it is; the faulty engines are made of it.

    Args:
        arithmetic: Shared by all engines.
    """

    def __init__(self, arithmetic: Arithmetic) -> None:
        self.arithmetic = arithmetic
        self.adapters: dict[str, Content] = {}

    def load_adapter(self, name: str, path: str) -> None:
        """Take an adapter."""
        self.adapters[name] = self.read(path)

    def unload_adapter(self, name: str) -> None:
        """Drop an adapter."""
        del self.adapters[name]

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        """Log-probabilities of the tokens after the first."""
        ids = tuple(token_ids)
        content = BASE if adapter is None else self.adapters[adapter]
        return self.given(ids, self.rows(ids, content))

    def read(self, path: str) -> Content:
        """The adapter in a folder."""
        return self.arithmetic.read(path)

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        """Log-probabilities of the vocabulary, [n - 1, vocab]."""
        return self.arithmetic.rows(ids, content)

    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        """What is told of the rows."""
        return rows.gather(1, torch.tensor(ids[1:])[:, None])[:, 0].tolist()


class Rounded(Sound):
    """In 16 bits: weights, activations and adapters.

    Args:
        arithmetic: Its model is copied.
        dtype: The kind of 16 bits.
    """

    def __init__(self, arithmetic: Arithmetic, dtype: torch.dtype) -> None:
        super().__init__(arithmetic.rounded(dtype))


@dataclass(frozen=True)
class In16Bits(Delta):
    """Computed in bfloat16 throughout, beside a base in 32 bits."""

    def __call__(self, module: Any, given: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        if given.is_floating_point():
            given = given.bfloat16()
        return super().__call__(module, given, positions).float()


class AdaptersIn16Bits(Sound):
    """A base in 32 bits, and adapters in 16, as engines keep them."""

    def read(self, path: str) -> Content:
        """The adapter in a folder."""
        return super().read(path).changed("16 bits", self.rounded)

    @staticmethod
    def rounded(name: str, delta: Delta) -> Delta:
        """A delta in 16 bits."""
        bias = None if delta.bias is None else delta.bias.bfloat16()
        a, b = delta.a.bfloat16(), delta.b.bfloat16()
        return In16Bits(a, b, delta.scale, bias, delta.rank)


class OffWithAdapters(Sound):
    """Every adapter's values are a little off.

    Args:
        arithmetic: As for all.
        nats: By how much.
    """

    def __init__(self, arithmetic: Arithmetic, nats: float) -> None:
        super().__init__(arithmetic)
        self.nats = nats

    def rows(self, ids: Ids, content: Content) -> torch.Tensor:
        """Moved, but for the base's."""
        rows = super().rows(ids, content)
        return rows if content is BASE else rows - self.nats


class Noisy(Sound):
    """As batches have it that are never twice the same: values move a little at every call.

    Args:
        arithmetic: As for all.
        nats: Standard deviation of the noise.
        seed: Of the noise.
    """

    def __init__(self, arithmetic: Arithmetic, nats: float, seed: int) -> None:
        super().__init__(arithmetic)
        self.nats = nats
        self.dice = torch.Generator().manual_seed(seed)

    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        """With noise that is larger for less likely tokens, as rounding's is."""
        values = torch.tensor(super().given(ids, rows))
        noise = torch.randn(values.shape, generator=self.dice) * self.nats
        return (values + noise * (0.5 - values / 4)).clamp(max=0.0).tolist()


class LeavesRounding(Sound):
    """Merges an adapter and takes it out again: the base's weights are not bit for bit the same."""

    unloaded = False

    def unload_adapter(self, name: str) -> None:
        """Drop an adapter."""
        super().unload_adapter(name)
        self.unloaded = True

    def given(self, ids: Ids, rows: torch.Tensor) -> Any:
        """Moved a little, once one was unloaded."""
        values = super().given(ids, rows)
        return [value - 1e-3 for value in values] if self.unloaded else values


class Async:
    """The same with async methods."""

    def __init__(self, inner: Sound) -> None:
        self.inner = inner

    async def load_adapter(self, name: str, path: str) -> None:
        """Take an adapter."""
        self.inner.load_adapter(name, path)

    async def unload_adapter(self, name: str) -> None:
        """Drop an adapter."""
        self.inner.unload_adapter(name)

    async def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        """Log-probabilities of the tokens after the first."""
        await asyncio.sleep(0)
        return self.inner.logprobs(token_ids, adapter=adapter)


class Ours:
    """``HFBackend``, with each adapter as a view of its name.

    Args:
        causal_lm: The model.
    """

    def __init__(self, causal_lm: Any) -> None:
        self.model = causal_lm
        self.folders: dict[str, str] = {}
        self.backend: HFBackend | None = None

    def load_adapter(self, name: str, path: str) -> None:
        """Take an adapter."""
        self.folders[name], self.backend = path, None

    def unload_adapter(self, name: str) -> None:
        """Drop an adapter."""
        del self.folders[name]
        self.backend = None

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
        """Log-probabilities of the tokens after the first."""
        if self.backend is None:
            adapters = self.folders or None
            self.backend = HFBackend(copy.deepcopy(self.model), tiny.tokenizer(), adapter=adapters)
        named = self.backend.as_finetuned(adapter=adapter) if adapter else self.backend.as_base()
        pairs = [(token_ids[:n], token_ids[n : n + 1]) for n in range(1, len(token_ids))]
        with named as view:
            return [each.logprob for each in view.continuation_logprob_batch(pairs)]
