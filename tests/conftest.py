"""Settings of every test, and what pytest-run-parallel has to know.

The plugin runs each test in several threads at once, and hands one and the same fixture to all of
them: a test whose fixture is an object that it changes and looks at says nothing there. Tests that
change or measure the process itself are marked where they stand. Without the plugin the mark does
nothing.
"""

import pytest
from hypothesis import settings

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

CHANGED_BY_TESTS = {"inst", "watched"}
"""Fixtures whose value a test changes, and expects to be alone with."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that share such a fixture."""
    for item in items:
        shared = CHANGED_BY_TESTS.intersection(getattr(item, "fixturenames", ()))
        if shared:
            reason = f"counts on being alone with {', '.join(sorted(shared))}"
            item.add_marker(pytest.mark.thread_unsafe(reason=reason))
