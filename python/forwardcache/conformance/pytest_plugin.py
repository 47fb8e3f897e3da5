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
    "--engine-profile": {
        "default": "seed",
        "help": "profile of checks: seed, strict, encode or raw",
    },
    "--cancel-deadline": {"type": float, "default": 2.0, "help": "seconds for a stopped stream"},
    "--check-timeout": {"type": float, "default": 120.0, "help": "seconds for one check"},
    "--max-tokens": {"type": int, "default": 8, "help": "tokens of the short requests"},
    "--long-max-tokens": {"type": int, "help": "tokens of the requests that are stopped"},
    "--concurrency": {"type": int, "default": 8, "help": "how many streams run at once"},
    "--drive-abort": {"action": "store_true", "help": "call abort on stopped requests too"},
    "--expected-failures": {"metavar": "FILE", "help": "checks that are known to fail"},
}


def pytest_load_initial_conftests(
    early_config: pytest.Config, parser: pytest.Parser, args: Sequence[str]
) -> None:
    """Add the suite's options where the command line names it."""
    if not any(_names_suite(arg) for arg in args):
        return
    early_config.pluginmanager.register(_SuiteReport(), "forwardcache_suite_report")
    group = parser.getgroup(_PACKAGE, "conformance of streaming LLM engines")
    for name, option in _OPTIONS.items():
        group.addoption(name, **option)  # type: ignore[arg-type]  # one table for all kinds


def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> None:
    """Put an engine away when the next item is not about it."""
    session = _session_of(item)
    if session is not None and session is not _session_of(nextitem):
        session.close()


class _SuiteReport:
    """What the suite's run says at its end: the kit, and how much of it has run.

    Its status is that of a failure where every check was skipped.
    """

    def __init__(self) -> None:
        self._outcomes: dict[str, str] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Keep the outcome of an item of the suite; the last one that is no pass counts."""
        # The id of an item outside the root folder has no path.
        if not _names_suite(report.location[0]) or (report.when != "call" and report.passed):
            return
        expected = report.skipped and hasattr(report, "wasxfail")
        self._outcomes[report.nodeid] = "expected" if expected else report.outcome

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """A run that has judged nothing is no pass."""
        if set(self._outcomes.values()) == {"skipped"}:
            session.exitstatus = 1

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """One line with the kit's version and how many checks have run."""
        from forwardcache.conformance.kit import stamp_line

        outcomes = list(self._outcomes.values())
        terminalreporter.write_line(stamp_line("engine", outcomes))
        if set(outcomes) == {"skipped"}:
            terminalreporter.write_line("every check was skipped: that is no pass")


def _names_suite(arg: str) -> bool:
    path = arg.partition("::")[0]
    return path == f"{_PACKAGE}.suite" or path.endswith("forwardcache/conformance/suite.py")


def _session_of(item: pytest.Item | None) -> Any:
    """The engine session of an item of ``parametrize_with_checks``; None for any other item."""
    if f"{_PACKAGE}.parametrize" not in sys.modules:
        return None
    check = getattr(getattr(item, "callspec", None), "params", {}).get("check")
    return getattr(check, "session", None)
