"""One server under test: what it was asked, and what it is known to offer.

A check asks for a text's ``Scored``: the tokens of an echo where the server has one, else those of
its greedy completion. Each text is asked for once, unless a check wants it anew. What the server
refuses or leaves out is ``CheckSkippedError``, with its own words as the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal

from forwardcache.conformance.http.answer import Answer, Choice, Row
from forwardcache.conformance.http.client import CompletionClient, Prompt, RequestFailedError
from forwardcache.conformance.server.compare import Gaps, gaps_of_rows, gaps_of_values
from forwardcache.conformance.server.failures import ServerFailure

__all__ = ["TEXTS", "CheckSkippedError", "Findings", "Reference", "Scored", "Session", "plain"]

TEXTS = (
    "The quick brown fox jumps over the lazy dog.",
    "In 1969 two people walked on the Moon.",
    "Water boils sooner on a high mountain.",
    "def add(a, b):\n    return a + b",
)
"""Plain ASCII: a token's text is then a part of the prompt's."""

Findings = Iterator[ServerFailure]

Reference = Callable[[str], Sequence[float]]
"""Exact log-probabilities, nats, of a text's tokens after the first, BOS included."""

STEPS = 6
"""Tokens of a completion."""


class CheckSkippedError(Exception):
    """The server offers nothing that the check is about; the message says why."""


