"""Right servers that look unlike vLLM, by the checks that can't be judged on them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tests.conformance.server.app import Body, Refused, Right, Rows, renormalised

NearMiss = tuple[frozenset[str], type[Right]]
NEAR_MISSES: list[NearMiss] = []

NEEDS_ECHO = frozenset(
    {"first_token", "echo_text", "alignment", "sampled", "sums", "prompt_logprobs", "exact"}
)


def passes(*skipped: str) -> Any:
    """Lists the class as a server that passes all checks but ``skipped``."""

    def listed(kind: type[Right]) -> type[Right]:
        NEAR_MISSES.append((frozenset(skipped), kind))
        return kind

    return listed


@passes()
class InSixteenBits(Right):
    """bfloat16's eight bits of logits, and noise of changing batches."""

    def __init__(self, oracle: Any) -> None:
        super().__init__(oracle)
        self.noise = np.random.default_rng(3)

    def rows(self, ids: Sequence[int]) -> Rows:
        logits = super().rows(ids) + self.noise.normal(scale=0.005, size=(len(ids), 1))
        step = np.exp2(np.floor(np.log2(np.abs(logits) + 1e-9)) - 8)
        noisy = np.round(logits / step) * step
        noisy = noisy + self.noise.normal(scale=0.004, size=noisy.shape)
        return np.stack([renormalised(row) for row in noisy])


@passes()
class HalfPrecision(Right):
    def rows(self, ids: Sequence[int]) -> Rows:
        return super().rows(ids).astype(np.float16).astype(np.float64)


@passes()
class ExtraFields(Right):
    def choice(self, *args: Any) -> Body:
        choice = super().choice(*args)
        more = {"matched_stop": None, "stop_reason": None, "metrics": {"ms": 1}}
        if choice["logprobs"] is not None:
            choice["logprobs"]["token_ids"] = [1]
        return {**choice, **more}

    def usage(self, prompt: int, completion: int) -> Body | None:
        details = {"prompt_tokens_details": {"cached_tokens": 0}}
        return {**(super().usage(prompt, completion) or {}), **details}


class Impossible(Right):
    """The fifth candidate can't be, in one of the spellings of that."""

    spelling: Any = -math.inf

    def told(self, values: dict[int, float]) -> Any:
        told = super().told(values)
        if len(told) < 5:
            return told
        return {**told, list(told)[-1]: self.spelling}


@passes()
class ImpossibleAsInfinity(Impossible):
    pass


@passes()
class ImpossibleAsText(Impossible):
    spelling = "-inf"


@passes()
class ImpossibleAsNull(Impossible):
    spelling = None


@passes()
class ImpossibleAsClamped(Impossible):
    spelling = -9999.0


@passes("prompt_logprobs")
class OnlyTheCandidates(Right):
    """OpenAI: the token itself is told only where it is one of them."""

    def candidates(self, row: Rows, token: int, k: int) -> Any:
        return self.told({each: float(row[each]) for each in self.chosen(row, k)})

    def prompt_logprobs(self, ids: list[int], places: list[Rows | None], k: int) -> Any:
        return None


@passes()
class SortedByText(Right):
    """A serialiser that sorts keys."""

    def told(self, values: dict[int, float]) -> Any:
        return dict(sorted(super().told(values).items()))


@passes("exact")
class TiesInAnyOrder(Right):
    """Each token but the first is as likely as its neighbour in the vocabulary."""

    is_the_model = False

    def __init__(self, oracle: Any) -> None:
        super().__init__(oracle)
        self.turn = False

    def rows(self, ids: Sequence[int]) -> Rows:
        rows = super().rows(ids).copy()
        rows[:, 3::2] = rows[:, 2::2]
        return np.stack([renormalised(row) for row in rows])

    def next_token(self, row: Rows, body: Body, step: int) -> int:
        return super().next_token(row, body, step) & ~1

    def chosen(self, row: Rows, k: int) -> list[int]:
        self.turn = not self.turn
        turned = np.lexsort((np.arange(len(row)) * (-1 if self.turn else 1), -row))
        return [int(each) for each in turned[:k]]


@passes()
class WithoutOffsets(Right):
    """SGLang writes -1 for each."""

    def logprobs(self, *args: Any) -> Body | None:
        told = super().logprobs(*args)
        return told and {**told, "text_offset": [-1] * len(told["tokens"])}


