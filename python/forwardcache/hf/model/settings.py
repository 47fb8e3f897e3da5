"""Settings: those of a configuration as they were, those of the process, and both in words."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
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
    autocast = [
        (device, torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    ]
    return (*autocast, torch.get_default_dtype(), *_matmul_precisions())


def _matmul_precisions() -> Iterator[str]:
    # The public getters raise once settings of the older and the newer kind are mixed.
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if getter is None:
        yield torch.get_float32_matmul_precision()
    else:
        # One that was never set is computed as "ieee" is.
        yield _AS_SET.get(found := getter("cuda", "matmul"), found)
        yield _AS_SET.get(found := getter("mkldnn", "matmul"), found)


def as_json(value: Any) -> bytes:
    """``value`` in words that are the same in every process, as far as its parts' text is."""
    return json.dumps(value, sort_keys=True, default=str).encode()


__all__ = ["as_json", "kept", "numerics"]
