"""The miss ratio curve of several sessions, each of which has a cache of its own."""

from __future__ import annotations

from collections import defaultdict
from operator import attrgetter

from forwardcache._core import _Curve
from forwardcache._event import TraceLine

_run_of = attrgetter("run")


class SessionCurves:
    """Uses by the size from which on they hit, in a cache of that size in each session.

    A key is never shared by sessions, so what another one asks for in between pushes nothing out.
    Memory grows with the distinct keys of the sessions that go on; those of sessions that
    :meth:`end_sessions` has ended are only counted.
    """

    def __init__(self) -> None:
        self._open: dict[str | None, _Curve] = {}
        self._gains: dict[int, tuple[int, float]] = {}
        self._uses, self._seconds, self._without_key = 0, 0.0, 0

    def add(self, events: list[TraceLine]) -> None:
        """Count events, in the order of use."""
        if len({*map(_run_of, events)}) == 1:
            self._of(events[0].run).add(events)
            return
        by_run: defaultdict[str | None, list[TraceLine]] = defaultdict(list)
        for event in events:
            by_run[event.run].append(event)
        for run, own in by_run.items():
            self._of(run).add(own)

    def _of(self, run: str | None) -> _Curve:
        if (curve := self._open.get(run)) is None:
            curve = self._open[run] = _Curve()
        return curve

    def end_sessions(self) -> None:
        """No event of the sessions so far follows."""
        for curve in self._open.values():
            uses, seconds = curve.total()
            self._uses += uses
            self._seconds += seconds
            self._without_key += curve.without_key()
            for size, hits, hit_s in curve.gains():
                known, known_s = self._gains.get(size, (0, 0.0))
                self._gains[size] = known + hits, known_s + hit_s
        self._open.clear()

    def total(self) -> tuple[int, float]:
        """Uses in the sessions that ended, and seconds that computing at each would have taken."""
        return self._uses, self._seconds

    def without_key(self) -> int:
        """Events that name no key."""
        return self._without_key

    def gains(self) -> list[tuple[int, int, float]]:
        """Sizes, with the uses and seconds that hit from each on and not below."""
        return [(size, *self._gains[size]) for size in sorted(self._gains)]
