"""Time enough for a busy machine, where a test is not about time."""

import pytest

from forwardcache.store import link
from forwardcache.store import redis as redis_store


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on loopback has five seconds to answer, and no answer is late."""
    monkeypatch.setattr(redis_store, "_CALL_S", 5.0)
    monkeypatch.setattr(link, "_TRIP_S", 5.0)
