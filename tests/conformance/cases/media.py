"""The profiles ``encode`` and ``raw``: what breaks each of their rules, and what keeps all."""

from __future__ import annotations

import forwardcache.conformance as kit
from tests.conformance import engines as e
from tests.conformance.cases.case import Case, faults
from tests.conformance.engines import chunk, encoded, usage

ENCODE_FAULTS = [
    *faults(
        kit.EncodeChunkCount,
        "encode_generate",
        {
            "no chunk": e.encoding(),
            "two chunks": e.encoding(encoded(), encoded()),
            "an error after the chunk": e.encoding(encoded(), RuntimeError("late")),
        },
        "encode",
    ),
    *faults(
        kit.StreamYieldedError,
        "encode_generate",
        {"an error": e.encoding(RuntimeError("no image"))},
        "encode",
    ),
    *faults(
        kit.EncodeTerminalExpected,
        "encode_generate",
        {
            "length": e.encoding(encoded(finish_reason="length")),
            "no reason": e.encoding(encoded(finish_reason=None)),
        },
        "encode",
    ),
    *faults(
        kit.EncodeTokensNotEmpty,
        "encode_generate",
        {"a token": e.encoding(encoded(token_ids=[1]))},
        "encode",
    ),
    *faults(
        kit.EncoderResultExpectedObject,
        "encode_generate",
        {
            "nothing": e.encoding(chunk(finish="stop")),
            "a list": e.encoding(encoded(encoder_result=[1])),
        },
        "encode",
    ),
    *faults(
        kit.EncodeUsageMismatch,
        "encode_generate",
        {
            "a token was counted": e.encoding(encoded(completion_usage=usage(3, 1))),
            "the prompt is another": e.encoding(encoded(completion_usage=usage(4, 0))),
            "the total is another": e.encoding(encoded(completion_usage=usage(3, 0, 4))),
        },
        "encode",
    ),
    *faults(
        kit.GenerateFailed,
        "encode_generate",
        {"generate raises": type("Variant", (e.Encoder,), {"generate": e.failing_at_once})},
        "encode",
    ),
    *faults(
        kit.EncodeChunkCount,
        "encode_concurrent_generates",
        {"two chunks where several are served": e.EncoderOfOne},
        "encode",
    ),
    *faults(
        kit.ConcurrentGenerateFailed,
        "encode_concurrent_generates",
        {"refused where several are served": e.EncoderThatRefuses},
        "encode",
    ),
    *faults(
        kit.CancellationIgnored,
        "encode_cancellation",
        {"the context is not looked at": e.StubbornEncoder},
        "encode",
    ),
    *faults(
        kit.CancellationNotObserved,
        "encode_cancellation",
        {"the stop is seen late": e.SlowEncoder},
        "encode",
    ),
    *faults(
        kit.GenerateFailed,
        "encode_cancellation",
        {"abort raises": type("Variant", (e.Encoder, e.AbortRaises), {})},
        "encode",
        drive_abort=True,
    ),
]

RAW_FAULTS = [
    *faults(
        kit.RawEngineAdvertisedLlmRegistration,
        "raw_start",
        {"a registration": e.RawWithTokens},
        "raw",
    ),
    *faults(
        kit.EmptyModelInConfig,
        "raw_start",
        {
            "no name and a registration": type(
                "Variant", (e.Raw,), {"start": e.returning({"model": "", "llm": {}})}
            )
        },
        "raw",
    ),
    *faults(kit.NoChunksYielded, "raw_generate", {"nothing": e.raw()}, "raw"),
    *faults(
        kit.StreamYieldedError,
        "raw_generate",
        {
            "an error": e.raw(RuntimeError("no image")),
            "an error after an item": e.raw({"data": []}, RuntimeError("late")),
        },
        "raw",
    ),
    *faults(
        kit.GenerateFailed,
        "raw_generate",
        {"generate raises": type("Variant", (e.Raw,), {"generate": e.failing_at_once})},
        "raw",
    ),
    *faults(
        kit.ConcurrentGenerateFailed,
        "raw_concurrent_generates",
        {
            "nothing where several are served": e.RawOfOne,
            "refused where several are served": e.RawThatRefuses,
        },
        "raw",
    ),
    *faults(
        kit.CancellationNotObserved,
        "raw_cancellation",
        {"the context is not looked at": e.StubbornRaw},
        "raw",
    ),
    *faults(
        kit.GenerateFailed,
        "raw_cancellation",
        {"abort raises": type("Variant", (e.Raw, e.AbortRaises), {})},
        "raw",
        drive_abort=True,
    ),
]

MEDIA_FAULTS = [*ENCODE_FAULTS, *RAW_FAULTS]

MEDIA_PASSES = [
    Case("the correct encoder", e.Encoder, profile="encode"),
    Case(
        "usage of the prompt alone",
        e.encoding(encoded(completion_usage=usage(3, 0))),
        profile="encode",
    ),
    Case("an empty result", e.encoding(encoded(encoder_result={})), profile="encode"),
    Case("the correct raw engine", e.Raw, profile="raw"),
    Case("no items, and a stop", e.raw(None), profile="raw"),
    Case("raising where several are served", e.RawRaisesInACrowd, profile="raw"),
    Case("an error when stopped", e.RawErrsWhenStopped, profile="raw"),
]
