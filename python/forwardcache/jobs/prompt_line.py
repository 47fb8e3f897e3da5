"""One line of the input as a prompt: what the model reads of it, and what is carried.

Lines come as bytes, so that they can be read on another machine than where the input lies.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NoReturn, TypeAlias

from forwardcache.jobs.reasons import shown

LineKind: TypeAlias = Literal["json", "text"]
"""What a line holds: a JSON object, or nothing but the text."""


@dataclass(frozen=True, slots=True)
class InputWords:
    """What a command calls its input.

    Attributes:
        option: The option that names it.
        one: What an item of it is called.
        fields: Where a JSON line has an item's text: the first of them that is there.
        takes_messages: Whether ``messages`` may stand for it.
    """

    option: str
    one: str
    fields: tuple[str, ...]
    takes_messages: bool = True


PROMPTS = InputWords("--prompts", "prompt", ("prompt",))
TEXTS = InputWords("--texts", "text", ("prompt", "text"))


# Shared by all prompts that carry nothing; nobody writes into it.
_NOTHING: dict[str, Any] = {}


@dataclass(frozen=True, slots=True)
class Prompt:
    """One prompt of the input.

    Attributes:
        line: Its line in the input, from 1; blank lines are counted and hold no prompt.
        text: What the model reads; of a prompt of messages their JSON.
        completion: What is scored after it; None where the input has none.
        carried: Every other field of the JSON line, passed through to the rows.
        messages: The turns of a chat that are the prompt; None where it is a text.
    """

    line: int
    text: str
    completion: str | None = None
    carried: dict[str, Any] = field(default_factory=dict)
    messages: list[Any] | None = None

    @property
    def asked(self) -> str | list[Any]:
        """What the backend is asked about."""
        return self.text if self.messages is None else self.messages

    @property
    def id(self) -> str | float | bool:
        """The input's own ``id`` where it has one that is no list, object or null; else the line.

        It is carried too: what stands in the rows' ``input`` is all that the line had.
        """
        own = self.carried.get("id")
        return own if isinstance(own, str | int | float) else self.line

    @property
    def counts_as(self) -> str:
        """What it is one text with in an interval: equal ones are no new evidence.

        A prompt that stands with several completions is one text. Without a prompt it is what the
        completion says.
        """
        return self.text or self.completion or ""


class LineError(Exception):
    """A line that can't be used; the message is the reason.

    Attributes:
        id: The line's own id, where it could be read; None otherwise.
    """

    id: str | float | bool | None = None


def parse_line(raw: bytes, number: int, kind: LineKind, words: InputWords = PROMPTS) -> Prompt:
    """The prompt that a line holds.

    Args:
        raw: The line without its end.
        number: Its number in the input, from 1.
        kind: What it holds.
        words: Where a line of JSON has its text.

    Raises:
        LineError: it can't be used.
    """
    try:
        line = raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise LineError(f"not UTF-8 ({error.reason})") from error
    return Prompt(number, line) if kind == "text" else _parse_json(words, number, line)


def _parse_json(words: InputWords, number: int, line: str) -> Prompt:
    fields = _json_object(line)
    own = Prompt(number, "", None, fields)
    try:
        text, messages = _asked(fields, words)
        completion = _text_field(fields, "completion")
        # A dictionary keeps room for what was taken out of it, and of most lines nothing is left.
        carried = dict(fields) if fields else _NOTHING
        return Prompt(number, text, completion, carried, messages)
    except LineError as error:
        error.id = own.id
        raise


def _asked(fields: dict[str, Any], words: InputWords) -> tuple[str, list[Any] | None]:
    """Take what the model reads out of ``fields``: its text, and the turns where it is a chat.

    Whether each turn is one that the chat template takes, is the backend's to say.
    """
    otherwise = "messages" if words.takes_messages else words.fields[0]
    name = next((name for name in words.fields if fields.get(name) is not None), otherwise)
    if isinstance(fields.get(name), list):
        messages = fields.pop(name)
        return json.dumps(messages), messages
    text = None if name == "messages" else _text_field(fields, name)
    if text is None:
        named = " or ".join(f'"{each}"' for each in words.fields)
        raise LineError(f"no {named}" + (' (or "messages")' if words.takes_messages else ""))
    return text, None


def _json_object(line: str) -> dict[str, Any]:
    try:
        fields = json.loads(
            line,
            parse_constant=_refuse_constant,
            parse_float=_finite,
            object_pairs_hook=_each_name_once,
        )
    except json.JSONDecodeError as error:
        raise LineError(f"not JSON ({error.msg}, column {error.colno})") from error
    except _NoValueError as error:
        raise LineError(f"not JSON ({error}{_field_without_value(line)})") from error
    except (ValueError, RecursionError) as error:
        raise LineError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise LineError("not a JSON object")
    return fields


def _each_name_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The fields of an object; the parser would keep the last of two without a word."""
    fields = dict(pairs)
    if len(fields) < len(pairs):
        twice = next(
            name for name, times in Counter(name for name, _ in pairs).items() if times > 1
        )
        raise ValueError(f"the field {shown(twice)} stands there twice")
    return fields


class _NoValueError(ValueError):
    """A word that Python's parser takes for a number."""


def _refuse_constant(constant: str) -> NoReturn:
    raise _NoValueError(f"{constant} is no JSON value")


def _field_without_value(line: str) -> str:
    """Where such a word stands, as the end of a sentence; of a table's cell that is the column."""
    with suppress(ValueError, RecursionError, AttributeError):
        for name, value in json.loads(line).items():
            try:
                json.dumps(value, allow_nan=False)
            except ValueError:
                return f", in the field {shown(name)}"
    return ""


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise LineError(f"the number {shown(number)} is too large to carry")
    return value


def _text_field(fields: dict[str, Any], field_name: str) -> str | None:
    """Take a text out of ``fields``; what is left there is carried."""
    if (value := fields.pop(field_name, None)) is None:
        return None
    if not isinstance(value, str):
        raise LineError(f'"{field_name}" is not a string')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise LineError(f'"{field_name}" holds half a surrogate pair') from error
    return value
