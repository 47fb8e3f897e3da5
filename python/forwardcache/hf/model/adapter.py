"""Which views of a model with an adapter are exact.

PEFT's tuner layers have one flag that turns them off, so that ``base`` and ``ft`` are exact for
nearly all of its methods; the few others are named here with the reason. ``scaled`` and ``null``
ask for more: that the adapter is ``base + λ·B·A`` and nothing else; a matched null that it is one
such product in each layer. Some hold trained parts that no λ reaches (DoRA's magnitudes,
``modules_to_save``, trained tokens), and some have changed the base weights themselves (trained
biases, PiSSA, OLoRA). A view that would silently be something else is refused with the reason: its
values would be well formed, and nothing in them would show the fault.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import nn

from forwardcache.errors import AdapterError, UnsupportedModelError
from forwardcache.hf.model.adapter_parts import (
    LOW_RANK,
    adapter_configs,
    available_adapters,
    base_modules,
    switched_modules,
)
from forwardcache.hf.model.overwritten import overwritten
from forwardcache.hf.model.peft_kinds import (
    BaseTunerLayer,
    LoraLayer,
    ModulesToSaveWrapper,
    PeftMixedModel,
    PeftModel,
    TrainableTokensLayer,
    TrainableTokensWrapper,
)
from forwardcache.hf.model.products import why_no_product
from forwardcache.hf.spec import ViewSpec

# These initialisations subtract something from the base weights when the adapter is put on.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")

_OWN_ROWS = "it puts rows of its own before each prompt, inside PEFT, which no batch of ours fits"
# Methods whose layers the common flag doesn't turn off, or which need more than tokens.
_NOT_SWITCHED = {
    "ADAPTION_PROMPT": "it swaps whole attention modules, so its layers can't be turned off",
    "XLORA": "its layers have a switch of their own, and a second forward inside each",
    "POLY": "it needs the task's id with every call",
    "MULTITASK_PROMPT_TUNING": "it needs the task's id with every call",
}


@dataclass(frozen=True, slots=True)
class AdapterTraits:
    """What was found on the model.

    Attributes:
        present: Whether there is an active adapter.
        merged: Names of adapters that are merged into the weights.
        beyond_lambda: Trained parts that scaling doesn't reach; empty for plain LoRA.
        base_changed: Why the weights below the adapter are not the base model's; empty if they are.
        beyond_noise: Trained parts that noise in A and B would leave; empty for plain LoRA.
        beyond_match: Why what it adds isn't known to be a product of A and B in each layer.
        not_repeatable: Why the adapter's own values depend on more than the prompt; empty if not.
        disabled: Which of the active adapters' layers are turned off at present.
    """

    present: bool
    merged: tuple[str, ...]
    beyond_lambda: tuple[str, ...]
    base_changed: tuple[str, ...]
    beyond_noise: tuple[str, ...] = ()
    beyond_match: tuple[str, ...] = ()
    not_repeatable: tuple[str, ...] = ()
    disabled: Literal["none", "some", "all"] = "none"

    def check(self, spec: ViewSpec) -> None:
        """Refuses the views that this adapter can't give exactly.

        Raises:
            AdapterError: the view needs an adapter and there is none.
            UnsupportedModelError: the view would not be what its name says.
        """
        if spec.kind != "base" and not self.present:
            raise AdapterError(f"view {spec.view_id} needs an adapter, and the model has none")
        if spec.kind != "ft":
            self._refuse(spec, [f"adapter {name} is merged" for name in self.merged])
            self._refuse(spec, self.base_changed)
        if spec.kind in ("scaled", "null"):
            self._refuse(spec, self.beyond_lambda)
        if spec.kind == "null":
            self._refuse(spec, self.beyond_noise)
        if spec.matched:
            self._refuse(spec, self.beyond_match)
        if spec.kind != "base":
            self._refuse(spec, self.not_repeatable)

    def gives(self, spec: ViewSpec) -> bool:
        """Whether ``check`` lets the view through."""
        try:
            self.check(spec)
        except (AdapterError, UnsupportedModelError):
            return False
        return True

    @staticmethod
    def _refuse(spec: ViewSpec, reasons: Sequence[str]) -> None:
        if reasons:
            reason = ", ".join(reasons)
            raise UnsupportedModelError(f"view {spec.view_id} can't be exact here: {reason}")


def traits_of(model: nn.Module) -> AdapterTraits:
    """Looks the model over.

    Raises:
        UnsupportedModelError: its adapter is of a kind none of whose views is exact.
    """
    layers: list[Any] = list(switched_modules(model))
    configs = _configs(model)
    _check_kind(model, layers, configs)
    held = [layer for layer in layers if _held(layer)]
    merged = {name for layer in layers for name in layer.merged_adapters}
    off = {bool(layer.disable_adapters) for layer in held}
    return AdapterTraits(
        present=bool(held),
        merged=tuple(sorted(merged)),
        beyond_lambda=_sorted(_beyond_lambda(layer, configs) for layer in held),
        base_changed=tuple(sorted(_base_changed(model, layers))),
        beyond_noise=_sorted(_beyond_noise(layer) for layer in held),
        beyond_match=_sorted([why_no_product(model)]),
        not_repeatable=_sorted(_not_repeatable(layer, configs) for layer in held),
        disabled="some" if len(off) > 1 else "all" if off == {True} else "none",
    )


def _sorted(found: Iterable[Iterable[str]]) -> tuple[str, ...]:
    return tuple(sorted({reason for reasons in found for reason in reasons}))


def _held(layer: Any) -> set[str]:
    """The active adapters that have a part in this layer."""
    return available_adapters(layer) & set(layer.active_adapters)


def _configs(model: Any) -> dict[str, Any]:
    """Configurations by name, of a model inside a PEFT model too."""
    inner = model.base_model if isinstance(model, PeftModel) else None
    return adapter_configs(inner) | adapter_configs(model)


def _kind(config: Any) -> str:
    kind = getattr(config, "peft_type", "")
    return str(getattr(kind, "value", kind))


def _check_kind(model: nn.Module, layers: list[Any], configs: Mapping[str, Any]) -> None:
    for name, config in configs.items():
        reason = _NOT_SWITCHED.get(_kind(config))
        if reason is None and getattr(config, "is_prompt_learning", False):
            reason = _OWN_ROWS
        if reason is not None:
            raise UnsupportedModelError(f"adapter {name!r} is {_kind(config)}: {reason}")
    if isinstance(model, PeftModel | PeftMixedModel) and not layers:
        raise UnsupportedModelError(
            "the PEFT model has no adapter layers (merged or unloaded); "
            "build a backend on the plain model instead"
        )


def _beyond_lambda(layer: Any, configs: Mapping[str, Any]) -> Iterator[str]:
    held = _held(layer)
    if isinstance(layer, LoraLayer):
        for name in sorted(held & set(layer.lora_variant)):
            yield _said_of_variant(type(layer.lora_variant[name]).__name__)
    elif isinstance(layer, ModulesToSaveWrapper):
        yield "modules_to_save replaces whole modules"
    elif isinstance(layer, TrainableTokensWrapper | TrainableTokensLayer):
        yield "trained tokens replace embeddings"
    else:
        for name in sorted(held):
            kind = _kind(configs[name]) if name in configs else type(layer).__name__
            yield f"adapter {name!r} is {kind}, not LoRA: its scaling isn't all there is"


def _said_of_variant(name: str) -> str:
    if "Dora" in name:
        return "DoRA's magnitudes are trained in addition to the low-rank part"
    return f"{name.removesuffix('LinearVariant')} is more than LoRA's A and B"


def _beyond_noise(layer: Any) -> Iterator[str]:
    """What else the active adapters train in a LoRA layer, such as AdaLoRA's singular values."""
    if not isinstance(layer, LoraLayer):
        return
    for name in sorted(set(layer.adapter_layer_names).difference(LOW_RANK)):
        if _held(layer) & set(getattr(layer, name, None) or ()):
            yield f"noise in A and B would leave {name} as it was trained"


