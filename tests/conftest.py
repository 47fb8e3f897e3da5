"""Says at the end of a run what its tests have done that can be counted."""

import pytest

from tests import proof


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in proof.lines():
        terminalreporter.write_line(line)
