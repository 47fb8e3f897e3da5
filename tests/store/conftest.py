"""Time enough for a busy machine, where a test is not about time."""

from functools import partial

import pytest

from forwardcache.store import link
from forwardcache.store import redis as redis_store
from forwardcache.store import server as store_server
from forwardcache.store.breaker import Breaker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The seconds by which stores leave a server alone; they pass only when a test says so."""
    now = [0.0]
    for module in (link, store_server):
        monkeypatch.setattr(module, "Breaker", partial(Breaker, lambda: now[0]))
    return now


@pytest.fixture
def patient(clock: list[float], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server on loopback has a minute to answer, none is late, and no rest ends by itself."""
    monkeypatch.setattr(redis_store, "_CALL_S", 60.0)
    monkeypatch.setattr(store_server, "_SURVEY_S", 60.0)
    monkeypatch.setattr(link, "_TRIP_S", 60.0)
