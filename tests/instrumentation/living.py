"""Values that tell how many of them are alive."""

import weakref
from collections.abc import Hashable


class Value:
    """What was computed for a key."""

    def __init__(self, key: Hashable) -> None:
        self.key = key


class Living:
    """Makes values and counts, by weak references, those that are still alive."""

    def __init__(self) -> None:
        self._references: set[weakref.ref[Value]] = set()

    def make(self, key: Hashable = None) -> Value:
        value = Value(key)
        # Adding to a set and discarding from it are single steps for other threads.
        self._references.add(weakref.ref(value, self._references.discard))
        return value

    def __len__(self) -> int:
        return len(self._references)
