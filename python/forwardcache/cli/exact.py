"""What a server's values are compared with: a model's, computed here."""

from __future__ import annotations

from collections.abc import Callable


def exact_values(folder: str) -> Callable[[str], list[float]]:
    """By text: log-probabilities of its tokens after the first, nats, in 32 bits.

    Args:
        folder: Folder of the model and its tokenizer.

    Raises:
        ModelLoadError: the folder is missing or broken.
        UnsupportedModelError: the model gives no next tokens of text.
    """
    from forwardcache.hf import HFBackend

    backend = HFBackend.load(folder, dtype="float32")

    def values(text: str) -> list[float]:
        with backend.as_base() as view:
            return [float(value) for value in view.rolling_logprob(text).logprobs]

    return values
