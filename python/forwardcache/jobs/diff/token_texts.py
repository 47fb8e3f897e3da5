"""Token ids as text, by a loaded tokenizer; each id is decoded once."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import Any

_WORD_START = "\u2581"


class TokenTexts:
    """The text of tokens, one by one.

    A token that is a part of a character has the replacement character for its text.

    Args:
        tokenizer: As transformers has them.
    """

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, str] = {}

    def of(self, token_ids: Iterable[int]) -> list[str]:
        """The text of each token.

        Args:
            token_ids: Ids of the tokenizer's vocabulary.
        """
        return [self._of_one(token_id) for token_id in token_ids]

    def _of_one(self, token_id: int) -> str:
        known = self._known.get(token_id)
        if known is None:
            known = self._known[token_id] = self._decoded(token_id)
        return known

    def _decoded(self, token_id: int) -> str:
        # Decoders take the space of a text's first word for one that was added.
        with suppress(Exception):  # a tokenizer of one's own may raise anything, or have no pieces
            piece = self._tokenizer.convert_ids_to_tokens(token_id)
            if isinstance(piece, str) and piece.startswith(_WORD_START):
                return piece.replace(_WORD_START, " ")
        return str(self._tokenizer.decode([token_id], skip_special_tokens=False))
