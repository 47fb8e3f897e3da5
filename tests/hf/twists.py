"""Families that nobody has heard of: a Llama with a twist each, and what may be done with it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import LlamaForCausalLM

from tests.hf import tiny


class LooksAhead(LlamaForCausalLM):
    """Every layer sees the whole text."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            layer.self_attn.is_causal = False


class OnState(LlamaForCausalLM):
    """Changes what the first layer gives: [rows, tokens, width] to the same."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        self.model.layers[0] = Changed(self.model.layers[0], self.change)

    @staticmethod
    def change(states: torch.Tensor) -> torch.Tensor:
        raise NotImplementedError


class Changed(nn.Module):
    def __init__(self, layer: nn.Module, change: Any) -> None:
        super().__init__()
        self.layer = layer
        self.change = change

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self.change(self.layer(*arguments, **options))


class MixesRows(OnState):
    """Adds what all tokens of all rows have in common, as a router over a whole call does."""

    @staticmethod
    def change(states: torch.Tensor) -> torch.Tensor:
        return states + states.mean((0, 1))


class DropsTheCrowd(OnState):
    """Two experts that take half of a call's tokens each: what comes too late is left out."""

    @staticmethod
    def change(states: torch.Tensor) -> torch.Tensor:
        flat = states.flatten(0, 1)
        capacity = max(1, len(flat) // 2)
        for expert in (flat[:, 0] > 0, flat[:, 0] <= 0):
            late = expert & (expert.cumsum(0) > capacity)
            flat = flat.masked_fill(late[:, None], 0.0)
        return flat.view_as(states)


class GoesByLength(OnState):
    """Stretches with the length of its input, as some rotary embeddings do."""

    @staticmethod
    def change(states: torch.Tensor) -> torch.Tensor:
        return states * (1.0 + 0.1 * states.shape[1])


class LooksBack(OnState):
    """A short convolution, for which the sequence is all there is."""

    @staticmethod
    def change(states: torch.Tensor) -> torch.Tensor:
        return states + 0.5 * nn.functional.pad(states, (0, 0, 1, 0))[:, :-1]


class LooksAheadLate(OnState):
    """Causal up to its 40th token."""

    @staticmethod
    def change(states: torch.Tensor) -> torch.Tensor:
        late = nn.functional.pad(states, (0, 0, 0, 1))[:, 1:]
        late = torch.where((torch.arange(states.shape[1]) >= 40)[:, None], late, 0.0)
        return states + late


class HardlyListens(LlamaForCausalLM):
    """Its attention gives nothing, so that no short row shows how rows have to be laid out."""

    def __init__(self, config: Any) -> None:
        super().__init__(config)
        for layer in self.model.layers:
            nn.init.zeros_(layer.self_attn.o_proj.weight)


class CountsTheMask(LlamaForCausalLM):
    """Scales with the number of tokens that it is told of, or else that it is given."""

    def forward(self, input_ids: Any = None, attention_mask: Any = None, **rest: Any) -> Any:
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        output = super().forward(input_ids=input_ids, attention_mask=attention_mask, **rest)
        output.logits = output.logits * (1.0 + 0.1 * mask.sum(-1)[:, None, None])
        return output


class CutsItsStates(LlamaForCausalLM):
    """Hands what is asked of the head to its body, which computes no more than that."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:
        handle = self.model.register_forward_hook(
            lambda _m, _i, output: cut(output, logits_to_keep)
        )
        try:
            return super().forward(input_ids=input_ids, **rest)
        finally:
            handle.remove()


def cut(output: Any, kept: Any) -> Any:
    at = slice(-kept, None) if isinstance(kept, int) else kept
    output.last_hidden_state = output.last_hidden_state[:, at]
    return output


class NamesPositionsWrongly(LlamaForCausalLM):
    """Takes ``logits_to_keep`` and gives as many logits, those of other positions."""

    def forward(self, input_ids: Any = None, logits_to_keep: Any = 0, **rest: Any) -> Any:
        output = super().forward(input_ids=input_ids, **rest)
        count = 0 if isinstance(logits_to_keep, int) else logits_to_keep.shape[-1]
        output.logits = output.logits[:, :count] if count else output.logits
        return output


class Draws(LlamaForCausalLM):
    """Drops at random, in evaluation mode too."""

    def forward(self, *arguments: Any, **rest: Any) -> Any:
        output = super().forward(*arguments, **rest)
        output.logits = nn.functional.dropout(output.logits, 0.1, training=True)
        return output


class WantsPictures(LlamaForCausalLM):
    """Reads no text without a picture."""

    def forward(self, *arguments: Any, pixel_values: Any = None, **rest: Any) -> Any:
        raise ValueError("You have to specify pixel_values")


class ReadsSeveralTexts(LlamaForCausalLM):
    """Has an embedding for each of the texts that it reads at once, as models of sound do."""

    def get_input_embeddings(self) -> Any:
        return nn.ModuleList([self.model.embed_tokens])

    def forward(self, input_ids: Any = None, **rest: Any) -> Any:
        return super().forward(input_ids=input_ids.view(-1, 5, input_ids.shape[-1])[:, 0], **rest)


@dataclass(frozen=True)
class Twist:
    """What may be done with a family.

    Attributes:
        kind: The model's class.
        causal: Whether operations that need causality are let through.
        batches: How rows share a forward.
        prefixes: Whether they share the computation of a prefix.
        note: What is said of it.
        settings: What its configuration has in addition.
    """

    kind: type[Any]
    causal: bool = True
    batches: str = "packed"
    prefixes: bool = True
    note: str = ""
    settings: tuple[tuple[str, Any], ...] = ()


LET_IN = [
    Twist(LlamaForCausalLM),
    Twist(LooksAhead, False, "packed", False, "not causal"),
    Twist(MixesRows, False, "single", False, "batched rows have other logits"),
    Twist(DropsTheCrowd, True, "single", False, "batched rows have other logits"),
    Twist(GoesByLength, True, "equal_lengths", False, "padded rows have other logits"),
    Twist(LooksBack, True, "padded", False, "packed rows have other logits"),
    Twist(LooksAheadLate, False, "equal_lengths", False, "not causal", (("my_window", 44),)),
    Twist(HardlyListens, True, "single", False, "hardly moves its logits"),
    Twist(CountsTheMask, True, "padded", False, "padded rows have other logits"),
    Twist(CutsItsStates),
    Twist(NamesPositionsWrongly, True, "equal_lengths", False, "other logits"),
]
REFUSED = {
    Draws: "other logits each time",
    WantsPictures: "token ids alone.*pixel_values",
    ReadsSeveralTexts: "token ids alone.*shape",
}


def made(kind: type[Any], settings: tuple[tuple[str, Any], ...] = ()) -> Any:
    config = tiny.llama().config
    config.max_position_embeddings = 128
    for name, value in settings:
        setattr(config, name, value)
    torch.manual_seed(6)
    model = kind(config)
    return tiny.sharpened(model).eval()
