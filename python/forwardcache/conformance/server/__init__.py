"""Proves that an OpenAI-style server gives right log-probabilities on ``/v1/completions``.

>>> from forwardcache.conformance.server import check_server
>>> check_server("http://localhost:8000", model_name="my-model")  # raises the first failure

Reading order: ``checks`` (the order), ``answers``, ``values``, ``company`` and ``counts`` (one
function a check), ``failures`` (what they find), ``session`` (what a server was asked) with
``compare`` (when two sets of values differ), ``run`` (the verdict), then the fronts
``parametrize`` and ``command``. ``forwardcache.conformance.http`` asks the server. What it doesn't
offer is skipped with the reason; a run that judged no log-probability does not conform. Imports
neither torch nor numpy.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.conformance.server"):
    from forwardcache.conformance.server.checks import CHECKS, Check
    from forwardcache.conformance.server.failures import (
        BatchMixedUp,
        DependsOnBatch,
        DependsOnPrefix,
        EchoTextWrong,
        FirstTokenNotNull,
        InvalidLogprob,
        LengthsDiffer,
        LogprobMissing,
        LogprobsShifted,
        MalformedAnswer,
        MassAboveOne,
        MaxTokensIgnored,
        MixedUnderConcurrency,
        NotRepeatable,
        PromptLogprobsDiffer,
        PromptTruncated,
        RenormalisedOverTopK,
        RequestFailed,
        SampledDiffers,
        SampledNotScored,
        ServerFailure,
        StreamDiffers,
        SumsDiffer,
        TemperatureApplied,
        TextOffsetsWrong,
        TopKCountWrong,
        TopKNotHighest,
        TopKOrderWrong,
        UsageWrong,
        WrongValues,
    )
    from forwardcache.conformance.server.parametrize import (
        ServerCheck,
        parametrize_with_server_checks,
        server_checks,
    )
    from forwardcache.conformance.server.run import CheckResult, ServerReport, check_server

__all__ = [
    "CHECKS",
    "BatchMixedUp",
    "Check",
    "CheckResult",
    "DependsOnBatch",
    "DependsOnPrefix",
    "EchoTextWrong",
    "FirstTokenNotNull",
    "InvalidLogprob",
    "LengthsDiffer",
    "LogprobMissing",
    "LogprobsShifted",
    "MalformedAnswer",
    "MassAboveOne",
    "MaxTokensIgnored",
    "MixedUnderConcurrency",
    "NotRepeatable",
    "PromptLogprobsDiffer",
    "PromptTruncated",
    "RenormalisedOverTopK",
    "RequestFailed",
    "SampledDiffers",
    "SampledNotScored",
    "ServerCheck",
    "ServerFailure",
    "ServerReport",
    "StreamDiffers",
    "SumsDiffer",
    "TemperatureApplied",
    "TextOffsetsWrong",
    "TopKCountWrong",
    "TopKNotHighest",
    "TopKOrderWrong",
    "UsageWrong",
    "WrongValues",
    "check_server",
    "parametrize_with_server_checks",
    "server_checks",
]
