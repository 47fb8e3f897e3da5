"""Which implementation a test runs on.

``api`` is the whole drop-in module, once in Rust and once as the plain-Python model, so that the
model is held to the contract too. ``rust`` is for what the model leaves out.
"""

import importlib
from types import ModuleType

import pytest


@pytest.fixture(
    params=["forwardcache.instrumentation", "tests.instrumentation.plain"], ids=["rust", "plain"]
)
def api(request: pytest.FixtureRequest) -> ModuleType:
    return importlib.import_module(request.param)


@pytest.fixture
def rust() -> ModuleType:
    return importlib.import_module("forwardcache.instrumentation")
