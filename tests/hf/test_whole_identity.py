"""Claims: whatever tensor of a model and whatever setting of its adapter is changed, the state is
another, in this process and for every other; a base model's part of it is in the key of its base.

There is no list here of what to change: tensors are found by walking over everything that the
model holds, settings by the fields of the adapter's configuration.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from forwardcache.hf.model.adapter_parts import active_settings, adapter_configs, switched_modules
from forwardcache.hf.model.identity import ModelIdentity
from tests.hf import tiny
from tests.hf.adapter_cases import CASES, adapted

# What is reachable from a configuration or a hook decides by itself nothing.
_NOT_LOOKED_INTO = ("config", "generation_config", "peft_config")
_IDLE = {"base_model_name_or_path", "revision", "peft_version", "inference_mode"}

NAMES = (
    "LoRA",
    "LoRA, experts' first projection",
    "LoRA, trained tokens tied",
    "LoRA, head saved",
    "LoRA and LoHa",
    "Arrow",
    "AdaMSS",
    "FourierFT",
    "OSF",
    "SHiRA",
    "trainable tokens",
    "VeRA",
    "WaveFT",
)


def reachable(model: nn.Module) -> dict[int, tuple[str, Tensor]]:
    """Every tensor that can be come to from a model, by its id: one of its paths, and itself."""
    found: dict[int, tuple[str, Tensor]] = {}
    known: set[int] = set()

    def visit(path: str, value: Any) -> None:
        if id(value) in known:
            return
        known.add(id(value))
        if isinstance(value, Tensor):
            found[id(value)] = path, value
        if isinstance(value, dict):
            for key, each in list(value.items()):
                visit(f"{path}.{key}", each)
        elif isinstance(value, list | tuple):
            for index, each in enumerate(value):
                visit(f"{path}.{index}", each)
        elif isinstance(value, nn.Module | Tensor):
            for key, each in vars(value).items():
                if key not in _NOT_LOOKED_INTO:
                    visit(f"{path}.{key}", each)

    visit("", model)
    return found


def changed(tensor: Tensor) -> Iterator[None]:
    """Changes one number of a tensor in place, and puts it back."""
    with torch.no_grad():
        flat = tensor.detach().view(-1)[:1]
        before = flat.clone()
        flat.copy_(~before if tensor.dtype == torch.bool else before + 1)
        yield
        flat.copy_(before)


def keys(identity: ModelIdentity, tokenizer: Any) -> tuple[bytes | None, ...]:
    """The keys of the present state: here, everywhere, and everywhere without the adapter."""
    everywhere = (identity.lasting_key(tokenizer, without_adapter=each) for each in (False, True))
    return identity.state(tokenizer).key, *everywhere


@pytest.mark.parametrize("name", NAMES)
def test_any_tensor_that_is_changed_gives_another_state(name: str, tokenizer: Any) -> None:
    case = CASES[name]
    model = case.make()
    identity = ModelIdentity(model)
    assert identity.why_not_lasting(tokenizer) is None
    unnoticed = []
    base_names = set(case.base().state_dict())
    for path, tensor in reachable(model).values():
        if not tensor.numel():
            continue
        here, everywhere, base = keys(identity, tokenizer)
        for _ in changed(tensor):
            new = keys(identity, tokenizer)
            if here == new[0] or everywhere == new[1]:
                unnoticed.append(path)
            is_base = any(_plain_path(path).endswith(each) for each in base_names)
            if is_base and base == new[2]:
                unnoticed.append(f"{path} without the adapter")
    assert unnoticed == []


def _plain_path(path: str) -> str:
    """A path without what PEFT and torch put between its names."""
    parts = [each for each in path.split(".") if not each.startswith("_")]
    dropped = ("base_layer", "original_module", "token_adapter")
    return ".".join(each for each in parts if each not in dropped)


@pytest.mark.parametrize("name", NAMES)
def test_any_setting_of_an_adapter_that_is_changed_gives_another_state(
    name: str, tokenizer: Any
) -> None:
    model = CASES[name].make()
    identity = ModelIdentity(model)
    configs = adapter_configs(model)
    unnoticed = []
    for adapter in active_settings(model):
        config = configs[adapter]
        for each in dataclasses.fields(config):
            if each.name in _IDLE or each.name not in config.to_dict():
                continue
            old, before = getattr(config, each.name), keys(identity, tokenizer)
            setattr(config, each.name, another(old))
            new = keys(identity, tokenizer)
            setattr(config, each.name, old)
            if before[0] == new[0] or before[1] == new[1]:
                unnoticed.append(each.name)
    assert unnoticed == []


@pytest.mark.parametrize("name", NAMES)
def test_any_setting_of_a_layer_that_is_changed_gives_another_state(
    name: str, tokenizer: Any
) -> None:
    model = CASES[name].make()
    identity = ModelIdentity(model)
    for layer in switched_modules(model):
        # What a LoRA layer's scaling was computed from isn't read again.
        names: Any = ["scaling"] if isinstance(layer, LoraLayer) else layer.other_param_names
        for each in names:
            held: Any = vars(layer).get(each)
            for key, old in list(held.items()) if isinstance(held, dict) else ():
                if isinstance(old, int | float | str | list):
                    before = keys(identity, tokenizer)
                    held[key] = another(old)
                    new = keys(identity, tokenizer)
                    held[key] = old
                    assert before[0] != new[0], each
                    assert before[1] != new[1], each


def another(value: Any) -> Any:
    """Another value of the same kind, or one at all."""
    made: dict[type, Any] = {
        bool: lambda: not value,
        int: lambda: value + 1,
        float: lambda: value + 1,
        str: lambda: f"{value}x",
        list: lambda: [*value, 1],
        set: lambda: {*value, "x"},
        dict: lambda: value | {"x": 1},
    }
    return made.get(type(value), lambda: "x")()


def test_adapters_that_differ_in_settings_alone_share_only_their_base(tokenizer: Any) -> None:
    def lasting(tokens: list[int]) -> tuple[bytes | None, ...]:
        import peft

        model = tiny.llama()
        with torch.no_grad():
            model.model.embed_tokens.weight[:50] = 1.0
        model = adapted(peft.TrainableTokensConfig(token_indices=tokens), lambda: model)
        return keys(ModelIdentity(model), tokenizer)[1:]

    one, other = lasting([3, 4]), lasting([30, 40])
    assert one[0] != other[0]
    assert one[1] == other[1] is not None
