"""Short texts read together: a call of a fast tokenizer costs more than the tokens of one of them.

The same arguments give the same tokens, one text at a time or many, so this decides nothing. Texts
that can't be read together, such as those in a call with one that isn't Unicode, are read one by
one where they are asked for, and only that tells what is wrong.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

from forwardcache.errors import InvalidInputError
from forwardcache.hf.text.item import blamed_on_item

# Texts in a call, and characters of a text beyond which reading it is what takes the time.
_TOGETHER = 256
_SHORT = 2000


def groups(count: int) -> Iterator[range]:
    """The indices of ``count`` items, as many at once as are read together."""
    for start in range(0, count, _TOGETHER):
        yield range(start, min(start + _TOGETHER, count))


class TextsAhead:
    """What a tokenizer gave for several texts, until each of them is asked for."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._read: dict[tuple[str, bool], dict[str, Any]] = {}

    def read(self, texts: Iterable[str], *, add_special_tokens: bool, offsets: bool) -> None:
        """Reads the short ones together, if the tokenizer is one that gains by it.

        Args:
            texts: At most one of ``groups``; what was read before and not taken is forgotten.
            add_special_tokens: As of the tokenizer.
            offsets: Whether the characters of each token are asked for.
        """
        self._read.clear()
        short = list(dict.fromkeys(text for text in texts if len(text) <= _SHORT))
        if len(short) < 2 or not getattr(self._tokenizer, "is_fast", False):
            return
        # Whatever it raises is about one text, and is raised again where that one is read.
        with suppress(InvalidInputError), blamed_on_item("can't read ahead"):
            found = self._tokenizer(
                short,
                add_special_tokens=add_special_tokens,
                return_special_tokens_mask=True,
                return_offsets_mapping=offsets,
                truncation=False,
                padding=False,
                verbose=False,
            )
            names = ("input_ids", "special_tokens_mask", *(("offset_mapping",) * offsets))
            each = zip(*(found[name] for name in names), strict=True)
            self._read = {
                (text, add_special_tokens): {
                    **dict(zip(names, columns, strict=True)),
                    "written": partial(found.tokens, index),
                }
                for index, (text, columns) in enumerate(zip(short, each, strict=True))
            }

    def take(self, text: str, add_special_tokens: bool) -> dict[str, Any] | None:
        """What the tokenizer gave for ``text``, with its letters ``written``; None to ask it."""
        return self._read.pop((text, add_special_tokens), None)
