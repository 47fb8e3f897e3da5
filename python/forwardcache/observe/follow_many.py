"""The events of the traces of many workers that grow, a look at a time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from math import inf
from pathlib import Path

from forwardcache._event import TraceLine
from forwardcache.observe.follow import LOOK_BYTES, Follower

_LEAST_BYTES = 1 << 16


class Followers:
    """Reads what came to several traces since the last look; one file is open at a time.

    Args:
        find: The traces that are there and aren't among those that it is given; asked at each look.

    Attributes:
        starts: How often reading began at the beginning, which is once for all of them: where one
            was replaced or cut, all are read again. 0 as long as there is none.
        last_ts: The latest time of an event, for each trace that has one.
    """

    def __init__(self, find: Callable[[Collection[Path]], Sequence[Path]]) -> None:
        self.starts = 0
        self.last_ts: dict[Path, float] = {}
        self._find = find
        self._followers: dict[Path, Follower] = {}

    @property
    def traces(self) -> int:
        """How many there are."""
        return len(self._followers)

    @property
    def skipped(self) -> Counter[str]:
        """Lines that can't be used, by reason, since the last start."""
        return sum((each.skipped for each in self._followers.values()), Counter())

    @property
    def lost(self) -> int:
        """Events that are missing, as the traces say."""
        return sum(each.lost for each in self._followers.values())

    @property
    def behind_bytes(self) -> int:
        """Bytes that were there at the last look and were not read yet."""
        return sum(each.behind_bytes for each in self._followers.values())

    def look(self) -> Iterator[TraceLine]:
        """The next events of each trace.

        Raises:
            OSError: a file can't be opened or read.
        """
        if any(each.is_replaced for each in self._followers.values()):
            self._followers.clear()
            self.last_ts.clear()
            self.starts += 1
        for path in self._find(self._followers):
            self._followers[path] = Follower(path)
            self.starts = self.starts or 1
        most = max(_LEAST_BYTES, LOOK_BYTES // max(1, self.traces))
        for path, follower in self._followers.items():
            for event in follower.look(most):
                # A time that is no number is later than nothing.
                if event.ts > self.last_ts.get(path, -inf):
                    self.last_ts[path] = event.ts
                yield event
            follower.leave()

    def close(self) -> None:
        """Close what is open."""
        for each in self._followers.values():
            each.close()
