"""Prompts through a chat template: a text as the user's turn, or the turns of a chat.

What decides a value is the text that the template writes, which the same prompt need not give
twice: templates may print the day. So a prompt is rendered once a call, before anything is looked
up, and goes on as a ``RenderedPrompt``, whose text is in the key.

Some templates read the content of a turn as text, some as a list of parts, and each loses the other
silently. Which one this is, is tried out with two words that must come through.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from forwardcache.errors import ForwardCacheError, InvalidInputError
from forwardcache.hf.text.item import blamed_on_item

Frame = Callable[[Any], Any]
"""What puts a prompt into the template."""

Content = Literal["text", "parts"]
Turn = dict[str, Any]

# Letters only: what templates do to a content (strip, escape) leaves these as they are.
_TRIED = ("albatross", "marmalade")

# Of the tokenizer's method, these are the template's own; the others would change what comes back.
_FREE_ARGUMENTS = ("tools", "documents")


@dataclass(frozen=True, slots=True)
class RenderedPrompt:
    """A prompt as the model reads it: the text that the chat template wrote.

    It may be given wherever a prompt may, and is not put into the template again.

    Attributes:
        text: What the template wrote.
        messages: The turns as canonical JSON; empty for a prompt that was a text.
    """

    text: str
    messages: str = ""

    def __str__(self) -> str:
        return self.text

    @property
    def key(self) -> str | tuple[str, str]:
        """The prompt in the cache's key: turns are never taken for a text, nor for others."""
        return (self.text, self.messages) if self.messages else self.text


def key_of(item: Any) -> Any:
    """An item of an operation as the cache's key: texts, with whatever else belongs to a prompt."""
    if isinstance(item, RenderedPrompt):
        return item.key
    if isinstance(item, tuple) and item and isinstance(item[0], RenderedPrompt):
        prompt = item[0].key
        return (*(prompt if isinstance(prompt, tuple) else (prompt,)), *item[1:])
    return item


def framed(item: Any, put: Callable[[Any], Any]) -> Any:
    """What ``put`` makes of ``item``, or the error in its place; an error stays what it is."""
    if isinstance(item, ForwardCacheError):
        return item
    try:
        return put(item)
    except ForwardCacheError as error:
        return error


class ChatTemplate:
    """The template that prompts are put into.

    Args:
        tokenizer: Writes it.
        template: A template, or the name of one of the tokenizer's; None for its own.
        arguments: What the template is given in addition to the turns.
    """

    def __init__(self, tokenizer: Any, template: str | None, arguments: Mapping[str, Any]) -> None:
        self._tokenizer = tokenizer
        self._template = template
        self._arguments = arguments
        self._content: Content | None = None
        self._takes_parts = False

    def check(self) -> None:
        """Refuses a template that isn't there, doesn't parse, or loses what it is given.

        One that refuses a lone turn of a user is let pass: it may want others before it.

        Raises:
            InvalidInputError: naming what is wrong.
        """
        if self._content is None:
            self._check_is_there()
            self._content = self._tried_out()

    def render(self, prompt: Any) -> RenderedPrompt:
        """``prompt``, a text or a list of turns, as the template writes it now.

        Raises:
            InvalidInputError: it is neither, a turn lacks something, or the template refuses it.
        """
        if isinstance(prompt, RenderedPrompt):
            return prompt
        self.check()
        if isinstance(prompt, str):
            return RenderedPrompt(self._written([{"role": "user", "content": prompt}]))
        turns = _checked_turns(prompt)
        return RenderedPrompt(self._written(turns), _canonical("messages", turns))

    def _check_is_there(self) -> None:
        find = getattr(self._tokenizer, "get_chat_template", None)
        if find is None:
            return
        try:
            find(self._template)
        except Exception as error:
            several = getattr(self._tokenizer, "chat_template", None)
            if isinstance(several, dict):
                names = ", ".join(map(repr, sorted(several)))
                reason = f"the tokenizer has several and no default: name one of {names}"
            elif several is None:
                reason = "the tokenizer has none; give one as a text"
            else:
                reason = _one_line(error)
            raise InvalidInputError(f"chat_template: {reason}") from None

    def _tried_out(self) -> Content:
        """How the template reads a content."""
        refused = False
        for content in ("text", "parts"):
            shown = self._shows(content)
            if shown and content == "text":
                self._takes_parts = self._same_as_parts()
            if shown:
                return content
            refused = refused or shown is None
        if refused:
            return "text"
        raise InvalidInputError(
            "chat_template: it drops what it is given; two different prompts become the same text"
        )

    def _shows(self, content: Content) -> bool | None:
        """Whether a user's words come through; None where the template refuses the turn."""
        from jinja2 import TemplateSyntaxError

        try:
            one, other, again = (self._user_turn(word, content) for word in (*_TRIED, _TRIED[0]))
        except TemplateSyntaxError as error:
            raise InvalidInputError(
                f"chat_template: it doesn't parse: {_one_line(error)}"
            ) from None
        except ImportError as error:
            raise InvalidInputError(f"chat_template: {_one_line(error)}") from None
        except Exception:
            return None
        # In other letters a word is not found; then the texts must differ, and not by themselves.
        found = _TRIED[0] in one and _TRIED[1] in other
        return found or (one == again and one != other)

    def _same_as_parts(self) -> bool:
        try:
            return self._user_turn(_TRIED[0], "parts") == self._user_turn(_TRIED[0], "text")
        except Exception:
            return False

    def _user_turn(self, word: str, content: Content) -> str:
        given = word if content == "text" else _parts(word)
        return self._applied([{"role": "user", "content": given}])

    def _written(self, turns: Sequence[Turn]) -> str:
        shaped = [self._shaped(turn) for turn in turns]
        # Whatever a template does wrong or says itself (``raise_exception``).
        with blamed_on_item("the chat template refuses the prompt", words=_one_line):
            return self._applied(shaped)

    def _shaped(self, turn: Turn) -> Turn:
        """A turn with its content as the template reads it."""
        content = turn.get("content")
        if self._content == "parts" and isinstance(content, str):
            return {**turn, "content": _parts(content)}
        if self._content == "text" and isinstance(content, list) and not self._takes_parts:
            return {**turn, "content": _only_text(content)}
        return turn

    def _applied(self, turns: Sequence[Turn]) -> str:
        # A last turn of the assistant is one that the model goes on with.
        goes_on = turns[-1]["role"] == "assistant"
        options = {"continue_final_message": True} if goes_on else {"add_generation_prompt": True}
        return str(
            self._tokenizer.apply_chat_template(
                list(turns),
                chat_template=self._template,
                tokenize=False,
                **options,
                **self._arguments,
            )
        )


