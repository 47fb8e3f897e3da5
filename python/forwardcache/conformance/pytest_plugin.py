"""The pytest plugin: options of the suite, and the end of an engine after its last item.

It is loaded by every run of pytest where the package is installed, so it imports nothing else of
it, and adds its options only where the suite is asked for: ``--engine`` may be someone else's name.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

_PACKAGE = "forwardcache.conformance"
_OPTIONS = {
    "--engine": {"action": "append", "metavar": "PKG.MOD:FACTORY", "help": "engine to check"},
    "--engine-profile": {"default": "seed", "help": "profile of checks: seed or strict"},
    "--cancel-deadline": {"type": float, "default": 2.0, "help": "seconds for a stopped stream"},
    "--check-timeout": {"type": float, "default": 120.0, "help": "seconds for one check"},
}


def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: Sequence[str]
) -> None:
    """Add the suite's options where the command line names it."""
    if not any(_names_suite(arg) for arg in args):
        return
    group = parser.getgroup(_PACKAGE, "conformance of streaming LLM engines")
    for name, option in _OPTIONS.items():
        group.addoption(name, **option)  # type: ignore[arg-type]  # one table for all kinds


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Put an engine away when the next item is not about it."""
    session = _session_of(item)
    if session is not None and session is not _session_of(nextitem):
        session.close()


def _names_suite(arg: str) -> bool:
    path = arg.partition("::")[0]
    return path == f"{_PACKAGE}.suite" or path.endswith("forwardcache/conformance/suite.py")


def _session_of(item: pytest.Item | None) -> Any:
    """The engine session of an item of ``parametrize_with_checks``; None for any other item."""
    if f"{_PACKAGE}.parametrize" not in sys.modules:
        return None
    check = getattr(getattr(item, "callspec", None), "params", {}).get("check")
    return getattr(check, "session", None)
