"""Prompts in: plain text lines, or JSON lines with ``prompt`` and ``completion``.

Texts to be compared come the same way; of theirs a JSON line may have ``text`` for ``prompt``.
"""

from __future__ import annotations

import hashlib
import json
import math
import stat
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NoReturn, TextIO, cast

from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs.kinds import STDIN, FileKind, check_kind
from forwardcache.jobs.reasons import is_out_of_memory, shown
from forwardcache.jobs.skips import OnError, Skipped, skipped_line
from forwardcache.operations import operation

JSON_SUFFIXES = frozenset({".jsonl", ".ndjson", ".json"})
TEXT_SUFFIXES = frozenset({".txt", ".text"})


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


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of one file or stream.

    Attributes:
        name: What to call it in a message.
        prompts: In the input's order.
        sha256: Digest of the input's bytes, hex.
        skipped: Those that can't be scored, where they are to be left out.
        words: What they are called.
    """

    name: str
    prompts: tuple[Prompt, ...]
    sha256: str
    skipped: tuple[Skipped, ...] = ()
    words: InputWords = PROMPTS

    def refuse(self, prompt: Prompt, reason: str) -> NoReturn:
        """Refuse the input because of one prompt.

        Raises:
            InvalidInputError: naming the line, from 1 as editors do.
        """
        raise InvalidInputError(f"{self.name} line {prompt.line}: {reason}")

    def failed(self, prompt: Prompt, error: Exception, on_error: OnError) -> Skipped:
        """A prompt that the model failed on, as one that is skipped.

        Args:
            prompt: One of them.
            error: What the model said.
            on_error: Whether it is skipped.

        Raises:
            InvalidInputError: it isn't to be skipped.
            MachineError: so, and memory was too small.
        """
        if on_error == "skip":
            return Skipped(prompt.line, prompt.id, str(error))
        if is_out_of_memory(error):
            raise MachineError(f"{self.name} line {prompt.line}: {error}") from error
        self.refuse(prompt, str(error))

    def without(self, reasons: Mapping[int, str]) -> PromptSet:
        """The set without some prompts, by position, which are skipped for these reasons.

        Raises:
            InvalidInputError: none is left.
        """
        gone = [
            Skipped(self.prompts[position].line, self.prompts[position].id, reason)
            for position, reason in reasons.items()
        ]
        left = [one for position, one in enumerate(self.prompts) if position not in reasons]
        skipped = tuple(sorted((*self.skipped, *gone), key=lambda one: one.line))
        return _checked(replace(self, prompts=tuple(left), skipped=skipped))

    def for_op(self, op: str, on_error: OnError) -> PromptSet:
        """The prompts that hold what ``op`` needs.

        Raises:
            InvalidInputError: one doesn't and none is to be skipped, or none does.
        """
        if on_error == "fail":
            self.items(op)
            return self
        asked = operation(op).of()
        lacking = {
            at: reason
            for at, prompt in enumerate(self.prompts)
            if (reason := asked.lacking(prompt)) is not None
        }
        return self.without(lacking) if lacking else self

    def items(self, op: str) -> Sequence[Any]:
        """What the backend is asked for ``op``: prompts, texts, or pairs of prompt and completion.

        Raises:
            InvalidInputError: a prompt hasn't what ``op`` scores.
        """
        asked = operation(op).of()
        for prompt in self.prompts:
            if (reason := asked.lacking(prompt)) is not None:
                self.refuse(prompt, reason)
        return [asked.item(prompt) for prompt in self.prompts]


def read_prompts(
    source: str,
    *,
    limit: int | None = None,
    on_error: OnError = "fail",
    words: InputWords = PROMPTS,
) -> PromptSet:
    """Read a file, or standard input for ``-``.

    A name that ends in .jsonl, .ndjson or .json holds JSON lines, one in .txt plain text; anything
    else, standard input included, is JSON lines if its first line that isn't blank begins with
    ``{``.

    Args:
        source: The file, or ``-``.
        limit: How many lines that aren't blank are read, from the first; None for all.
        on_error: Whether a line that can't be used is skipped.
        words: What the input is called, and where a line's text stands.

    Raises:
        InvalidInputError: nothing to read, no prompt in it, or a line that can't be used (which is
            named) and isn't skipped.
    """
    name = "standard input" if source == STDIN else source
    check_source(source, words)
    data = _read_bytes(source, words)
    lines = list(islice(_filled_lines(data), limit))
    parse = partial(_parse_json, words) if _is_json(source, lines) else _parse_text
    prompts, skipped = [], []
    for number, raw in lines:
        try:
            prompts.append(parse(number, _decoded(raw)))
        except _LineError as error:
            if on_error == "fail":
                raise InvalidInputError(f"{name} line {number}: {error}") from error
            skipped.append(Skipped(number, number if error.id is None else error.id, str(error)))
    digest = hashlib.sha256(data).hexdigest()
    return _checked(PromptSet(name, tuple(prompts), digest, tuple(skipped), words))


def check_source(source: str, words: InputWords = PROMPTS) -> None:
    """Refuse prompts that can't be read or are something else, without reading them.

    Args:
        source: The file, or ``-``.
        words: What the input is called.

    Raises:
        InvalidInputError: saying so.
    """
    if source == STDIN:
        _open_stdin(words)
        return
    _check_kind(source, words)
    try:
        # Nothing is taken from a pipe, and nothing is waited for that nobody writes yet.
        if not stat.S_ISFIFO(Path(source).stat().st_mode):
            Path(source).open("rb").close()
    except (OSError, ValueError) as error:
        raise _unreadable(source, error, words) from error


def _check_kind(source: str, words: InputWords) -> None:
    """Refuse a file of another kind; any line is a prompt in a file that is named as text."""
    path = Path(source)
    texts = (FileKind.ROWS, FileKind.TRACE) if path.suffix.lower() in TEXT_SUFFIXES else ()
    check_kind(path, FileKind.PROMPTS, *texts, named=f"{words.option} {source}")


def _checked(found: PromptSet) -> PromptSet:
    if not found.prompts:
        one, hint = found.words.one, ""
        if found.skipped:
            hint = f" that can be scored ({skipped_line(found.skipped, None, one=one)})"
        raise InvalidInputError(f"{found.name} holds no {one}{hint}")
    return found


class _LineError(Exception):
    """A line that can't be used; the message is the reason.

    Attributes:
        id: The line's own id, where it could be read; None otherwise.
    """

    id: str | float | bool | None = None


def _read_bytes(source: str, words: InputWords) -> bytes:
    if source == STDIN:
        return _open_stdin(words).buffer.read()
    try:
        return Path(source).read_bytes()
    except (OSError, ValueError) as error:
        raise _unreadable(source, error, words) from error


def _open_stdin(words: InputWords) -> TextIO:
    # None where the caller closed it (``<&-``).
    if (stream := cast(TextIO | None, sys.stdin)) is None:
        raise InvalidInputError(f"can't read the {words.one}s: standard input is closed")
    return stream


def _unreadable(source: str, error: Exception, words: InputWords) -> InvalidInputError:
    reason = getattr(error, "strerror", None) or str(error)
    return InvalidInputError(f"can't read the {words.one}s {source!r}: {reason}")


def _filled_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Line numbers from 1 and bytes of the lines that aren't blank."""
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        # A space of Unicode makes no prompt either.
        if raw.strip() and (raw.isascii() or raw.decode("utf-8", "replace").strip()):
            yield number, raw.removesuffix(b"\r")


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _LineError(f"not UTF-8 ({error.reason})") from error


