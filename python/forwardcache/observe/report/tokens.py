"""Token ids as text, by a tokenizer's file alone: nothing is loaded from elsewhere or executed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

from forwardcache.errors import InvalidInputError
from forwardcache.extras import extra_named

with extra_named("tokens as text"):
    from tokenizers import Tokenizer

TokenText: TypeAlias = Callable[[int], str | None]

_FILE = "tokenizer.json"
_WORD_START = "\u2581"
_NO_CHARACTER = "\ufffd"


def token_text(folder: Path) -> TokenText:
    """What tells the text of a token of the tokenizer in ``folder``.

    Args:
        folder: A model's or tokenizer's folder, with its ``tokenizer.json``.

    Returns:
        A function from a token's id to its text in double quotes, so that white space is seen, with
        what can't be printed escaped; a part of a character is as the vocabulary writes it. None
        for an id that the tokenizer doesn't have.

    Raises:
        InvalidInputError: the folder has no such file, or one that can't be read.
    """
    file = folder / _FILE
    if not file.is_file():
        raise InvalidInputError(f"--tokenizer {folder}: there is no {_FILE} in it")
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises Exception itself
        raise InvalidInputError(f"--tokenizer {folder}: {error}") from error

    def text(token_id: int) -> str | None:
        piece = tokenizer.id_to_token(token_id)
        return None if piece is None else _quoted(_decoded(tokenizer, token_id, piece))

    return text


def _decoded(tokenizer: Tokenizer, token_id: int, piece: str) -> str:
    # Decoders take the space of a text's first word for one that was added.
    if piece.startswith(_WORD_START):
        return piece.replace(_WORD_START, " ")
    decoded = tokenizer.decode([token_id], skip_special_tokens=False)
    return piece if not decoded or _NO_CHARACTER in decoded else decoded


def _quoted(text: str) -> str:
    shown = json.dumps(text, ensure_ascii=False)
    return "".join(one if one.isprintable() else json.dumps(one)[1:-1] for one in shown)
