"""One tiny model for all servers of these tests."""

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest
import uvicorn

from forwardcache.conformance.server import ServerReport, check_server
from forwardcache.conformance.server.session import TEXTS
from forwardcache.hf import HFBackend
from tests.conformance.server.app import (
    NAME,
    Direct,
    Handles,
    Oracle,
    Right,
    asgi,
    model,
    tokenizer,
)
from tests.hf import tiny
from tests.patience import PATIENCE_S

Check = Callable[..., ServerReport]
Serve = Callable[[Right], str]


@pytest.fixture(scope="session")
def oracle() -> Iterator[Oracle]:
    backend = tiny.measured(lambda: HFBackend(model(), tokenizer()))
    yield Oracle(backend)
    backend.close()


@pytest.fixture
def check(oracle: Oracle) -> Check:
    """The report on a server of one class; all failures, unless asked otherwise."""

    def run(kind: type[Right], **options: Any) -> ServerReport:
        asked = {
            "reference": oracle.reference if kind.is_the_model else None,
            "texts": TEXTS[:2],
            "longest": 32,
            "concurrency": 3,
            "retries": 0,
            "report_all": True,
            **options,
        }
        transport = Direct(kind(oracle))
        return check_server("http://server", model_name=NAME, transport=transport, **asked)

    return run


@contextmanager
def listening(server: Handles) -> Iterator[str]:
    """The address of ``server`` on a free port of this machine."""
    config = uvicorn.Config(
        asgi(server), port=0, interface="asgi3", log_level="critical", lifespan="off"
    )
    web = uvicorn.Server(config)
    thread = threading.Thread(target=web.run, daemon=True)
    thread.start()
    try:
        while not web.started and thread.is_alive():
            threading.Event().wait(0.005)
        port = web.servers[0].sockets[0].getsockname()[1]
        yield f"http://127.0.0.1:{port}"
    finally:
        web.should_exit = True
        thread.join(PATIENCE_S)


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves over a connection until the test ends; gives the address."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(listening(server))