def _is_json(source: str, lines: Sequence[tuple[int, bytes]]) -> bool:
    suffix = Path(source).suffix.lower()
    if suffix in JSON_SUFFIXES | TEXT_SUFFIXES:
        return suffix in JSON_SUFFIXES
    return bool(lines) and lines[0][1].lstrip().startswith(b"{")


def _parse_text(number: int, line: str) -> Prompt:
    return Prompt(number, line)


def _parse_json(words: InputWords, number: int, line: str) -> Prompt:
    fields = _json_object(line)
    own = Prompt(number, "", None, fields)
    try:
        text, messages = _asked(fields, words)
        completion = _text_field(fields, "completion")
        # A dictionary keeps room for what was taken out of it, and of most lines nothing is left.
        carried = dict(fields) if fields else _NOTHING
        return Prompt(number, text, completion, carried, messages)
    except _LineError as error:
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
        raise _LineError(f"no {named}" + (' (or "messages")' if words.takes_messages else ""))
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
        raise _LineError(f"not JSON ({error.msg}, column {error.colno})") from error
    except (ValueError, RecursionError) as error:
        raise _LineError(f"not JSON ({error})") from error
    if not isinstance(fields, dict):
        raise _LineError("not a JSON object")
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


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise _LineError(f"the number {shown(number)} is too large to carry")
    return value


def _text_field(fields: dict[str, Any], field_name: str) -> str | None:
    """Take a text out of ``fields``; what is left there is carried."""
    if (value := fields.pop(field_name, None)) is None:
        return None
    if not isinstance(value, str):
        raise _LineError(f'"{field_name}" is not a string')
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise _LineError(f'"{field_name}" holds half a surrogate pair') from error
    return value
