"""A model in 32 bits: the log-probabilities that an engine ought to give."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from transformers import DynamicCache

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf.batch.kvcache import needed_cache_argument
from forwardcache.hf.model.load import load_model
from forwardcache.hf.planting.places import Place, places_of

__all__ = ["Exact", "Factors", "Text", "Values"]

Text = tuple[int, ...]
"""Token ids."""

_TOP = 64
_MOST_LOGITS = 2**25


@dataclass(frozen=True, slots=True)
class Values:
    """What the model gives for one text of n tokens.

    Attributes:
        logprobs: Of each token after the first, nats, [n - 1].
        top: Of the most likely tokens in their places, falling, nats, [n - 1, at most 64].
    """

    logprobs: NDArray[np.float64]
    top: NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Factors:
    """An adapter, but not as it is: what its parts are multiplied with.

    Attributes:
        all: Factor on all modules.
        modules: The modules that ``these`` is for.
        these: Factor on them, in place of ``all``.
        bias: Whether LoRA's own biases count.
        first: Only at the positions before this one; None for all.
        after: Only at the positions from this one on; None for all.
    """

    all: float = 1.0
    modules: frozenset[str] = frozenset()
    these: float = 1.0
    bias: bool = True
    first: int | None = None
    after: int | None = None

    def of(self, module: str, length: int) -> torch.Tensor:
        """The factor on a module by position, [length, 1]."""
        factor = self.these if module in self.modules else self.all
        at = torch.arange(length)
        counts = (at < (self.first or length)) & (at >= (self.after or 0))
        return factor * counts.float()[:, None]


AS_IT_IS = Factors()


class Exact:
    """A model, in 32 bits, and the adapters that were made for it.

    Args:
        folder: The model's.

    Raises:
        ModelLoadError: the folder is missing or broken.
        UnsupportedModelError: no adapter can be made for this model.
    """

    def __init__(self, folder: str) -> None:
        self.folder = folder
        self.model: Any = load_model(folder, device="auto", dtype="float32", allow_download=False)
        self.model.requires_grad_(False)
        self.places: tuple[Place, ...] = places_of(self.model)
        if not any(place.layer is not None for place in self.places):
            raise UnsupportedModelError(
                f"{folder}: no linear module of a layer is known by its name"
            )
        self._peft: Any = None
        self._names: dict[str, str] = {}
        self._on: dict[str, dict[str, Any]] = {}
        self._active: str | None = None
        self._kept: dict[Any, tuple[Values, ...]] = {}

    @property
    def context(self) -> int:
        """How many tokens the model takes at most."""
        config = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or 2**20)

    def values(
        self,
        texts: Sequence[Text],
        adapter: str | None = None,
        factors: Factors = AS_IT_IS,
        *,
        rounded: bool = False,
        keep: bool = True,
    ) -> tuple[Values, ...]:
        """The values of each text.

        Args:
            texts: Each of two tokens or more.
            adapter: Folder of a planted adapter; None for the base.
            factors: What its parts are multiplied with.
            rounded: Whether products are taken in bfloat16.
            keep: Whether the values are kept for the next who asks.
        """
        if not keep:
            return self._computed(texts, adapter, [factors], rounded)[0]
        key = (tuple(texts), adapter, factors, rounded)
        if key not in self._kept:
            self._kept[key] = self._computed(texts, adapter, [factors], rounded)[0]
        return self._kept[key]

    def values_of_each(
        self, texts: Sequence[Text], adapter: str, many: Sequence[Factors]
    ) -> list[tuple[Values, ...]]:
        """``values`` for each of several factors, kept, and computed together.

        Args:
            texts: Each of two tokens or more.
            adapter: Folder of a planted adapter.
            many: What its parts are multiplied with; LoRA's own biases count in each.
        """
        keys = [(tuple(texts), adapter, factors, False) for factors in many]
        missing = [each for each, key in zip(many, keys, strict=True) if key not in self._kept]
        vocabulary = self.model.get_output_embeddings().weight.shape[0]
        each = _MOST_LOGITS // (sum(map(len, texts)) * vocabulary) or 1
        for begin in range(0, len(missing), each):
            these = missing[begin : begin + each]
            found = self._computed(texts, adapter, these, rounded=False)
            for factors, values in zip(these, found, strict=True):
                self._kept[tuple(texts), adapter, factors, False] = values
        return [self._kept[key] for key in keys]

    def likely(self, count: int) -> list[int]:
        """Token ids that a text of the model may begin with, the likeliest first.

        Args:
            count: How many; fewer where the vocabulary is smaller.
        """
        config = self.model.config.get_text_config()
        first = config.bos_token_id
        start = first if isinstance(first, int) else 0
        with torch.inference_mode(), self._in_force():
            ids = torch.tensor([[start]], device=self.model.device)
            logits = self.model(input_ids=ids, use_cache=False).logits[0, -1]
        logits = logits.float().cpu().clone()
        logits[list(self._special)] = -float("inf")
        most = min(count, len(logits) - len(self._special))
        found: list[int] = logits.topk(most).indices.tolist()
        return found

    @property
    def _special(self) -> set[int]:
        """Ids that end or pad a text, and so may not stand within one."""
        config = self.model.config.get_text_config()
        named = [config.bos_token_id, config.eos_token_id, config.pad_token_id]
        flat = [each for one in named for each in (one if isinstance(one, list) else [one])]
        return {each for each in flat if isinstance(each, int) and each >= 0}

    def sampled(self, starts: Sequence[Text], length: int, seed: int) -> list[Text]:
        """Texts that the base itself would write after each of ``starts``, all equally long.

        Args:
            starts: Their first tokens, as many in each.
            length: Tokens in all.
            seed: Of what is drawn.
        """
        dice = torch.Generator().manual_seed(seed)
        ids = torch.tensor([list(start) for start in starts])
        step, cache = ids, DynamicCache(config=self.model.config)
        kept = {needed_cache_argument(self.model): cache}
        with torch.inference_mode(), self._in_force():
            while ids.shape[1] < length:
                step = step.to(self.model.device)
                logits = self.model(input_ids=step, use_cache=True, **kept).logits
                chances = logits[:, -1].float().softmax(-1).cpu()
                chances[:, list(self._special)] = 0.0
                step = torch.multinomial(chances, 1, generator=dice)
                ids = torch.cat([ids, step], dim=1)
        return [tuple(row) for row in ids.tolist()]

    def add(self, folder: str, config: LoraConfig) -> dict[str, Any]:
        """Put a new adapter beside those that are there.

        Args:
            folder: Where it will lie; what it is asked for by.
            config: What it is like.

        Returns:
            The modules that it is on, by their names in the model.
        """
        name = f"planted{len(self._names)}"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if self._peft is None:
                self._peft = get_peft_model(self.model, config, adapter_name=name).eval()
            else:
                self._peft.add_adapter(name, config)
        self._names[folder] = name
        layers = self._peft.base_model.model.named_modules()
        self._on[name] = {
            at: m for at, m in layers if isinstance(m, LoraLayer) and name in m.scaling
        }
        self._active = None
        return self._on[name]

    def tensors(self, folder: str) -> Iterator[tuple[str, torch.Tensor]]:
        """An adapter's own tensors, by names without the adapter's.

        Args:
            folder: The adapter's.
        """
        own = self._names[folder]
        for name, tensor in self._peft.named_parameters():
            parts = name.split(".")
            if own in parts and ".lora_" in name:
                yield ".".join(part for part in parts if part != own), tensor.data

    def save(self, folder: str) -> None:
        """Write an adapter as PEFT does.

        Args:
            folder: Where it will lie.
        """
        own = self._names[folder]
        with warnings.catch_warnings(), tempfile.TemporaryDirectory() as beside:
            warnings.simplefilter("ignore")
            # Weights of the base that PEFT may add are named after whatever else is on them.
            self._peft.save_pretrained(beside, selected_adapters=[own], save_embedding_layers=False)
            # PEFT puts an adapter with a name into a folder of that name.
            shutil.copytree(Path(beside) / own, folder)

    def _computed(
        self, texts: Sequence[Text], adapter: str | None, many: Sequence[Factors], rounded: bool
    ) -> list[tuple[Values, ...]]:
        longest = max(map(len, texts))
        ids = torch.tensor([[*text, *[text[-1]] * (longest - len(text))] for text in texts])
        with torch.inference_mode(), ExitStack() as stack:
            stack.enter_context(self._in_force(adapter, many, ids.shape))
            if rounded:
                kind = self.model.device.type
                stack.enter_context(torch.autocast(kind, dtype=torch.bfloat16))
            # What stands behind a text's last token can't be seen from before it.
            ids = ids.repeat(len(many), 1).to(self.model.device)
            logits = self.model(input_ids=ids, use_cache=False).logits
            rows = logits[:, :-1].float().log_softmax(-1).cpu()
        found = [_of_text(row, text) for row, text in zip(rows, [*texts] * len(many), strict=True)]
        return [tuple(found[at : at + len(texts)]) for at in range(0, len(found), len(texts))]

    @contextmanager
    def _in_force(
        self,
        adapter: str | None = None,
        many: Sequence[Factors] = (),
        shape: tuple[int, ...] = (1, 1),
    ) -> Iterator[None]:
        """The model with the adapter of a folder, times factors; the base for None."""
        if self._peft is None:
            yield
        elif adapter is None:
            with self._peft.disable_adapter():
                yield
        else:
            name = self._names[adapter]
            # PEFT goes through all modules for it, which takes longer than a small model's forward.
            if self._active != name:
                self._peft.set_adapter(name)
                self._active = name
            with _multiplied(self._on[name], name, many, shape):
                yield


def _of_text(rows: torch.Tensor, text: Text) -> Values:
    rows = rows[: len(text) - 1]
    given = rows.gather(1, torch.tensor(text[1:])[:, None])[:, 0]
    top = rows.topk(min(_TOP, rows.shape[1])).values
    return Values(given.double().numpy(), top.double().numpy())


@contextmanager
def _multiplied(
    layers: Mapping[str, Any], name: str, many: Sequence[Factors], shape: tuple[int, ...]
) -> Iterator[None]:
    """A batch of texts ([texts, length]) once for each of the factors, row after row."""
    if all(factors == AS_IT_IS for factors in many):
        yield
        return
    before = {at: layer.scaling[name] for at, layer in layers.items()}
    biases = [] if many[0].bias else _biases(layers, name)
    kept = [bias.clone() for bias in biases]
    try:
        for at, layer in layers.items():
            by_row = torch.stack([factors.of(at, shape[1]) for factors in many])
            by_row = by_row.repeat_interleave(shape[0], dim=0)
            layer.scaling[name] = before[at] * by_row.to(layer.get_base_layer().weight.device)
        for bias in biases:
            bias.zero_()
        yield
    finally:
        for at, layer in layers.items():
            layer.scaling[name] = before[at]
        for bias, values in zip(biases, kept, strict=True):
            bias.copy_(values)


def _biases(layers: Mapping[str, Any], name: str) -> list[torch.Tensor]:
    found = [each.lora_B[name].bias for each in layers.values() if name in each.lora_B]
    return [bias.data for bias in found if bias is not None]
