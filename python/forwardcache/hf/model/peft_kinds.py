"""PEFT's classes, to ask of an object whether it is one of theirs, without importing PEFT.

While PEFT isn't imported nothing can be an object of it, or derive from it, so the answer is no. A
model without an adapter is loaded and scored without PEFT.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from peft import PeftConfig, PeftMixedModel, PeftModel
    from peft.tuners.lora import LoraLayer
    from peft.tuners.lora.layer import Embedding as LoraEmbedding
    from peft.tuners.lora.layer import Linear as LoraLinear
    from peft.tuners.lora.layer import ParamWrapper
    from peft.tuners.lora.layer import _ConvNd as LoraConvolution
    from peft.tuners.trainable_tokens import TrainableTokensLayer
    from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
    from peft.utils.other import (
        AuxiliaryTrainingWrapper,
        ModulesToSaveWrapper,
        TrainableTokensWrapper,
    )
else:

    class _Asked(type):
        """The class of a stand-in, which answers as PEFT's own class of that ``home`` would."""

        home: tuple[str, str]

        def __instancecheck__(cls, instance: Any) -> bool:
            return isinstance(instance, cls._there())

        def __subclasscheck__(cls, kind: type) -> bool:
            return issubclass(kind, cls._there())

        def __getattr__(cls, name: str) -> Any:
            return getattr(cls._there(), name)

        def _there(cls) -> Any:
            """The class itself; nothing is an instance of ``()``."""
            module, name = cls.home
            return getattr(sys.modules.get(module), name, ())

    def _asked(module: str, name: str) -> type:
        return _Asked(name, (), {"home": (module, name)})

    PeftConfig = _asked("peft.config", "PeftConfig")
    PeftMixedModel = _asked("peft.mixed_model", "PeftMixedModel")
    PeftModel = _asked("peft.peft_model", "PeftModel")
    LoraLayer = _asked("peft.tuners.lora.layer", "LoraLayer")
    LoraEmbedding = _asked("peft.tuners.lora.layer", "Embedding")
    LoraLinear = _asked("peft.tuners.lora.layer", "Linear")
    LoraConvolution = _asked("peft.tuners.lora.layer", "_ConvNd")
    ParamWrapper = _asked("peft.tuners.lora.layer", "ParamWrapper")
    TrainableTokensLayer = _asked("peft.tuners.trainable_tokens.layer", "TrainableTokensLayer")
    BaseTuner = _asked("peft.tuners.tuners_utils", "BaseTuner")
    BaseTunerLayer = _asked("peft.tuners.tuners_utils", "BaseTunerLayer")
    AuxiliaryTrainingWrapper = _asked("peft.utils.other", "AuxiliaryTrainingWrapper")
    ModulesToSaveWrapper = _asked("peft.utils.other", "ModulesToSaveWrapper")
    TrainableTokensWrapper = _asked("peft.utils.other", "TrainableTokensWrapper")


__all__ = [
    "AuxiliaryTrainingWrapper",
    "BaseTuner",
    "BaseTunerLayer",
    "LoraConvolution",
    "LoraEmbedding",
    "LoraLayer",
    "LoraLinear",
    "ModulesToSaveWrapper",
    "ParamWrapper",
    "PeftConfig",
    "PeftMixedModel",
    "PeftModel",
    "TrainableTokensLayer",
    "TrainableTokensWrapper",
]
