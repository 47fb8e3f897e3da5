"""Whether a model's logits are finite: real forwards on prompts that any model can read."""

from __future__ import annotations

import torch

from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.text.encode import Encoder

_PROMPTS = ("The", "The quick brown fox jumps over the lazy dog.")


def nonfinite_logits(runner: ForwardRunner, encoder: Encoder) -> str:
    """What is wrong with the logits of a few prompts; empty if nothing is."""
    for prompt in _PROMPTS:
        logits = runner.all_logits(encoder.encode("prompt", prompt).fed)
        bad = int((~torch.isfinite(logits)).sum())
        if bad:
            return f"{bad} of {logits.numel()} logits of {prompt!r} are not finite"
    return ""