def template_arguments(arguments: Mapping[str, Any] | None, tokenizer: Any) -> str:
    """What a template is given in addition to the turns, as canonical JSON; empty for nothing.

    Raises:
        InvalidInputError: they are no JSON object, or one would change more than the text.
    """
    if arguments is None:
        return ""
    if not isinstance(arguments, Mapping) or not all(isinstance(name, str) for name in arguments):
        raise InvalidInputError(f"chat_template_args must map names to values, got {arguments!r}")
    taken = set(inspect.signature(tokenizer.apply_chat_template).parameters)
    taken = taken.difference(_FREE_ARGUMENTS, {"kwargs"})
    for name in arguments:
        if name in taken or name in ("messages", "continue_final_message"):
            raise InvalidInputError(
                f"chat_template_args can't have {name!r}, which is set for every prompt"
            )
    return _canonical("chat_template_args", dict(arguments)) if arguments else ""


def refuse_messages(prompt: Any) -> Any:
    """``prompt``, unless it is a list of turns, which only a chat template makes a text of.

    Raises:
        InvalidInputError: saying what messages need.
    """
    if isinstance(prompt, list | tuple) and prompt and isinstance(prompt[0], Mapping):
        raise InvalidInputError(
            "a prompt of messages needs chat_template=True (on the command line --chat-template)"
        )
    return prompt


def _checked_turns(messages: Any) -> list[Turn]:
    if not isinstance(messages, list | tuple):
        kind = type(messages).__name__
        raise InvalidInputError(f"a prompt must be a str or a list of messages, got {kind}")
    if not messages:
        raise InvalidInputError("a prompt of messages needs at least one, got none")
    return [_checked_turn(number, turn) for number, turn in enumerate(messages)]


def _checked_turn(number: int, turn: Any) -> Turn:
    if not isinstance(turn, Mapping):
        kind = type(turn).__name__
        raise InvalidInputError(
            f"message {number} must be a dict with role and content, got {kind}"
        )
    role, content = turn.get("role"), turn.get("content")
    if not isinstance(role, str) or not role:
        raise InvalidInputError(f"message {number} needs a role, got {role!r}")
    if content is None and not turn.get("tool_calls"):
        raise InvalidInputError(f"message {number} ({role}) needs a content, got None")
    if content is not None and not isinstance(content, str) and not _is_parts(content):
        kind = type(content).__name__
        raise InvalidInputError(
            f"the content of message {number} ({role}) must be a str or a list of parts, got {kind}"
        )
    parts = {"content": list(map(dict, content))} if isinstance(content, list | tuple) else {}
    return {**turn, **parts}


def _is_parts(content: Any) -> bool:
    return isinstance(content, list | tuple) and all(isinstance(part, Mapping) for part in content)


def _parts(text: str) -> list[Turn]:
    return [{"type": "text", "text": text}]


def _only_text(parts: Sequence[Turn]) -> str:
    """The text of the only part: how others would be joined is the template's to say."""
    texts = [part.get("text") for part in parts if part.get("type") == "text"]
    if len(parts) != 1 or len(texts) != 1 or not isinstance(texts[0], str):
        raise InvalidInputError(
            "the chat template reads a content as one text, not as a list of several parts"
        )
    return texts[0]


def _canonical(name: str, value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"{name} must be what JSON can hold: {error}") from None


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
