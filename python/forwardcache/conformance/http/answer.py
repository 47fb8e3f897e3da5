"""What a server of ``/v1/completions`` sends, as values.

Two spellings of log-probabilities are read: OpenAI's four lists (``tokens``, ``token_logprobs``,
``top_logprobs``, ``text_offset``), as vLLM, SGLang and llama-cpp-python send them, and the list
``content`` of the chat form, which llama.cpp's own server sends here too. Fields that are not
known are left alone. Nothing is judged here but that numbers are numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Answer", "Choice", "Logprobs", "MalformedAnswerError", "Row", "Usage", "logprob_from"]

Row = dict[str, float]
"""Log-probabilities by the token's text, in nats, in the order in which they were sent."""

CLAMPED = -9999.0
"""What OpenAI, vLLM and others write for minus infinity, which JSON lacks."""

_LISTS = ("tokens", "token_logprobs", "top_logprobs", "text_offset")


class MalformedAnswerError(ValueError):
    """An answer is not of the form of a completion; the message says where."""


@dataclass(frozen=True)
class Logprobs:
    """The log-probabilities of one choice.

    Attributes:
        tokens: Texts of the tokens.
        token_logprobs: One a token, nats; None where null was sent.
        top: For each token the most likely ones at its place; None where null was sent, or nothing.
        text_offset: Where each token begins in the text; empty where the server doesn't say.
        lengths: Lengths of the lists as they were sent, by their names.
    """

    tokens: tuple[str, ...]
    token_logprobs: tuple[float | None, ...]
    top: tuple[Row | None, ...]
    text_offset: tuple[int, ...]
    lengths: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Usage:
    """Counts as sent; None where one is missing.

    Attributes:
        prompt_tokens: Tokens of the prompts.
        completion_tokens: Tokens that were generated.
        total_tokens: Both together.
    """

    prompt_tokens: Any
    completion_tokens: Any
    total_tokens: Any


@dataclass(frozen=True)
class Choice:
    """One completion.

    Attributes:
        index: Which of the prompts it belongs to.
        text: Its text, with the prompt's where an echo was asked for.
        finish_reason: Why it ended; None in the midst of a stream.
        logprobs: None where none were sent.
        sent: The choice as it came, for fields of one server alone.
    """

    index: int
    text: str
    finish_reason: str | None
    logprobs: Logprobs | None
    sent: Mapping[str, Any]


@dataclass(frozen=True)
class Answer:
    """One answer, or one chunk of a stream.

    Attributes:
        choices: In the order of their index.
        usage: None where the server counts nothing.
    """

    choices: tuple[Choice, ...]
    usage: Usage | None

    @classmethod
    def read(cls, sent: Any) -> Answer:
        """The answer in the JSON object ``sent``.

        Args:
            sent: What the server sent, decoded.

        Raises:
            MalformedAnswerError: it is not of a completion's form.
        """
        if not isinstance(sent, dict) or not isinstance(sent.get("choices"), list):
            raise MalformedAnswerError(f"no object with `choices`: {_shown(sent)}")
        choices = [_choice(position, each) for position, each in enumerate(sent["choices"])]
        ordered = tuple(sorted(choices, key=lambda choice: choice.index))
        return cls(ordered, _usage(sent.get("usage")))

    def only(self) -> Choice:
        """The one choice.

        Raises:
            MalformedAnswerError: there is another number of them.
        """
        if len(self.choices) != 1:
            raise MalformedAnswerError(f"{len(self.choices)} choices for one prompt")
        return self.choices[0]


def logprob_from(sent: Any) -> float | None:
    """A log-probability as a float, minus infinity in any of its spellings; None for null.

    Args:
        sent: The value as decoded from JSON.

    Raises:
        MalformedAnswerError: it is no number.
    """
    if sent is None:
        return None
    if isinstance(sent, str) and sent.lower() in ("-inf", "-infinity"):
        return -math.inf
    if isinstance(sent, bool) or not isinstance(sent, int | float):
        raise MalformedAnswerError(f"{_shown(sent)} is no log-probability")
    return -math.inf if sent <= CLAMPED else float(sent)


def _choice(position: int, sent: Any) -> Choice:
    if not isinstance(sent, dict) or not isinstance(sent.get("text"), str):
        raise MalformedAnswerError(f"a choice without `text`: {_shown(sent)}")
    index = sent.get("index", position)
    if type(index) is not int:
        raise MalformedAnswerError(f"the index of a choice is {_shown(index)}")
    return Choice(index, sent["text"], sent.get("finish_reason"), _logprobs(sent), sent)


def _usage(sent: Any) -> Usage | None:
    if not isinstance(sent, dict):
        return None
    return Usage(*(sent.get(f"{name}_tokens") for name in ("prompt", "completion", "total")))


def _logprobs(choice: Mapping[str, Any]) -> Logprobs | None:
    sent = choice.get("logprobs")
    if sent is None:
        return None
    if isinstance(sent, dict) and isinstance(sent.get("content"), list):
        return _of_content(sent["content"])
    if isinstance(sent, dict) and isinstance(sent.get("tokens"), list):
        return _of_lists(sent)
    raise MalformedAnswerError(f"`logprobs` has neither `tokens` nor `content`: {_shown(sent)}")


def _of_lists(sent: Mapping[str, Any]) -> Logprobs:
    lists = {name: sent[name] for name in _LISTS if isinstance(sent.get(name), list)}
    if "token_logprobs" not in lists:
        raise MalformedAnswerError(f"`logprobs` without `token_logprobs`: {_shown(sent)}")
    tokens = tuple(map(str, lists["tokens"]))
    offsets = tuple(each for each in lists.get("text_offset", ()) if type(each) is int)
    top = lists.get("top_logprobs", [None] * len(tokens))
    return Logprobs(
        tokens,
        tuple(map(logprob_from, lists["token_logprobs"])),
        tuple(map(_row, top)),
        # SGLang writes -1 everywhere: it doesn't know.
        () if any(each < 0 for each in offsets) else offsets,
        {name: len(each) for name, each in lists.items()},
    )


def _row(sent: Any) -> Row | None:
    if sent is None:
        return None
    if isinstance(sent, list):
        return _row_of_entries(sent)
    if not isinstance(sent, dict):
        raise MalformedAnswerError(f"{_shown(sent)} is no row of `top_logprobs`")
    # A server whose JSON has no infinity may write null for it.
    return {token: _or_minus_infinity(value) for token, value in sent.items()}


def _row_of_entries(entries: Sequence[Any]) -> Row:
    if not all(isinstance(each, dict) and "token" in each for each in entries):
        raise MalformedAnswerError(f"{_shown(entries)} is no row of `top_logprobs`")
    # Two tokens may have one text; the more likely one stands first.
    row: Row = {}
    for each in entries:
        row.setdefault(str(each["token"]), _or_minus_infinity(each.get("logprob")))
    return row


def _of_content(entries: Sequence[Any]) -> Logprobs:
    if not all(isinstance(each, dict) and "token" in each for each in entries):
        raise MalformedAnswerError(f"an entry of `content` without `token`: {_shown(entries)}")
    top = tuple(_row(each["top_logprobs"]) if "top_logprobs" in each else None for each in entries)
    return Logprobs(
        tuple(str(each["token"]) for each in entries),
        tuple(logprob_from(each.get("logprob")) for each in entries),
        top,
        (),
        {"content": len(entries)},
    )


def _or_minus_infinity(sent: Any) -> float:
    value = logprob_from(sent)
    return -math.inf if value is None else value


def _shown(sent: Any) -> str:
    return f"{sent!r:.120}"
