"""Servers with one fault each, by the failure that it must be, and the check that finds it."""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.server import failures as named
from tests.conformance.server.app import Body, Refused, Right, Rows, renormalised
from tests.patience import PATIENCE_S

Fault = tuple[str, type[ConformanceFailure], type[Right]]
FAULTS: list[Fault] = []


def fault(check: str, failure: type[ConformanceFailure]) -> Any:
    """Lists the class as a fault that ``check`` finds, as ``failure``."""

    def listed(kind: type[Right]) -> type[Right]:
        FAULTS.append((check, failure, kind))
        return kind

    return listed


@fault("answers", named.RequestFailed)
class Broken(Right):
    def respond(self, body: Body) -> Body:
        raise Refused(500, "out of memory")


@fault("answers", named.MalformedAnswer)
class NoChoices(Right):
    def respond(self, body: Body) -> Body:
        return {"text": "hello"}


@fault("lengths", named.LengthsDiffer)
class OneValueFewer(Right):
    def logprobs(self, *args: Any) -> Body | None:
        told = super().logprobs(*args)
        assert told is not None
        return {**told, "token_logprobs": told["token_logprobs"][1:]}


@fault("first_token", named.FirstTokenNotNull)
class FirstTokenHasAValue(Right):
    def values(self, ids: list[int], places: list[Rows | None], echo: bool) -> list[float | None]:
        first = [0.0] if echo else []
        return [*first, *super().values(ids, places, echo)[len(first) :]]


@fault("echo_text", named.EchoTextWrong)
class EchoesInCapitals(Right):
    def text(self, ids: list[int], generated: list[int], echo: bool, body: Body) -> str:
        text = super().text(ids, generated, echo, body)
        return text.upper() if echo else text


@fault("echo_text", named.EchoTextWrong)
class EchoesOtherTokens(Right):
    def logprobs(self, ids: list[int], places: Any, k: int, echo: bool) -> Body | None:
        told = super().logprobs(ids, places, k, echo)
        assert told is not None
        return {**told, "tokens": told["tokens"][::-1]} if echo else told


@fault("echo_text", named.TextOffsetsWrong)
class OffsetsInTokens(Right):
    def logprobs(self, *args: Any) -> Body | None:
        told = super().logprobs(*args)
        assert told is not None
        return {**told, "text_offset": [2 * at for at in range(len(told["tokens"]))]}


@fault("probabilities", named.LogprobMissing)
class NullInTheMiddle(Right):
    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        places = super().places(ids, prompt, body)
        return [*places[:9], None, *places[10:]]


class OtherValues(Right):
    """Tells ``changed`` of each value."""

    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        places = super().places(ids, prompt, body)
        return [None if row is None else self.changed(row, at) for at, row in enumerate(places)]

    def changed(self, row: Rows, place: int) -> Rows:
        return row


@fault("probabilities", named.InvalidLogprob)
class NegativeLogLikelihoods(OtherValues):
    def changed(self, row: Rows, place: int) -> Rows:
        return -row


@fault("probabilities", named.InvalidLogprob)
class NotANumber(OtherValues):
    def changed(self, row: Rows, place: int) -> Rows:
        return row * math.nan if place == 7 else row


@fault("mass", named.MassAboveOne)
class NotNormalised(OtherValues):
    def changed(self, row: Rows, place: int) -> Rows:
        return np.minimum(row + 2.0, 0.0)


@fault("top_k", named.TopKCountWrong)
class OneCandidateTooFew(Right):
    def candidates(self, row: Rows, token: int, k: int) -> Any:
        return self.told({each: float(row[each]) for each in self.chosen(row, k - 1)})


@fault("top_k", named.TopKCountWrong)
class TwoCandidatesTooMany(Right):
    def chosen(self, row: Rows, k: int) -> list[int]:
        return super().chosen(row, k + 2)


@fault("top_k", named.TopKOrderWrong)
class RisingCandidates(Right):
    def chosen(self, row: Rows, k: int) -> list[int]:
        return super().chosen(row, k)[::-1]


