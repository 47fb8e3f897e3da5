"""How the tests are spread over processes, and what they say at the end.

A file's tests stay together in one process, since they share what is dear to make; those that each
start processes of their own may go anywhere.
"""

import pytest

from tests import proof

APART = ("tests/docs/test_pages.py", "tests/hf/test_policies.py", "tests/trace/test_forks.py")
ON_RAY = ("tests/distributed/", "many-machines.md")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.nodeid.partition("::")[0]
        if any(name in item.nodeid for name in ON_RAY):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif file not in APART:
            item.add_marker(pytest.mark.xdist_group(file))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in proof.lines():
        terminalreporter.write_line(line)
