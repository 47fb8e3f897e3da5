"""Prompts in: plain text lines, JSON lines with ``prompt`` and ``completion``, rows of tables.

Texts to be compared come the same way; of theirs a JSON line may have ``text`` for ``prompt``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, NoReturn

from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs.prompt_line import (
    PROMPTS,
    TEXTS,
    InputWords,
    LineError,
    LineKind,
    Prompt,
    parse_line,
)
from forwardcache.jobs.prompt_source import PromptSource, check_source, open_source
from forwardcache.jobs.reasons import is_out_of_memory
from forwardcache.jobs.skips import OnError, Skipped, nothing_left
from forwardcache.operations import operation

__all__ = [
    "PROMPTS",
    "TEXTS",
    "InputWords",
    "Prompt",
    "PromptSet",
    "check_source",
    "prompt_for",
    "read_prompts",
]


@dataclass(frozen=True, slots=True)
class PromptSet:
    """The prompts of one file or stream.

    Attributes:
        name: What to call it in a message.
        prompts: In the input's order.
        sha256: Digest of the input's bytes, hex.
        skipped: Those that can't be scored, where they are to be left out.
        words: What they are called.
        files: Of a folder: the number of each file's first line, and what to call the file.
    """

    name: str
    prompts: tuple[Prompt, ...]
    sha256: str
    skipped: tuple[Skipped, ...] = ()
    words: InputWords = PROMPTS
    files: tuple[tuple[int, str], ...] = ()

    def place(self, line: int) -> str:
        """Where a line stands, for a message; of a folder its file, and its number there."""
        first, name = max((each for each in self.files if each[0] <= line), default=(1, self.name))
        return f"{name} line {line - first + 1}"

    def refuse(self, prompt: Prompt, reason: str) -> NoReturn:
        """Refuse the input because of one prompt.

        Raises:
            InvalidInputError: naming the line, from 1 as editors do.
        """
        raise InvalidInputError(f"{self.place(prompt.line)}: {reason}")

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
            raise MachineError(f"{self.place(prompt.line)}: {error}") from error
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


def prompt_for(
    op: str, raw: bytes, number: int, kind: LineKind, words: InputWords = PROMPTS
) -> Prompt:
    """The prompt of a line, which holds what ``op`` needs.

    Args:
        op: A scoring operation.
        raw: As of ``parse_line``, as are the others.
        number: The line's.
        kind: What it holds.
        words: Where it has its text.

    Raises:
        LineError: it can't be used.
    """
    prompt = parse_line(raw, number, kind, words)
    if (reason := operation(op).of().lacking(prompt)) is not None:
        error = LineError(reason)
        error.id = prompt.id
        raise error
    return prompt


def read_prompts(
    source: str,
    *,
    limit: int | None = None,
    on_error: OnError = "fail",
    words: InputWords = PROMPTS,
) -> PromptSet:
    """Read all prompts of a source.

    Args:
        source: As of ``open_source``.
        limit: How many lines that aren't blank are read, from the first; None for all.
        on_error: Whether a line that can't be used is skipped.
        words: What the input is called, and where a line's text stands.

    Raises:
        InvalidInputError: nothing to read, no prompt in it, or a line that can't be used (which is
            named) and isn't skipped.
    """
    check_source(source, words)
    opened = open_source(source, words)
    try:
        return _read(opened, limit, on_error, words)
    finally:
        opened.close()


def _read(
    source: PromptSource, limit: int | None, on_error: OnError, words: InputWords
) -> PromptSet:
    prompts, skipped, kind = [], [], source.kind
    for number, raw in islice(source.lines(), limit):
        try:
            prompts.append(parse_line(raw, number, kind, words))
        except LineError as error:
            if on_error == "fail":
                raise InvalidInputError(f"{source.place(number)}: {error}") from error
            skipped.append(Skipped(number, number if error.id is None else error.id, str(error)))
    found = PromptSet(
        source.name, tuple(prompts), source.digest(), tuple(skipped), words, source.files
    )
    return _checked(found)


def _checked(found: PromptSet) -> PromptSet:
    if not found.prompts:
        raise nothing_left(found.name, found.skipped, one=found.words.one)
    return found
