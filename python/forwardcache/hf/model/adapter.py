"""What the adapter on a model is, and so which views of it are exact.

For plain LoRA the model is ``base + λ·delta``. Some adapters also hold trained parts that no λ
reaches (DoRA's magnitudes, ``modules_to_save``, trained tokens), and some have changed the base
weights themselves (trained biases, PiSSA, OLoRA). A view that would silently be something else is
refused with the reason: its values would be well formed, and nothing in them would show the fault.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils.other import (
    AuxiliaryTrainingWrapper,
    ModulesToSaveWrapper,
    TrainableTokensWrapper,
)
from torch import nn

from forwardcache.errors import AdapterError, UnsupportedModelError
from forwardcache.hf.model.overwritten import overwritten
from forwardcache.hf.spec import ViewSpec

# These initialisations subtract something from the base weights when the adapter is put on.
_CHANGES_BASE = ("pissa", "olora", "corda", "loftq", "lora_ga")


@dataclass(frozen=True, slots=True)
class AdapterTraits:
    """What was found on the model.

    Attributes:
        present: Whether there is an active LoRA adapter.
        merged: Names of adapters that are merged into the weights.
        beyond_lambda: Trained parts that scaling doesn't reach; empty for plain LoRA.
        base_changed: Why the weights below the adapter are not the base model's; empty if they are.
    """

    present: bool
    merged: tuple[str, ...]
    beyond_lambda: tuple[str, ...]
    base_changed: tuple[str, ...]

    def check(self, spec: ViewSpec) -> None:
        """Refuses the views that this adapter can't give exactly.

        Raises:
            AdapterError: the view needs an adapter and there is none.
            UnsupportedModelError: the view would not be what its name says.
        """
        if spec.kind != "base" and not self.present:
            raise AdapterError(f"view {spec.view_id} needs an adapter, and the model has none")
        if spec.kind == "ft":
            return
        self._refuse(spec, f"adapter {', '.join(self.merged)} is merged", bool(self.merged))
        self._refuse(spec, ", ".join(self.base_changed), bool(self.base_changed))
        if spec.kind != "base":
            self._refuse(spec, ", ".join(self.beyond_lambda), bool(self.beyond_lambda))

    def gives(self, spec: ViewSpec) -> bool:
        """Whether ``check`` lets the view through."""
        try:
            self.check(spec)
        except (AdapterError, UnsupportedModelError):
            return False
        return True

    @staticmethod
    def _refuse(spec: ViewSpec, reason: str, applies: bool) -> None:
        if applies:
            raise UnsupportedModelError(f"view {spec.view_id} can't be exact here: {reason}")


def switched_modules(model: nn.Module) -> Iterator[nn.Module]:
    """The modules that carry the flag which turns adapters off."""
    for module in model.modules():
        if isinstance(module, BaseTunerLayer | AuxiliaryTrainingWrapper):
            yield module


def lora_layers(model: nn.Module) -> Iterator[LoraLayer]:
    """The layers that carry a scaling."""
    for module in model.modules():
        if isinstance(module, LoraLayer):
            yield module


def noise_parameters(model: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that a null adapter replaces: every LoRA A and B, in the model's order."""
    for name, parameter in model.named_parameters():
        if any(part in name for part in ("lora_A", "lora_B", "lora_embedding_")):
            yield parameter


def traits_of(model: nn.Module) -> AdapterTraits:
    """Looks the model over.

    Raises:
        UnsupportedModelError: its adapter is of a kind whose views are not known to be exact.
    """
    layers: list[Any] = list(switched_modules(model))
    _check_kind(model, layers)
    active = {name for layer in layers for name in layer.active_adapters}
    merged = {name for layer in layers for name in layer.merged_adapters}
    return AdapterTraits(
        present=any(_available(layer) & active for layer in layers),
        merged=tuple(sorted(merged)),
        beyond_lambda=tuple(sorted({part for layer in layers for part in _beyond_lambda(layer)})),
        base_changed=tuple(sorted(_base_changed(model, layers))),
    )


def _available(layer: Any) -> set[str]:
    if isinstance(layer, AuxiliaryTrainingWrapper):
        return set(layer._adapters)
    return set(layer._get_available_adapters())


def _check_kind(model: nn.Module, layers: list[Any]) -> None:
    if isinstance(model, PeftModel) and not layers:
        raise UnsupportedModelError(
            "the PEFT model has no adapter layers (merged, unloaded, or prompt learning); "
            "build a backend on the plain model instead"
        )
    for layer in layers:
        if isinstance(layer, BaseTunerLayer) and not _is_known(layer):
            raise UnsupportedModelError(
                f"adapter layer {type(layer).__name__} is not LoRA; only LoRA, rsLoRA and DoRA, "
                "with modules_to_save and trainable tokens, are known to give exact views"
            )
        for name, variant in getattr(layer, "lora_variant", {}).items():
            if "Dora" not in type(variant).__name__:
                raise UnsupportedModelError(
                    f"adapter {name!r} is of the LoRA variant {type(variant).__name__}, "
                    "whose views are not known to be exact"
                )


def _is_known(layer: BaseTunerLayer) -> bool:
    # A trained-tokens wrapper keeps its deltas in a tuner layer of its own.
    return isinstance(layer, LoraLayer) or type(layer).__name__ == "TrainableTokensLayer"


def _beyond_lambda(layer: nn.Module) -> Iterator[str]:
    active = set(layer.active_adapters)  # type: ignore[arg-type]
    if isinstance(layer, LoraLayer) and active & set(layer.lora_variant):
        yield "DoRA's magnitudes are trained in addition to the low-rank part"
    if isinstance(layer, ModulesToSaveWrapper) and active & layer._adapters:
        yield "modules_to_save replaces whole modules"
    if isinstance(layer, TrainableTokensWrapper) and active & layer._adapters:
        yield "trained tokens replace embeddings"


def _base_changed(model: nn.Module, layers: list[Any]) -> set[str]:
    # An adapter that is not active has changed the weights below all the same.
    configs = getattr(model, "peft_config", {}) if layers else {}
    reasons = set()
    if layers and (names := overwritten(model)):
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        reasons.add(
            f"the adapter's file has {names[0]}{more} of another base model, and this one's own is "
            "overwritten"
        )
    for name, config in configs.items():
        if getattr(config, "bias", "none") != "none":
            reasons.add(f"adapter {name!r} trains the base model's biases ({config.bias})")
        init = getattr(config, "init_lora_weights", True)
        if isinstance(init, str) and init.lower().startswith(_CHANGES_BASE):
            reasons.add(f"adapter {name!r} changed the base weights when it began ({init})")
    return reasons


__all__ = [
    "AdapterTraits",
    "lora_layers",
    "noise_parameters",
    "switched_modules",
    "traits_of",
]
