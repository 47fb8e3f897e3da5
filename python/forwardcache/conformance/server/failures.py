"""Every way in which a server's log-probabilities can be wrong, one class a name.

::

    ConformanceFailure
    └── ServerFailure                        what was asked, what was expected, what came
        ├── the answer   RequestFailed, MalformedAnswer, LengthsDiffer
        ├── the text     FirstTokenNotNull, EchoTextWrong, TextOffsetsWrong
        ├── the numbers  LogprobMissing, InvalidLogprob, MassAboveOne
        ├── the top k    TopKCountWrong, TopKOrderWrong, TopKNotHighest, RenormalisedOverTopK
        ├── the meaning  TemperatureApplied, LogprobsShifted, SampledNotScored, SampledDiffers,
        │                SumsDiffer, WrongValues
        ├── the company  NotRepeatable, BatchMixedUp, DependsOnBatch, DependsOnPrefix,
        │                MixedUnderConcurrency
        └── the rest     UsageWrong, MaxTokensIgnored, PromptTruncated, PromptLogprobsDiffer,
                         StreamDiffers
"""

from __future__ import annotations

from dataclasses import dataclass

from forwardcache.conformance.failures import ConformanceFailure

__all__ = [
    "BatchMixedUp",
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
    "ServerFailure",
    "StreamDiffers",
    "SumsDiffer",
    "TemperatureApplied",
    "TextOffsetsWrong",
    "TopKCountWrong",
    "TopKNotHighest",
    "TopKOrderWrong",
    "UsageWrong",
    "WrongValues",
]


@dataclass(eq=False)
class ServerFailure(ConformanceFailure):
    """A server broke one rule.

    Attributes:
        asked: What was asked of the server.
        expected: What a right server answers.
        came: What this one answered.
    """

    sentence = "the server does not conform"
    asked: str
    expected: str
    came: str

    @property
    def message_line(self) -> str:
        """The sentence, with what was asked, expected and received."""
        parts = (f"asked: {self.asked}", f"expected: {self.expected}", f"came: {self.came}")
        return "; ".join((self.sentence, *parts))


class RequestFailed(ServerFailure):
    """A request that the server has to take failed."""

    sentence = "a request failed"


class MalformedAnswer(ServerFailure):
    """An answer has not the form of a completion."""

    sentence = "an answer has not the form of a completion"


class LengthsDiffer(ServerFailure):
    """The lists of an answer have different lengths."""

    sentence = "tokens and log-probabilities are not one to one"


class FirstTokenNotNull(ServerFailure):
    """The first token of an echo, before which nothing stands, has a log-probability."""

    sentence = "the first token of an echo has a log-probability, and nothing stands before it"


class EchoTextWrong(ServerFailure):
    """An echo is of another text than the prompt."""

    sentence = "the echo is not the prompt"


class TextOffsetsWrong(ServerFailure):
    """The offsets don't say where the tokens are."""

    sentence = "the text offsets are not where the tokens are"


class LogprobMissing(ServerFailure):
    """A token after the first has null and no candidates."""

    sentence = "a token has no log-probability"


class InvalidLogprob(ServerFailure):
    """A log-probability is above 0, or not a number."""

    sentence = "a log-probability is no logarithm of a probability"


class MassAboveOne(ServerFailure):
    """The candidates' probabilities sum to more than 1."""

    sentence = "the candidates' probabilities sum to more than 1"


class TopKCountWrong(ServerFailure):
    """There are fewer or more candidates than were asked for."""

    sentence = "the number of candidates is wrong"


class TopKOrderWrong(ServerFailure):
    """The candidates stand in no order."""

    sentence = "the candidates are not in falling order"


class TopKNotHighest(ServerFailure):
    """The candidates are not the most likely tokens."""

    sentence = "the candidates are not the most likely tokens"


class RenormalisedOverTopK(ServerFailure):
    """Probabilities are shares of the candidates, not of the vocabulary."""

    sentence = "log-probabilities change with the number of candidates: renormalised over the top k"


class TemperatureApplied(ServerFailure):
    """The temperature of sampling changes the log-probabilities."""

    sentence = (
        "log-probabilities change with the temperature "
        "(vLLM: --logprobs-mode raw_logprobs; SGLang: SGLANG_RETURN_ORIGINAL_LOGPROB=1)"
    )


class LogprobsShifted(ServerFailure):
    """Each token has the log-probability of its neighbour's place."""

    sentence = "log-probabilities stand with another token than their own"


class SampledNotScored(ServerFailure):
    """A prompt's token has the log-probability of what the model would have said there."""

    sentence = "the prompt's tokens have the log-probabilities of sampled tokens, not their own"


class SampledDiffers(ServerFailure):
    """A token has one log-probability when sampled and another when scored."""

    sentence = "a token's log-probability differs between sampling it and scoring it"


class SumsDiffer(ServerFailure):
    """The parts' log-probabilities don't sum to the whole's."""

    sentence = "the log-probability of a text is not the sum of those of its parts"


class WrongValues(ServerFailure):
    """The log-probabilities are not the model's."""

    sentence = "the log-probabilities are not those of the model"


class NotRepeatable(ServerFailure):
    """The same request gets other values, beyond rounding."""

    sentence = "the same request gets other log-probabilities"


class BatchMixedUp(ServerFailure):
    """In a batch, a prompt has the values of another."""

    sentence = "a prompt of a batch has the answer of another"


class DependsOnBatch(ServerFailure):
    """In a batch, a prompt has other values than alone."""

    sentence = "a prompt's log-probabilities differ between a batch and alone"


class DependsOnPrefix(ServerFailure):
    """After a text with the same beginning, a prompt has other values than before."""

    sentence = "a prompt's log-probabilities depend on a text with the same beginning"


class MixedUnderConcurrency(ServerFailure):
    """While others are served, a prompt has other values than alone."""

    sentence = "a prompt's log-probabilities differ while other requests are served"


class UsageWrong(ServerFailure):
    """The usage counts other tokens than there are."""

    sentence = "the usage is wrong"


class MaxTokensIgnored(ServerFailure):
    """The answer is longer than was asked for."""

    sentence = "max_tokens is not kept"


class PromptTruncated(ServerFailure):
    """A long prompt was cut, and nothing said so."""

    sentence = "a long prompt was cut without a word"


class PromptLogprobsDiffer(ServerFailure):
    """``prompt_logprobs`` and the echo disagree."""

    sentence = "prompt_logprobs and the echo disagree"


class StreamDiffers(ServerFailure):
    """A stream gives another answer than the same request in one piece."""

    sentence = "a stream differs from the same answer in one piece"
