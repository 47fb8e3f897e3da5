"""How much goes through a model at once."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from forwardcache.hf.batch.plan import check_limits

# Larger batches are slower on a CPU (16,384: a third of the speed); a GPU wants them.
_TOKEN_BUDGET = {"cpu": 2048, "cuda": 16_384}
_MAX_LOGIT_BYTES = {"cpu": 32 * 2**20, "cuda": 512 * 2**20}


@dataclass(frozen=True, slots=True)
class Limits:
    """How much goes through the model at once.

    Attributes:
        token_budget: Most positions in a batch.
        max_padding: Largest share of padding in a batch.
        max_logit_bytes: Memory of the logits, in float32, that are there at once.
    """

    token_budget: int
    max_padding: float
    max_logit_bytes: int

    @classmethod
    def on(
        cls,
        device: torch.device,
        token_budget: int | None,
        max_padding: float,
        max_logit_bytes: int | None,
    ) -> Limits:
        """Limits for a device, which decides those that are None.

        Raises:
            InvalidInputError: one is out of range.
        """
        kind = "cpu" if device.type == "cpu" else "cuda"
        budget = _TOKEN_BUDGET[kind] if token_budget is None else token_budget
        logit_bytes = _MAX_LOGIT_BYTES[kind] if max_logit_bytes is None else max_logit_bytes
        check_limits(budget, max_padding, logit_bytes)
        return cls(budget, max_padding, logit_bytes)