def _not_repeatable(layer: Any, configs: Mapping[str, Any]) -> Iterator[str]:
    for name in _held(layer) & set(configs):
        if getattr(configs[name], "sample_at_inference", False):
            yield f"adapter {name!r} draws another value in each forward (sample_at_inference)"


def _base_changed(model: nn.Module, layers: list[Any]) -> set[str]:
    # An adapter that is not active has changed the weights below all the same.
    reasons = set()
    if layers and (names := overwritten(model)):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        reasons.add(
            f"the adapter's file has {names[0]}{more} of another base model, and this one's own is "
            "overwritten"
        )
    for name, config in (adapter_configs(model) if layers else {}).items():
        bias = getattr(config, "bias", "none")
        if bias != "none" and _trains_biases(model, layers, bias):
            reasons.add(f"adapter {name!r} trains the base model's biases ({bias})")
        if reason := changes_base(vars(config)):
            reasons.add(f"adapter {name!r} {reason}")
    return reasons


def changes_base(settings: Mapping[str, Any]) -> str | None:
    """What an adapter of these settings did to the base model's weights when it began, if any."""
    init = settings.get("init_lora_weights", True)
    if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
        return f"changed the base weights when it began ({init})"
    if settings.get("kasa_config") is not None:
        return "cut off the base weights' small parts (KaSA)"
    if settings.get("layer_replication"):
        return "repeats the base model's layers (layer_replication)"
    return None


def _trains_biases(model: nn.Module, layers: list[Any], which: str) -> bool:
    """Whether there is any bias to be trained: of all modules, or of those with adapters."""
    if which == "all":
        own = {id(each) for module in base_modules(model) for each in module.parameters(False)}
        return any("bias" in name and id(each) in own for name, each in model.named_parameters())
    bases = [each.get_base_layer() for each in layers if isinstance(each, BaseTunerLayer)]
    return any(getattr(base, "bias", None) is not None for base in bases)


__all__ = ["AdapterTraits", "changes_base", "traits_of"]