@passes()
class HidesBos(Right):
    """llama-cpp-python counts BOS and doesn't echo it."""

    def logprobs(self, ids: list[int], places: Any, k: int, echo: bool) -> Body | None:
        hidden = 1 if echo and ids[0] == 0 else 0
        told = super().logprobs(ids[hidden:], places[hidden:], k, echo)
        if told and echo:
            told["token_logprobs"][0] = told["top_logprobs"][0] = None
        return told

    def prompt_logprobs(self, ids: list[int], places: list[Rows | None], k: int) -> Any:
        return [None, *super().prompt_logprobs(ids, places, k)[2:]]


@passes()
class NamesTokensAsItsVocabulary(Right):
    def token(self, token: int) -> str:
        return super().token(token).replace(" ", "Ġ").replace("\n", "Ċ")

    def ranked(self, row: Rows | None, token: int, k: int) -> Body | None:
        given = super().ranked(row, token, k)
        for each in (given or {}).values():
            each["decoded_token"] = each["decoded_token"].replace(" ", "Ġ").replace("\n", "Ċ")
        return given


@passes("prompt_logprobs", "stream")
class NamesTokensByIds(Right):
    """vLLM with return_tokens_as_token_ids."""

    def token(self, token: int) -> str:
        return f"token_id:{token}"

    def streamed(self, body: Body) -> Iterator[Body]:
        raise Refused(400, "no streams")


@passes("batch", "prompt_logprobs", "stream")
class TakesOnlyWhatItMust(Right):
    """Refuses to generate nothing, lists, ids, streams; sends no offsets."""

    def prompts(self, prompt: Any) -> list[list[int]]:
        if isinstance(prompt, str):
            return super().prompts(prompt)
        raise Refused(400, "prompt must be a string")

    def count(self, asked: int, echo: bool) -> int:
        if asked < 1:
            raise Refused(422, "max_tokens must be positive")
        return asked

    def choice(self, *args: Any) -> Body:
        choice = super().choice(*args)
        choice.pop("prompt_logprobs", None)
        if choice["logprobs"] is not None:
            del choice["logprobs"]["text_offset"]
        return choice

    def streamed(self, body: Body) -> Iterator[Body]:
        raise Refused(501, "no streams")


@passes("usage")
class CountsNothing(Right):
    def usage(self, prompt: int, completion: int) -> Body | None:
        return None


@passes(*NEEDS_ECHO)
class NoEcho(Right):
    """llama.cpp's server: log-probabilities in the form of its chat endpoint."""

    def prompts(self, prompt: Any) -> list[list[int]]:
        if self.asked[-1].get("echo"):
            raise Refused(500, "Only no echo is supported")
        return super().prompts(prompt)

    def choice(self, *args: Any) -> Body:
        choice = super().choice(*args)
        choice.pop("prompt_logprobs", None)
        return choice

    def logprobs(self, ids: list[int], places: Any, k: int, echo: bool) -> Body | None:
        entries = [
            {"id": token, "token": self.token(token), "logprob": value, "top_logprobs": top}
            for token, value, top in zip(
                ids,
                self.values(ids, places, echo),
                [self.candidates(row, token, k) for row, token in zip(places, ids, strict=True)],
                strict=True,
            )
        ]
        return {"content": entries}

    def told(self, values: dict[int, float]) -> Any:
        return [{"token": self.token(each), "logprob": value} for each, value in values.items()]

    def streamed(self, body: Body) -> Iterator[Body]:
        for at, chunk in enumerate(list(super().streamed({**body, "logprobs": None}))):
            yield {**chunk, "id": at}


@passes(*NEEDS_ECHO)
class TakesEchoForNothing(Right):
    def completed(self, ids: list[int], body: Body, batch: int) -> tuple[list[int], list[int]]:
        body.pop("echo", None)
        return super().completed(ids, body, batch)

    def count(self, asked: int, echo: bool) -> int:
        if not asked:
            raise Refused(400, "max_tokens must be positive")
        return asked


@passes(*NEEDS_ECHO, "stream")
class NoEchoInSixteenBits(InSixteenBits, NoEcho):
    """Of near-equal tokens another one may come each time."""

    def streamed(self, body: Body) -> Iterator[Body]:
        raise Refused(400, "no streams")
