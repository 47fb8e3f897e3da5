"""What the arithmetic of a model's values depends on, other than its weights: kept with them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from forwardcache.hf.backend import HFBackend


def arithmetic_of(backend: HFBackend) -> dict[str, Any]:
    """Dtype, device, kernels, threads and token budget of ``backend``, as JSON values."""
    model, limits = backend._scorer.causal_lm, backend._scorer.runner.limits
    device = model.device
    is_gpu = device.type == "cuda"
    return {
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": str(device),
        "gpu": torch.cuda.get_device_name(device) if is_gpu else None,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "attention": getattr(model.config, "_attn_implementation", None),
        "threads": torch.get_num_threads(),
        "token_budget": limits.token_budget,
    }
