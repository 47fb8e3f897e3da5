"""Settings: those of a configuration as they were, those of the process, and both in words."""

from __future__ import annotations

import copy
import json
from typing import Any

import torch

_AS_SET = {"none": "ieee"}


def kept(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy to compare with later; what can't be copied and compared is kept itself."""
    return {key: _kept_value(value) for key, value in settings.items()}


def _kept_value(value: Any) -> Any:
    try:
        copied = copy.deepcopy(value)
        return copied if copied == value else value
    except Exception:
        return value


def numerics() -> tuple[Any, ...]:
    """Process-wide settings that change what a forward gives."""
    # Every hit asks; a generator for each part would cost more than the parts.
    if _is_autocast("cpu") or _is_autocast("cuda"):
        devices = filter(_is_autocast, ("cpu", "cuda"))
        autocast = [(device, torch.get_autocast_dtype(device)) for device in devices]
        return (*autocast, _default_dtype(), *_matmul_precisions())
    return (_default_dtype(), *_matmul_precisions())


_is_autocast = torch.is_autocast_enabled
_default_dtype = torch.get_default_dtype
# The public getters raise once settings of the older and the newer kind are mixed.
_precision_of = getattr(torch._C, "_get_fp32_precision_getter", None)


def _matmul_precisions() -> tuple[str, ...]:
    if _precision_of is None:
        return (torch.get_float32_matmul_precision(),)
    cuda, cpu = _precision_of("cuda", "matmul"), _precision_of("mkldnn", "matmul")
    # One that was never set is computed as "ieee" is.
    return _AS_SET.get(cuda, cuda), _AS_SET.get(cpu, cpu)


def as_json(value: Any) -> bytes:
    """``value`` in words that are the same in every process, as far as its parts' text is."""
    return json.dumps(value, sort_keys=True, default=str).encode()


__all__ = ["as_json", "kept", "numerics"]
