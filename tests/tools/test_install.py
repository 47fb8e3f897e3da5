"""Claims: an installer's lines become one line on how far it is; if it fails, all are shown."""

import sys

import pytest

from tools.install import Progress, run

PIP = """\
Collecting torch>=2.6
  Downloading torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl.metadata (30 kB)
  Using cached torch-2.15.0-cp311-cp311-manylinux_2_28_x86_64.whl (1234.5 MB)
Requirement already satisfied: pip in ./lib
Downloading numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl (16.6 MB)
Installing collected packages: numpy, torch
"""


def test_files_of_packages_are_counted_and_not_their_metadata() -> None:
    progress = Progress()
    for line in PIP.splitlines()[:-1]:
        progress.note(line)
    assert progress.told(75.0).split() == [
        *("1:15", "2", "packages,", "1.3", "GB;"),
        *("fetching", "numpy-2.4.6-cp311-cp311-manylinux_2_27_x86_64.whl"),
    ]


def test_the_last_stage_says_how_many_are_installed() -> None:
    progress = Progress()
    for line in PIP.splitlines():
        progress.note(line)
    assert progress.told(130.0).endswith("installing 2 packages")


def test_an_installer_that_fails_is_shown_whole(capfd: pytest.CaptureFixture[str]) -> None:
    script = "print('looked at a'); print('ERROR: no b'); raise SystemExit(3)"
    assert run([sys.executable, "-c", script]) == 3
    assert capfd.readouterr().err.splitlines() == ["looked at a", "ERROR: no b"]


def test_one_that_succeeds_says_nothing_of_what_was_there_already(
    capfd: pytest.CaptureFixture[str],
) -> None:
    assert run([sys.executable, "-c", "print('Requirement already satisfied: a')"]) == 0
    shown = capfd.readouterr()
    assert shown.out + shown.err == ""
