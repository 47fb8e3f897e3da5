"""What of a model's configuration makes a long text another case than a short one.

Windows, chunks and compressed blocks come into play only once a text is longer than they are, so
whoever measures a model on short rows has to know how long those must be. Stretched RoPE
("longrope", "dynamic") gives all positions other frequencies once a text is longer than the
original context, so keys kept from before are no longer those that the whole text would have.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MOST = 256
"""Longest window that a measurement goes beyond: a few forwards of that length are short."""

_LIMITS = re.compile(r"window|chunk|block_size|index_topk|compress")
_NO_LIMITS = re.compile(r"feed_forward|layers?$|layers_")
_STRETCHED = ("longrope", "dynamic")


@dataclass(frozen=True, slots=True)
class Switch:
    """Where the frequencies of a model's RoPE change.

    Attributes:
        longest: Most tokens with the first frequencies.
        keeps_changing: Whether each length beyond it has frequencies of its own.
    """

    longest: int
    keeps_changing: bool


def limits(config: Any) -> list[int]:
    """Lengths, by rising size, beyond which the model treats a text otherwise than before."""
    text = _text(config)
    most = getattr(text, "max_position_embeddings", None)
    found = {value for name, value in _numbers(text.to_dict()) if _is_limit(name) and value > 1}
    switched = switch(config)
    if switched is not None:
        found.add(switched.longest)
    return sorted(value for value in found if not isinstance(most, int) or value < most)


def switch(config: Any) -> Switch | None:
    """Where the frequencies of the model's RoPE change; None if they never do."""
    text = _text(config)
    settings = dict(_groups(text.to_dict()))
    kinds = {
        str(group.get("rope_type", group.get("type")))
        for name, group in settings.items()
        if name.startswith(("rope", "rotary"))
    }
    if not any(word in kind for kind in kinds for word in _STRETCHED):
        return None
    name = "original_max_position_embeddings"
    originals = [group[name] for group in settings.values() if isinstance(group.get(name), int)]
    whole = getattr(text, "max_position_embeddings", None)
    fallback = [whole] if isinstance(whole, int) else [0]
    return Switch(min(originals or fallback), any("dynamic" in kind for kind in kinds))


def special_ids(config: Any) -> frozenset[int]:
    """Tokens to which the configuration gives a meaning of their own."""
    return frozenset(
        value
        for name, value in _numbers(config.to_dict())
        if name.endswith(("token_id", "token_index", "token_ids"))
    )


def _text(config: Any) -> Any:
    return config.get_text_config()


def _is_limit(name: str) -> bool:
    return bool(_LIMITS.search(name)) and not _NO_LIMITS.search(name)


def _numbers(settings: Mapping[str, Any]) -> Iterator[tuple[str, int]]:
    """Every whole number in a configuration, with the name that it stands under."""
    for name, value in settings.items():
        values = value if isinstance(value, list | tuple) else [value]
        for each in values:
            if isinstance(each, Mapping):
                yield from _numbers(each)
            elif isinstance(each, int) and not isinstance(each, bool):
                yield str(name), each


def _groups(settings: Mapping[str, Any], name: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """A configuration and every group of settings in it, by a path of names."""
    yield name, settings
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _groups(value, f"{name}.{key}" if name else str(key))
