"""Processes that tests start, and the layer of faults."""

from collections.abc import Iterator

import pytest

from tests.trace import faults
from tests.trace.fork_server import ForkServer


@pytest.fixture(scope="module")
def server() -> Iterator[ForkServer]:
    with ForkServer() as server:
        yield server


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ForkServer]:
    """A server whose processes can be given faults of the system."""
    shim = faults.built_shim(tmp_path_factory.mktemp("shim"))
    with ForkServer({"LD_PRELOAD": str(shim)}) as server:
        yield server