@fault("top_k", named.TopKNotHighest)
class WithoutTheFirst(Right):
    def chosen(self, row: Rows, k: int) -> list[int]:
        return super().chosen(row, k + 1)[1:]


@fault("top_k", named.TopKNotHighest)
class TheLowest(Right):
    def chosen(self, row: Rows, k: int) -> list[int]:
        return super().chosen(row, len(row))[-k:]


@fault("top_k", named.TopKNotHighest)
class SpreadOverTheVocabulary(Right):
    def chosen(self, row: Rows, k: int) -> list[int]:
        return super().chosen(row, len(row))[:: len(row) // k][:k]


@fault("repeatable", named.NotRepeatable)
class Noisy(OtherValues):
    noise = np.random.default_rng(1)

    def changed(self, row: Rows, place: int) -> Rows:
        return renormalised(row + self.noise.normal(scale=1.0, size=row.shape))


@fault("renormalised", named.RenormalisedOverTopK)
class SharesOfTheCandidates(Right):
    def logprobs(self, ids: list[int], places: Any, k: int, echo: bool) -> Body | None:
        shares = [None if row is None else self.shares(row, k) for row in places]
        return super().logprobs(ids, shares, k, echo)

    def shares(self, row: Rows, k: int) -> Rows:
        kept = np.exp(row[self.chosen(row, k)]).sum()
        return np.minimum(row - math.log(float(kept)), 0.0)


@fault("renormalised", named.RenormalisedOverTopK)
class SharesAmongCandidatesOnly(SharesOfTheCandidates):
    def logprobs(self, ids: list[int], places: Any, k: int, echo: bool) -> Body | None:
        told, shares = Right.logprobs(self, ids, places, k, echo), super().logprobs
        changed = shares(ids, places, k, echo)
        assert told is not None
        assert changed is not None
        return {**told, "top_logprobs": changed["top_logprobs"]}


@fault("temperature", named.TemperatureApplied)
class TemperatureOfSampling(Right):
    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        # As SGLang without SGLANG_RETURN_ORIGINAL_LOGPROB: a prompt's are left alone.
        temperature = body.get("temperature", 1.0) or 1.0
        places = super().places(ids, prompt, body)
        generated = [renormalised(row / temperature) for row in places[prompt:] if row is not None]
        return [*places[:prompt], *generated]


@fault("temperature", named.TemperatureApplied)
class CertainWhenGreedy(Right):
    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        sharpness = 1000.0 if body.get("temperature") == 0 else 1.0
        places = super().places(ids, prompt, body)
        generated = [renormalised(row * sharpness) for row in places[prompt:] if row is not None]
        return [*places[:prompt], *generated]


@fault("alignment", named.LogprobsShifted)
class ValuesLate(Right):
    def values(self, ids: list[int], places: list[Rows | None], echo: bool) -> list[float | None]:
        values = super().values(ids, places, echo)
        return [None, values[-1], *values[1:-1]] if echo else values


@fault("alignment", named.LogprobsShifted)
class ValuesEarly(Right):
    def values(self, ids: list[int], places: list[Rows | None], echo: bool) -> list[float | None]:
        values = super().values(ids, places, echo)
        return [None, *values[2:], values[1]] if echo else values


@fault("alignment", named.LogprobsShifted)
class PlacesEarly(Right):
    """As llama-cpp-python without BOS: each token has what was likely after it."""

    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        return (
            [None, *self.rows(ids)[1:]] if body.get("echo") else super().places(ids, prompt, body)
        )


@fault("alignment", named.LogprobsShifted)
class PlacesLate(Right):
    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        places = super().places(ids, prompt, body)
        return [None, places[1], *places[1:-1]] if body.get("echo") else places


@fault("alignment", named.SampledNotScored)
class OfTheMostLikely(Right):
    def values(self, ids: list[int], places: list[Rows | None], echo: bool) -> list[float | None]:
        return [None if row is None else float(row.max()) for row in places]


@fault("alignment", named.SampledNotScored)
class OfASampledToken(Right):
    def values(self, ids: list[int], places: list[Rows | None], echo: bool) -> list[float | None]:
        if not echo:
            return super().values(ids, places, echo)
        sampler = np.random.default_rng(2)
        return [None if row is None else self.drawn(row, sampler) for row in places]

    def drawn(self, row: Rows, sampler: np.random.Generator) -> float:
        return float(row[sampler.choice(len(row), p=np.exp(row) / np.exp(row).sum())])


@fault("sampled", named.SampledDiffers)
class FlatterWhenSampled(Right):
    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        places = super().places(ids, prompt, body)
        generated = [renormalised(row / 1.5) for row in places[prompt:] if row is not None]
        return [*places[:prompt], *generated]


@fault("sums", named.SumsDiffer)
class SeesTheEnd(Right):
    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        places = super().places(ids, prompt, body)
        half = prompt // 2
        sees = [row if row is None else renormalised(row * (1 + prompt / 100)) for row in places]
        return [*sees[:half], *places[half:]]


@fault("batch", named.BatchMixedUp)
class BatchInAnotherOrder(Right):
    def ordered(self, choices: list[Body]) -> list[Body]:
        places = range(len(choices))
        return [{**choices[at - 1], "index": at} for at in places]


@fault("batch", named.BatchMixedUp)
class OneIndexForAll(Right):
    def ordered(self, choices: list[Body]) -> list[Body]:
        return [{**choice, "index": 0} for choice in choices]


@fault("batch", named.DependsOnBatch)
class PaddedInABatch(Right):
    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        places = super().places(ids, prompt, body)
        if self.batch == 1:
            return places
        return [None if row is None else renormalised(row * 0.8) for row in places]


class CachesByBeginning(Right):
    """Keeps what it has computed for a prompt, and takes it for others that begin so."""

    def __init__(self, oracle: Any) -> None:
        super().__init__(oracle)
        self.kept_rows: dict[tuple[int, ...], list[Rows | None]] = {}

    def places(self, ids: list[int], prompt: int, body: Body) -> list[Rows | None]:
        own = super().places(ids, prompt, body)
        return self.cached(ids, own) if body.get("echo") else own

    def cached(self, ids: list[int], own: list[Rows | None]) -> list[Rows | None]:
        return own


@fault("prefixes", named.DependsOnPrefix)
class TakesTheFirstOfItsKind(CachesByBeginning):
    def cached(self, ids: list[int], own: list[Rows | None]) -> list[Rows | None]:
        kept = self.kept_rows.setdefault(tuple(ids[:8]), [])
        kept += own[len(kept) :]
        return kept[: len(own)]


@fault("prefixes", named.DependsOnPrefix)
class KeepsTheLastOfItsKind(CachesByBeginning):
    def cached(self, ids: list[int], own: list[Rows | None]) -> list[Rows | None]:
        last = self.kept_rows.get(tuple(ids[:8]), [])
        is_known = tuple(ids) in self.kept_rows
        self.kept_rows[tuple(ids)] = self.kept_rows[tuple(ids[:8])] = own
        return [*last[: len(own)], *own[len(last) :]] if is_known else own


@fault("concurrency", named.MixedUnderConcurrency)
class AnswersAnotherRequest(Right):
    def __init__(self, oracle: Any) -> None:
        super().__init__(oracle)
        self.waiting: list[Body] = []
        self.arrived = threading.Condition()

    def respond(self, body: Body) -> Body:
        if threading.current_thread() is threading.main_thread():
            return super().respond(body)  # One that is sent alone.
        with self.arrived:
            self.waiting.append(body)
            self.arrived.notify_all()
            self.arrived.wait_for(lambda: len(self.waiting) > 1, timeout=PATIENCE_S)
            return super().respond(self.waiting[0] if self.waiting[0] != body else self.waiting[1])


@fault("usage", named.UsageWrong)
class CountsOneMore(Right):
    def usage(self, prompt: int, completion: int) -> Body | None:
        return super().usage(prompt + 1, completion)


@fault("usage", named.UsageWrong)
class CountsWithoutBos(Right):
    def usage(self, prompt: int, completion: int) -> Body | None:
        return super().usage(prompt - 1, completion)


@fault("usage", named.UsageWrong)
class CountsOneTokenMore(Right):
    def usage(self, prompt: int, completion: int) -> Body | None:
        return super().usage(prompt, completion + 1)


@fault("usage", named.UsageWrong)
class TotalOfThePrompt(Right):
    def usage(self, prompt: int, completion: int) -> Body | None:
        return {**(super().usage(prompt, completion) or {}), "total_tokens": prompt}


@fault("usage", named.UsageWrong)
class CountsInText(Right):
    def usage(self, prompt: int, completion: int) -> Body | None:
        return {name: str(each) for name, each in (super().usage(prompt, completion) or {}).items()}


@fault("max_tokens", named.MaxTokensIgnored)
class OneTokenMore(Right):
    def count(self, asked: int, echo: bool) -> int:
        return asked + 1


@fault("max_tokens", named.MaxTokensIgnored)
class NoneIsNoLimit(Right):
    """As llama-cpp-python, which takes 0 for all that fit."""

    def count(self, asked: int, echo: bool) -> int:
        return asked or 20


@fault("long_prompts", named.PromptTruncated)
class CutsLongPrompts(Right):
    def kept(self, ids: list[int]) -> list[int]:
        return ids[-100:]


@fault("long_prompts", named.PromptTruncated)
class CutsAndCountsAll(CutsLongPrompts):
    def respond(self, body: Body) -> Body:
        counts = [len(ids) for ids in self.prompts(body["prompt"])]
        return {**super().respond(body), "usage": self.usage(sum(counts), body["max_tokens"])}


@fault("prompt_logprobs", named.PromptLogprobsDiffer)
class PromptRowsEarly(Right):
    def prompt_logprobs(self, ids: list[int], places: list[Rows | None], k: int) -> Any:
        return super().prompt_logprobs(ids, [None, *places[2:], places[1]], k)


@fault("prompt_logprobs", named.PromptLogprobsDiffer)
class PromptRowsWithoutTheFirst(Right):
    def prompt_logprobs(self, ids: list[int], places: list[Rows | None], k: int) -> Any:
        return super().prompt_logprobs(ids, places, k)[1:]


@fault("prompt_logprobs", named.PromptLogprobsDiffer)
class FirstPromptRowNotNull(Right):
    def prompt_logprobs(self, ids: list[int], places: list[Rows | None], k: int) -> Any:
        rows = super().prompt_logprobs(ids, places, k)
        return [rows[1], *rows[1:]]


@fault("prompt_logprobs", named.PromptLogprobsDiffer)
class RanksTurned(Right):
    def ranked(self, row: Rows | None, token: int, k: int) -> Body | None:
        given = super().ranked(row, token, k)
        return given and {at: {**each, "rank": -each["rank"]} for at, each in given.items()}


@fault("stream", named.StreamDiffers)
class StreamEndsEarly(Right):
    def streamed(self, body: Body) -> Iterator[Body]:
        chunks = list(super().streamed(body))
        yield from chunks[:-2]


@fault("stream", named.StreamDiffers)
class StreamOfOtherValues(Right):
    def streamed(self, body: Body) -> Iterator[Body]:
        for chunk in super().streamed(body):
            for choice in chunk["choices"]:
                choice["logprobs"]["token_logprobs"] = [-3.0]
            yield chunk


@fault("stream", named.StreamDiffers)
class StreamNamesTokensTwice(Right):
    def streamed(self, body: Body) -> Iterator[Body]:
        for chunk in super().streamed(body):
            for choice in chunk["choices"]:
                choice["logprobs"]["tokens"] *= 2
            yield chunk


@fault("exact", named.WrongValues)
class OfOtherWeights(Right):
    def rows(self, ids: Sequence[int]) -> Rows:
        return np.stack([renormalised(row * 0.7) for row in super().rows(ids)])


@fault("stream", named.StreamDiffers)
class StreamWithoutValuesEndsEarly(StreamEndsEarly):
    def streamed(self, body: Body) -> Iterator[Body]:
        yield from super().streamed({**body, "logprobs": None})
