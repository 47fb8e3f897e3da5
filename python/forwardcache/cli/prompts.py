"""Prompts in: plain text lines, or JSON lines with ``prompt`` and ``completion``."""

from __future__ import annotations

import hashlib
import json
import math
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from forwardcache.cli.exits import BadInputError, shown

STDIN = "-"
JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
TEXT_SUFFIXES = frozenset({".txt", ".text"})


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


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of one file or stream.

    Attributes:
        name: What to call it in a message.
        prompts: In the input's order.
        sha256: Digest of the input's bytes, hex.
    """

    name: str
    prompts: tuple[Prompt, ...]
    sha256: str

    def refuse(self, prompt: Prompt, reason: str) -> NoReturn:
        """Refuse the input because of one prompt.

        Raises:
            BadInputError: naming the line, from 1 as editors do.
        """
        raise BadInputError(f"{self.name} line {prompt.line}: {reason}")

    def items(self, op: str) -> Sequence[Any]:
        """What the backend is asked for ``op``: prompts, texts, or pairs of prompt and completion.

        Raises:
            BadInputError: ``op`` scores completions and a prompt has none, or texts and a prompt is
                a list of messages.
        """
        if op == "logprob_of":
            return [(prompt.asked, self._completion(prompt)) for prompt in self.prompts]
        if op == "rolling_logprob":
            return [self._text(prompt) for prompt in self.prompts]
        return [prompt.asked for prompt in self.prompts]

    def _text(self, prompt: Prompt) -> str:
        if prompt.messages is not None:
            self.refuse(prompt, "rolling_logprob scores a text, and this is a list of messages")
        return prompt.text

    def _completion(self, prompt: Prompt) -> str:
        if prompt.completion is None:
            self.refuse(prompt, "no completion, which logprob_of scores (JSON lines only)")
        return prompt.completion


def read_prompts(source: str) -> PromptSet:
    """Read a file, or standard input for ``-``.

    A name that ends in .jsonl, .ndjson or .json holds JSON lines, one in .txt plain text; anything
    else, standard input included, is JSON lines if its first line that isn't blank begins with
    ``{``.

    Raises:
        BadInputError: nothing to read, no prompt in it, or a line that can't be used (which is
            named).
    """
    name = "standard input" if source == STDIN else source
    data = _read_bytes(source)
    lines = list(_decoded_lines(name, data))
    parse = _parse_json if _is_json(source, lines) else _parse_text
    prompts = tuple(parse(name, number, line) for number, line in lines)
    if not prompts:
        raise BadInputError(f"{name} holds no prompt")
    return PromptSet(name, prompts, hashlib.sha256(data).hexdigest())


def _read_bytes(source: str) -> bytes:
    if source == STDIN:
        # None where the caller closed it (``<&-``).
        if (stream := cast(TextIO | None, sys.stdin)) is None:
            raise BadInputError("can't read the prompts: standard input is closed")
        return stream.buffer.read()
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise BadInputError(f"can't read the prompts {source!r}: {reason}") from error


def _decoded_lines(name: str, data: bytes) -> Iterator[tuple[int, str]]:
    """Line numbers from 1 and text of the lines that aren't blank."""
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        try:
            line = raw.removesuffix(b"\r").decode("utf-8")
        except UnicodeDecodeError as error:
            raise BadInputError(f"{name} line {number}: not UTF-8 ({error.reason})") from error
        if line.strip():
            yield number, line


def _is_json(source: str, lines: Sequence[tuple[int, str]]) -> bool:
    suffix = Path(source).suffix.lower()
    if suffix in JSON_SUFFIXES | TEXT_SUFFIXES:
        return suffix in JSON_SUFFIXES
    return bool(lines) and lines[0][1].lstrip().startswith("{")


def _parse_text(name: str, number: int, line: str) -> Prompt:
    return Prompt(number, line)


def _parse_json(name: str, number: int, line: str) -> Prompt:
    where = f"{name} line {number}"
    fields = _json_object(where, line)
    messages = _messages(fields)
    text = _text_field(where, fields, "prompt") if messages is None else json.dumps(messages)
    if text is None:
        raise BadInputError(f'{where}: no "prompt" (or "messages")')
    return Prompt(number, text, _text_field(where, fields, "completion"), fields, messages)


def _messages(fields: dict[str, Any]) -> list[Any] | None:
    """Take the turns of a chat out of ``fields``: the prompt, or ``messages`` where there is none.

    Whether each turn is one that the chat template takes, is the backend's to say.
    """
    name = "prompt" if fields.get("prompt") is not None else "messages"
    return fields.pop(name) if isinstance(fields.get(name), list) else None


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        fields = json.loads(
            line,
            parse_constant=_refuse_constant,
            parse_float=partial(_finite, where),
            object_pairs_hook=_each_name_once,
        )
    except json.JSONDecodeError as error:
        raise BadInputError(f"{where}: not JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{where}: not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise BadInputError(f"{where}: not a JSON object")
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


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON value")


def _finite(where: str, number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise BadInputError(f"{where}: the number {shown(number)} is too large to carry")
    return value


def _text_field(where: str, fields: dict[str, Any], field_name: str) -> str | None:
    """Take a text out of ``fields``; what is left there is carried."""
    if (value := fields.pop(field_name, None)) is None:
        return None
    if not isinstance(value, str):
        raise BadInputError(f'{where}: "{field_name}" is not a string')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInputError(f'{where}: "{field_name}" holds half a surrogate pair') from error
    return value
