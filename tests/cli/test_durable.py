"""Files reach the disk, on Linux and as macOS wants it."""

import errno
import fcntl
import os
from pathlib import Path

import pytest

from forwardcache.jobs.durable import to_disk
from forwardcache.jobs.results import PartFile
from forwardcache.jobs.whole_file import whole_file

FULL = 51
"""macOS's number of F_FULLFSYNC."""


class Disk:
    """Notes what is asked of it in place of the system's calls."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, full: bool, refuses: bool = False):
        self.asked: list[str] = []
        self._refuses = refuses
        if full:
            monkeypatch.setattr(fcntl, "F_FULLFSYNC", FULL, raising=False)
        monkeypatch.setattr(fcntl, "fcntl", self._fcntl)
        monkeypatch.setattr(os, "fsync", lambda _: self.asked.append("fsync"))

    def _fcntl(self, _: int, command: int) -> int:
        assert command == FULL
        self.asked.append("full")
        if self._refuses:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return 0


@pytest.mark.parametrize(
    ("full", "refuses", "asked"),
    [(False, False, ["fsync"]), (True, False, ["full"]), (True, True, ["full", "fsync"])],
)
def test_it_goes_through_the_drive_where_that_can_be_asked(
    monkeypatch: pytest.MonkeyPatch, full: bool, refuses: bool, asked: list[str]
) -> None:
    disk = Disk(monkeypatch, full=full, refuses=refuses)
    to_disk(0)
    assert disk.asked == asked


def test_rows_and_whole_files_are_brought_through_the_drive(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    disk = Disk(monkeypatch, full=True)
    part = PartFile(tmp_path / "rows.jsonl", {}, force=False, resume=False)
    part.write([{"prompt_index": 0}])
    part.publish()
    part.close()
    assert disk.asked == ["full", "full"], "the rows, and the folder with their name"
    with whole_file(tmp_path / "trace.json", force=False) as file:
        file.write(b"{}")
    assert disk.asked == ["full"] * 3