@dataclass(frozen=True)
class Scored:
    """Tokens with their log-probabilities.

    Attributes:
        kind: "echo" of a prompt, or a greedy "completion" of it.
        tokens: Texts of the tokens, those in front that stand for no text (BOS) included.
        logprobs: One a token, nats; None for null.
        top: Candidates at each token's place; None for null.
        text: What the tokens are a part of, as the server gave it.
        text_offset: As sent; empty where the server doesn't say.
        choice: All that was sent.
        answer: The answer that it came in.
        lead: How many tokens in front stand for no text: BOS.
    """

    kind: Literal["echo", "completion"]
    tokens: tuple[str, ...]
    logprobs: tuple[float | None, ...]
    top: tuple[Row | None, ...]
    text: str
    text_offset: tuple[int, ...]
    choice: Choice
    answer: Answer
    lead: int = 0

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows that are there, in order."""
        return tuple(row for row in self.top if row)

    def gaps(self, other: Scored, k: int) -> Gaps:
        """Gaps to ``other`` over the tokens that both begin with.

        Args:
            other: What to compare with.
            k: How many candidates were asked for.
        """
        alike = self.common(other)
        values = gaps_of_values(self.logprobs[:alike], other.logprobs[:alike])
        # Where the tokens part, the candidates are still those of one place.
        end = min(alike + 1, len(self.top), len(other.top))
        rows = gaps_of_rows(self.top[:end], other.top[:end], k)
        return Gaps(values.values + rows.values)

    def common(self, other: Scored) -> int:
        """How many tokens both begin with.

        Args:
            other: What to compare with.
        """
        pairs = zip(self.tokens, other.tokens, strict=False)
        count = 0
        for mine, theirs in pairs:
            if mine != theirs:
                break
            count += 1
        return count


@dataclass
class Session:
    """A server, and what has been found out about it.

    Attributes:
        client: Asks it.
        texts: Prompts, which begin with different words.
        top_k: How many candidates are asked for.
        tolerance: Nats by which the median of two sets of values may differ; a check raises it to
            four times what the same request differs by.
        concurrency: How many requests are sent at once.
        longest: The longest prompt, in words.
        reference: Exact values; None without a model.
    """

    client: CompletionClient
    texts: Sequence[str] = TEXTS
    top_k: int = 5
    tolerance: float = 0.05
    concurrency: int = 8
    longest: int = 2048
    reference: Reference | None = None
    _scored: dict[tuple[str, str], Scored] = field(default_factory=dict)
    _no_echo: str = ""
    _echo_max_tokens: int = 0
    _ran_on: tuple[str, int] | None = None
    _takes_none: bool = False

    @property
    def behind(self) -> int:
        """Tokens that an echo generates, since the server refuses none, or gives many."""
        return self._echo_max_tokens

    @property
    def ran_on(self) -> tuple[str, int] | None:
        """A prompt, and how many tokens came where ``max_tokens`` was 0; None where none did."""
        return self._ran_on

    def offered(self, what: str, **fields: Any) -> Answer:
        """The answer to a request that a server need not take.

        Args:
            what: What is asked for, as the reason's subject.
            **fields: As of ``CompletionClient.complete``.

        Raises:
            CheckSkippedError: the server says no.
            RequestFailedError: no answer came.
        """
        try:
            return self.client.complete(**fields)
        except RequestFailedError as error:
            if error.status is None:
                raise
            raise CheckSkippedError(f"{what} is refused: {error}") from error

    def complete(
        self, prompt: Prompt, *, max_tokens: int = STEPS, top_k: int | None = None, **fields: Any
    ) -> Answer:
        """A greedy completion with candidates.

        Args:
            prompt: As of ``CompletionClient.complete``.
            max_tokens: How many tokens.
            top_k: How many candidates; None for the session's number.
            **fields: Other fields of the request.
        """
        asked = {"temperature": 0.0, "logprobs": top_k or self.top_k, **fields}
        return self.client.complete(prompt, max_tokens=max_tokens, **asked)

    def completion(self, text: str, **fields: Any) -> Scored:
        """The greedy completion of ``text``, asked for anew.

        Args:
            text: The prompt.
            **fields: As of ``complete``.

        Raises:
            CheckSkippedError: the server gives no log-probabilities.
        """
        answer = self.complete(text, **fields)
        return scored("completion", answer, answer.only())

    def echo(self, text: str, **fields: Any) -> Scored:
        """The tokens of ``text``, asked for anew.

        Args:
            text: The prompt.
            **fields: As of ``complete``.

        Raises:
            CheckSkippedError: the server has no echo, or none with log-probabilities.
        """
        answer = self.echo_answer(text, **fields)
        choice = answer.only()
        self._require_echo(text, choice)
        return prompt_part(text, scored("echo", answer, choice), self._echo_max_tokens)

    def echo_answer(self, prompt: Prompt, **fields: Any) -> Answer:
        """The answer to an echo of ``prompt``, with as few generated tokens as the server takes.

        Args:
            prompt: As of ``CompletionClient.complete``.
            **fields: As of ``complete``.

        Raises:
            CheckSkippedError: the server has no echo.
        """
        if self._no_echo:
            raise CheckSkippedError(self._no_echo)
        ask = partial(self.complete, prompt, echo=True, **fields)
        try:
            answer = ask(max_tokens=self._echo_max_tokens)
        except RequestFailedError as error:
            if error.status is None:
                raise
            return self._echo_of_one(ask, error)
        if self._echo_max_tokens == 0 and isinstance(prompt, str):
            self._note_what_ran_on(prompt, answer)
        return answer

    def _echo_of_one(self, ask: Callable[..., Answer], refused: RequestFailedError) -> Answer:
        """An echo from a server that refuses to generate nothing."""
        if self._echo_max_tokens == 1 or self._takes_none:
            raise refused
        try:
            answer = ask(max_tokens=1)
        except RequestFailedError as error:
            if error.status is None:
                raise
            # Only a server that has not echoed yet has none: a long prompt is refused too.
            if not any(kind == "echo" for kind, _ in self._scored):
                self._no_echo = f"the server has no echo: {error}"
            raise CheckSkippedError(f"the server has no echo: {error}") from error
        self._echo_max_tokens = 1
        return answer

    def _note_what_ran_on(self, prompt: str, answer: Answer) -> None:
        choice = answer.choices[0] if answer.choices else None
        if choice is None or choice.logprobs is None:
            return
        got = scored("echo", answer, choice)
        self._takes_none = True
        more = len(got.tokens) - len(prompt_part(prompt, got, 0).tokens)
        if more:
            # What it generates beyond the prompt costs time; one token is asked for from here on.
            self._ran_on = prompt, more
            self._echo_max_tokens = 1

    def _require_echo(self, text: str, choice: Choice) -> None:
        tokens = choice.logprobs.tokens if choice.logprobs else ()
        if not plain(choice.text).startswith(plain(text)[:8]) and len(tokens) <= 1:
            self._no_echo = "the server takes `echo` and does not echo"
            raise CheckSkippedError(self._no_echo)

    def score(self, text: str) -> Scored:
        """The tokens of ``text``, or its completion where the server has no echo; asked for once.

        Args:
            text: The prompt.

        Raises:
            CheckSkippedError: the server gives no log-probabilities.
        """
        try:
            return self.known("echo", text)
        except CheckSkippedError:
            return self.known("completion", text)

    def score_anew(self, text: str, **fields: Any) -> Scored:
        """As ``score``, asked for again.

        Args:
            text: The prompt.
            **fields: As of ``complete``.

        Raises:
            CheckSkippedError: the server gives no log-probabilities.
        """
        kind = self.score(text).kind
        return self.echo(text, **fields) if kind == "echo" else self.completion(text, **fields)

    def known(self, kind: Literal["echo", "completion"], text: str) -> Scored:
        """The echo or the completion of ``text``, asked for once.

        Args:
            kind: Which of the two.
            text: The prompt.

        Raises:
            CheckSkippedError: the server doesn't give it.
        """
        if (kind, text) not in self._scored:
            self._scored[kind, text] = self.echo(text) if kind == "echo" else self.completion(text)
        return self._scored[kind, text]

    def continued(self) -> list[tuple[Scored, Scored]]:
        """For each text: its greedy completion, and the echo of both together.

        Only where the server reads the whole into the tokens of its parts.

        Raises:
            CheckSkippedError: there is none.
        """
        found = []
        for text in self.texts:
            prompt, completion = self.known("echo", text), self.known("completion", text)
            whole = self.known("echo", text + completion.text)
            if whole.tokens[: -len(completion.tokens) or None] == prompt.tokens and (
                whole.tokens[len(prompt.tokens) :] == completion.tokens
            ):
                found.append((completion, whole))
        if not found:
            raise CheckSkippedError(
                "the server reads no prompt and completion together into the tokens of the two"
            )
        return found


def scored(kind: Literal["echo", "completion"], answer: Answer, choice: Choice) -> Scored:
    """What ``choice`` says of its tokens.

    Args:
        kind: What was asked for.
        answer: The answer.
        choice: One of its choices.

    Raises:
        CheckSkippedError: it has no log-probabilities.
    """
    given = choice.logprobs
    if given is None or not given.tokens:
        raise CheckSkippedError("the server gives no log-probabilities")
    return Scored(
        kind,
        given.tokens,
        given.token_logprobs,
        given.top,
        choice.text,
        given.text_offset,
        choice,
        answer,
    )


def prompt_part(text: str, whole: Scored, generated: int) -> Scored:
    """``whole`` without the tokens after the prompt.

    Args:
        text: The prompt.
        whole: An echo of it, perhaps with more behind.
        generated: How many tokens are behind it if their texts don't tell.
    """
    lead, end = _span_of(text, whole.tokens) or (0, len(whole.tokens) - generated)
    return replace(
        whole,
        kind="echo",
        tokens=whole.tokens[:end],
        logprobs=whole.logprobs[:end],
        top=whole.top[:end],
        text_offset=whole.text_offset[:end],
        lead=lead,
    )


def plain(text: str) -> str:
    """``text`` without white space, nor the signs that stand for it in vocabularies."""
    return "".join(_spelled(text).split())


def _span_of(text: str, tokens: Sequence[str]) -> tuple[int, int] | None:
    """Where the tokens of ``text`` begin and end; up to two before it may stand for none of it."""
    wanted = plain(text)
    for start in range(min(3, len(tokens))):
        joined = ""
        for end in range(start, len(tokens)):
            joined += plain(tokens[end])
            if joined == wanted:
                return start, _past_white_space(text, tokens, start, end + 1)
            if not wanted.startswith(joined):
                break
    return None


def _past_white_space(text: str, tokens: Sequence[str], start: int, end: int) -> int:
    """``end``, moved behind the tokens of white space that ``text`` ends with."""
    while end < len(tokens) and text.startswith(_spelled("".join(tokens[start : end + 1]))):
        end += 1
    return end


def _spelled(text: str) -> str:
    """``text`` with white space in place of a vocabulary's signs for it."""
    return text.replace("Ġ", " ").replace("▁", " ").replace("Ċ", "\n")
