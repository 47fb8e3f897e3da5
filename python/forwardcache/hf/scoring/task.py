"""One item of a scoring call on its way through the model."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from forwardcache.hf.batch.row import Encoded


class Task:
    """One item on its way: what the caller gave, and its tokens.

    Args:
        item: What the caller gave.
        encoded: Its tokens, or what gives them when they are first asked for: a value that is found
            needs none.
        key: The item in the cache's key.

    Attributes:
        key: As given.
    """

    __slots__ = ("_encoded", "_item", "key")

    def __init__(self, item: Any, encoded: Encoded | Callable[[], Encoded], key: Any) -> None:
        self._item = item
        self._encoded = encoded
        self.key = key

    @property
    def item(self) -> Any:
        """What the caller gave."""
        return self._item

    @property
    def encoded(self) -> Encoded:
        """The item's tokens."""
        if not isinstance(self._encoded, Encoded):
            self._encoded = self._encoded()
        return self._encoded
