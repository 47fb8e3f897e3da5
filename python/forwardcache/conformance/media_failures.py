"""What only encoders and raw media engines can break: profiles ``"encode"`` and ``"raw"``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from forwardcache.conformance.failure import ConformanceFailure

__all__ = [
    "EncodeChunkCount",
    "EncodeTerminalExpected",
    "EncodeTokensNotEmpty",
    "EncodeUsageMismatch",
    "EncoderResultExpectedObject",
    "RawEngineAdvertisedLlmRegistration",
]


@dataclass(eq=False)
class EncodeChunkCount(ConformanceFailure):
    """An encoder's stream has not exactly one item.

    Attributes:
        count: How many it has; an error counts.
    """

    sentence = "an encoder hands over one terminal chunk and no more; the stream had {count} items"
    count: int


@dataclass(eq=False)
class EncodeTerminalExpected(ConformanceFailure):
    """An encoder's chunk has not the finish reason ``stop``."""

    sentence = "an encoder's chunk needs the finish_reason 'stop', and has {reason!r}"
    reason: str | None


@dataclass(eq=False)
class EncodeTokensNotEmpty(ConformanceFailure):
    """An encoder's chunk has tokens.

    Attributes:
        count: How many.
    """

    sentence = "an encoder generates no tokens; its chunk has {count}"
    count: int


@dataclass(eq=False)
class EncoderResultExpectedObject(ConformanceFailure):
    """An encoder's chunk has no ``encoder_result``, or one that is no object."""

    sentence = "an encoder's chunk needs an `encoder_result` that is an object (a dict)"


@dataclass(eq=False)
class EncodeUsageMismatch(ConformanceFailure):
    """An encoder's usage is not that of the prompt alone.

    Attributes:
        expected_prompt: Ids of the request.
        prompt: ``prompt_tokens`` as reported.
        completion: ``completion_tokens`` as reported; 0 is right.
        total: ``total_tokens`` as reported; the prompt's number is right.
    """

    sentence = (
        "an encoder's usage is {expected_prompt} + 0 = {expected_prompt} for this request; "
        "reported were {prompt} + {completion} = {total}"
    )
    expected_prompt: int
    prompt: Any
    completion: Any
    total: Any


@dataclass(eq=False)
class RawEngineAdvertisedLlmRegistration(ConformanceFailure):
    """A raw engine's config has ``llm``, which is for engines with tokens."""

    sentence = "start() of a raw engine returned a config with `llm`; it has no tokens to register"
