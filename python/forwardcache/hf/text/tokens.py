"""A text's tokens: its own, those that the tokenizer adds before it, and where they are in it."""

from __future__ import annotations

import logging
import reprlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.hf.text.ahead import TextsAhead
from forwardcache.hf.text.item import blamed_on_item

_log = logging.getLogger("forwardcache")

Offset = tuple[int, int]

# Characters of a text in a message.
_MOST_SHOWN = 80

# One of these is a token of nearly every vocabulary.
_TRIED = ("a", "A", "0", ".", "ab", "€")

# Long enough that two encodings of it differ, if any do.
_DRAWN = "The quick brown fox jumps over the lazy dog; internationalization, 0123456789. " * 3
_DRAWS = 4


@dataclass(frozen=True, slots=True)
class Tokens:
    """The tokens of one text.

    Attributes:
        ids: All of them, without what the tokenizer adds after the text (EOS): a model that has
            read the end goes on as if another text began.
        begin: How many of them the tokenizer adds before the text (BOS).
        offsets: For each the position of its first character in the text, and of the one after its
            last, as the tokenizer gives them; None from one that doesn't (those in Python).
        written: Gives for each the letters that the tokenizer has for it there.
    """

    ids: tuple[int, ...]
    begin: int
    offsets: Sequence[Offset] | None = None
    written: Callable[[], Sequence[str]] | None = None


class TokenReader:
    """Reads the tokens of texts from a tokenizer.

    Not safe for several threads at once: a fast tokenizer keeps settings between its calls.

    Args:
        tokenizer: The tokenizer.
        ahead: What it gave for several texts together.
        warned: What was warned of already; grows.
    """

    def __init__(self, tokenizer: Any, ahead: TextsAhead, warned: set[str]) -> None:
        self.tokenizer = tokenizer
        self._ahead = ahead
        self._warned = warned
        self._added_before: int | None = None

    def read(self, text: str, add_special_tokens: bool) -> Tokens:
        """The tokens of ``text``.

        Raises:
            InvalidInputError: the tokenizer can't read it; with the tokenizer's words.
        """
        found = self._called(text, add_special_tokens)
        ids, added = tuple(found["input_ids"]), found["special_tokens_mask"]
        own = [index for index, special in enumerate(added) if not special]
        if not own:
            before = self._before(ids) if ids else 0
            # What isn't BOS marks a text, and there is none.
            bos = self.tokenizer.bos_token_id
            begin = next((n for n in range(before, 0, -1) if ids[n - 1] == bos), 0)
            return Tokens(ids[:begin], begin)
        offsets = found.get("offset_mapping")
        written = found.get("written", getattr(found, "tokens", None))
        tokens = Tokens(ids[: own[-1] + 1], own[0], offsets, written)
        self._warn_of_two_beginnings(tokens)
        return tokens

    def text_of(self, ids: Sequence[int]) -> str | None:
        """The text of ``ids``, special tokens included; None where the tokenizer doesn't tell."""
        with suppress(InvalidInputError), blamed_on_item("can't write tokens"):
            return str(
                self.tokenizer.decode(
                    list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False
                )
            )
        return None

    @property
    def normalize(self) -> Callable[[str], str] | None:
        """What the tokenizer does to a text first (NFC, lower case); None for nothing known."""
        inner = getattr(self.tokenizer, "backend_tokenizer", None)
        return getattr(getattr(inner, "normalizer", None), "normalize_str", None)

    def _called(self, text: str, add_special_tokens: bool) -> Any:
        if (known := self._ahead.take(text, add_special_tokens)) is not None:
            return known
        with blamed_on_item(f"the tokenizer can't read {shown(text)}"):
            return self.tokenizer(
                text,
                add_special_tokens=add_special_tokens,
                return_special_tokens_mask=True,
                return_offsets_mapping=bool(getattr(self.tokenizer, "is_fast", False)),
                truncation=False,
                padding=False,
                verbose=False,
            )

    def _before(self, added: tuple[int, ...]) -> int:
        """How many tokens come before a text, where all that are there are ``added``.

        An id doesn't tell, since one token may be BOS and EOS; any text with a token of its own
        does.
        """
        if self._added_before is None:
            tried = (self._tried(text) for text in _TRIED)
            leading = int(added[0] == self.tokenizer.bos_token_id)
            self._added_before = next((begin for begin in tried if begin is not None), leading)
        return self._added_before

    def _tried(self, text: str) -> int | None:
        try:
            added = self._called(text, True)["special_tokens_mask"]
        except InvalidInputError:
            return None
        return next((index for index, special in enumerate(added) if not special), None)

    def _warn_of_two_beginnings(self, tokens: Tokens) -> None:
        begin = tokens.begin
        doubled = begin > 0 and tokens.ids[begin] == tokens.ids[begin - 1]
        if doubled and tokens.ids[begin] == self.tokenizer.bos_token_id:
            self._warn(
                "two_beginnings",
                "a text begins with the BOS token that the tokenizer adds as well, so the model "
                "reads it twice; leave it out of the text, or set add_special_tokens=False",
            )

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self._warned:
            self._warned.add(kind)
            _log.warning(message)


def refuse_drawing(tokenizer: Any) -> None:
    """Refuses a tokenizer that draws: a text has no one value then.

    Raises:
        InvalidInputError: saying what draws, and what to do.
    """
    inner = getattr(tokenizer, "backend_tokenizer", None)
    if inner is None:
        _refuse_differences(tokenizer)
        return
    model = getattr(inner, "model", None)
    dropout = getattr(model, "dropout", None)
    # At 1 every merge is left out, and always.
    if dropout and dropout < 1.0:
        raise InvalidInputError(
            f"the tokenizer draws which merges it makes (BPE dropout {dropout:.3g}), so a text has "
            "no one value: set tokenizer.backend_tokenizer.model.dropout to None"
        )
    alpha = getattr(model, "alpha", None)
    if alpha is not None and getattr(model, "nbest_size", None) != 1:
        raise InvalidInputError(
            f"the tokenizer draws among segmentations (Unigram with alpha {alpha:.3g}), so a "
            "text has no one value: build its model without alpha"
        )


def _refuse_differences(tokenizer: Any) -> None:
    """Refuses a tokenizer in Python that gives one text several tokens."""
    found: set[tuple[int, ...]] = set()
    # Of one that fails nothing can be said; each text tells for itself.
    with suppress(InvalidInputError), blamed_on_item("can't read a text"):
        found = {tuple(tokenizer(_DRAWN, verbose=False)["input_ids"]) for _ in range(_DRAWS)}
    if len(found) > 1:
        raise InvalidInputError(
            f"the tokenizer gave one text {len(found)} different encodings of {_DRAWS}, so a text "
            "has no one value: turn its sampling off (enable_sampling=False, no dropout)"
        )


def shown(item: Any) -> str:
    """``item`` as a message has it: a long text's beginning and end."""
    writer = reprlib.Repr()
    writer.maxstring = writer.maxother = _MOST_SHOWN
    return writer.repr(item)
