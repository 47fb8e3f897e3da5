"""Whether a tokenizer still is as it was, and what it is in words.

Not seen: the inside of a Rust tokenizer's vocabulary, merges or added tokens where their number
stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import lru_cache
from operator import attrgetter
from typing import Any

from forwardcache.hf.model.settings import as_json, kept

_TOKENIZER_NOTES = ("_tokenizer", "deprecation_warnings")
# Writing out the whole model would take as long as a short forward.
_TOKENIZER_MODEL_FIELDS = (
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
    "dropout",
    "alpha",
    "nbest_size",
)


class TokenizerWatch:
    """A tokenizer's settings at one moment, and whether they still are the same."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        fields = _fields_of(tokenizer)
        self._backend = fields.get("_tokenizer")
        # Those that encoding itself writes to are compared by identity.
        own = {key: fields[key] for key in _TOKENIZER_NOTES if key in fields}
        self._fields = kept(fields) | own
        self._parts = self._look()

    def holds(self, tokenizer: Any) -> bool:
        """Whether it is this tokenizer, and nothing about it has changed."""
        return (
            tokenizer is self._tokenizer
            and _fields_of(tokenizer) == self._fields
            and self._look() == self._parts
        )

    def _look(self) -> tuple[Any, ...]:
        # The Rust tokenizer's own text has the truncation that every call sets anew.
        backend = self._backend
        model = getattr(backend, "model", None)
        parts = (
            _written(getattr(backend, "normalizer", None)),
            _written(getattr(backend, "pre_tokenizer", None)),
            _written(getattr(backend, "post_processor", None)),
        )
        kind: Any = type(model)
        return _size(self._tokenizer), kind, _settings_of(kind)(model), parts


def _written(part: Any) -> bytes | str | None:
    """A part of a tokenizer in words: a Rust one as it is saved, which is quicker than its text."""
    if part is None:
        return None
    saved = part.__getstate__()
    return saved if type(saved) is bytes else repr(part)


@lru_cache(maxsize=64)
def _settings_of(kind: Any) -> Callable[[Any], Any]:
    """What reads the settings of a model of that class."""
    if kind.__module__.partition(".")[0] == "tokenizers":
        # Its attributes are those of its class, and one that isn't there takes long to miss.
        names = [name for name in _TOKENIZER_MODEL_FIELDS if hasattr(kind, name)]
        return attrgetter(*names) if names else lambda _: None
    return lambda model: [getattr(model, name, None) for name in _TOKENIZER_MODEL_FIELDS]


def _fields_of(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer's settings; one of the user's own may have none (slots)."""
    return getattr(tokenizer, "__dict__", {})


def _size(tokenizer: Any) -> int | None:
    """Number of tokens; one of the user's own may not tell."""
    try:
        return len(tokenizer)
    except TypeError:
        return None


def described_tokenizer(tokenizer: Any) -> Iterator[bytes] | None:
    """A tokenizer's behaviour in words that mean the same in every process; None if unknown."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    settings = json.loads(backend.to_str())
    # Every call sets these anew.
    settings |= {"truncation": None, "padding": None}
    fields = {
        key: _fields_of(tokenizer).get(key) for key in ("split_special_tokens", "chat_template")
    }
    special = tokenizer.special_tokens_map
    return iter([as_json([type(tokenizer).__name__, settings, fields, special])])


__all__ = ["TokenizerWatch", "described_tokenizer"]
