"""``forwardcache trace watch``: one frame, and a run followed through a terminal."""

from __future__ import annotations

import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pyte
import pytest

from forwardcache import BackendInstrumentation
from forwardcache.observe.follow import Follower
from forwardcache.observe.recent import Recent
from tests.cli.conftest import Run
from tests.cli.test_trace import line, trace
from tests.patience import PATIENCE_S

COLUMNS, LINES = 100, 30


class Terminal:
    """A command whose standard output is a terminal, and what stands on its screen."""

    def __init__(self, process: subprocess.Popen[bytes], end: int) -> None:
        self.process = process
        self._end = end
        self._screen = pyte.Screen(COLUMNS, LINES)
        self._stream = pyte.ByteStream(self._screen)

    @property
    def text(self) -> str:
        return "\n".join(row.rstrip() for row in self._screen.display)

    @property
    def cursor_is_hidden(self) -> bool:
        return bool(self._screen.cursor.hidden)

    def read(self, seconds: float = 0.05) -> bool:
        """Draw what came; False when the command has closed its end."""
        if select.select([self._end], [], [], seconds)[0]:
            try:
                data = os.read(self._end, 1 << 16)
            except OSError:
                return False
            self._stream.feed(data)
        return True

    def wait_for(self, shown: Callable[[str], bool]) -> str:
        """The screen, once ``shown`` holds of it."""
        until = time.monotonic() + PATIENCE_S
        while not shown(self.text):
            assert time.monotonic() < until, self.text
            assert self.read(), self.text
        return self.text

    def interrupt(self) -> int:
        """Ctrl-C as a terminal gives it; the exit status."""
        os.write(self._end, b"\x03")
        while self.read():
            pass
        return self.process.wait(PATIENCE_S)


@contextmanager
def watching(path: Path, *options: str) -> Iterator[Terminal]:
    end, theirs = pty.openpty()
    ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", LINES, COLUMNS, 0, 0))

    def take_terminal() -> None:
        os.setsid()
        ioctl(0, termios.TIOCSCTTY, 0)

    process = subprocess.Popen(
        [sys.executable, "-m", "forwardcache", "trace", "watch", str(path), *options],
        stdin=theirs, stdout=theirs, stderr=theirs,
        preexec_fn=take_terminal,  # noqa: PLW1509 - two system calls, which no thread can hold up
        env=os.environ | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    try:
        yield Terminal(process, end)
    finally:
        process.kill()
        process.wait()
        os.close(end)


def test_the_slowest_fit_a_terminal_of_80_columns(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    slow: dict[str, Any] = {"view_id": "scaled_0.50", "op": "next_token_dist", "hit": False}
    slow |= {"prompt_hash": "ebe768109533", "probe": "first run", "batch": 1, "batch_size": 59}
    path = trace(tmp_path / "t", line(wall_ms=1234.5, **slow))
    shown = run("trace", "watch", path, "--once").out.splitlines()
    assert shown[-1].split() == [
        "1,234.5", "scaled_0.50", "next_token_dist", "ebe768109533", "first", "run",
        "batch", "of", "59",
    ]  # fmt: skip
    assert max(map(len, shown[-2:])) <= 80


def test_one_frame_has_rate_passes_probe_and_slowest(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The path is a row of its own, which has to fit the width.
    monkeypatch.chdir(tmp_path)
    missed = {"hit": False, "probe": "mmlu", "view_id": "ft"}
    trace(
        tmp_path / "t",
        line(80.0),
        *[line(99.5, **missed, wall_ms=float(n), prompt_hash=f"{n:012x}") for n in range(4)],
        line(100.0, probe="gsm8k"),
        b"x\n",
        line(op="trace_lost", lost=2),
    )
    ended = run("trace", "watch", "t", "--once", "--slowest", "2")
    assert (ended.code, ended.err) == (0, "")
    rows = dict(row.split(None, 1) for row in ended.out.splitlines() if row)
    assert rows["probe"].strip() == "gsm8k"
    assert "rate    33.3%  (20.0% in the last 10 s)" in rows["hit"]
    assert rows["computed/s"].startswith("0.4  █")
    assert "6: 2 hits, 4 computed" in rows["events"]
    assert "skipped 1 line (not JSON: 1)" in ended.out
    assert "2 events lost" in ended.out
    slow = ended.out.splitlines()[-2:]
    assert [row.split()[:4] for row in slow] == [
        ["3.0", "ft", "next_token_dist", "000000000003"],
        ["2.0", "ft", "next_token_dist", "000000000002"],
    ]


def test_one_frame_of_an_empty_trace(run: Run, tmp_path: Path) -> None:
    ended = run("trace", "watch", trace(tmp_path / "t"), "--once")
    assert (ended.code, ended.err) == (0, "")
    assert "0: 0 hits, 0 computed" in ended.out


def test_what_cannot_be_watched_is_one_line(run: Run, tmp_path: Path) -> None:
    run("trace", "watch", tmp_path / "none", "--once").refused("none", "No such file")
    run("trace", "watch", tmp_path, "--once").refused("no trace is in this folder")
    run("trace", "watch", trace(tmp_path / "t")).refused("no terminal", "--once")
    run("trace", "watch", tmp_path / "t", "--interval", "0").refused("--interval")


def test_names_that_move_the_cursor_are_shown_as_they_are(run: Run, tmp_path: Path) -> None:
    named: dict[str, Any] = {"probe": "[red]\x1b[2J", "view_id": "\x07\ud800", "error": "\x1b"}
    ended = run("trace", "watch", trace(tmp_path / "t", line(hit=False, **named)), "--once")
    assert ended.code == 0, ended.err
    assert r"[red]\x1b[2J" in ended.out
    assert "\x1b" not in ended.out


def test_a_run_is_followed_from_before_its_trace_is_there(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with watching(path, "--interval", "0.05") as terminal:
        terminal.wait_for(lambda text: "waiting for the file" in text)
        with BackendInstrumentation(trace_path=path) as inst:
            inst.set_current_probe("first")
            inst.cached("op", "base", "a", 8, lambda: time.sleep(0.02))
            # The writer is still open: its journal is beside the file.
            terminal.wait_for(lambda text: "1: 0 hits, 1 computed" in text)
            inst.set_current_probe("second")
            for _ in range(3):
                inst.cached("op", "base", "a", 8, lambda: 1)
            text = terminal.wait_for(lambda text: "4: 3 hits, 1 computed" in text)
        assert "75.0%" in text
        assert "second" in text
        # One frame, drawn over the one before.
        assert text.count("computed/s") == 1
        assert terminal.cursor_is_hidden
        assert terminal.interrupt() == 130
        assert "forwardcache: interrupted" in terminal.text
        assert "Traceback" not in terminal.text
        assert not terminal.cursor_is_hidden


def test_a_run_that_stopped_is_said_to_be_quiet(tmp_path: Path) -> None:
    path = trace(tmp_path / "t", line(time.time() - 100))
    with watching(path, "--interval", "0.05") as terminal:
        terminal.wait_for(lambda text: "nothing new for 10" in text)


def test_a_trace_that_is_replaced_is_counted_anew(tmp_path: Path) -> None:
    path = trace(tmp_path / "t", *[line(hit=False)] * 5)
    with watching(path, "--interval", "0.05") as terminal:
        terminal.wait_for(lambda text: "5: 0 hits, 5 computed" in text)
        trace(tmp_path / "other", line(), line()).replace(path)
        assert "slowest" not in terminal.wait_for(lambda text: "2: 2 hits, 0 computed" in text)
        trace(path)
        terminal.wait_for(lambda text: "0: 0 hits, 0 computed" in text)


def test_a_signal_that_no_terminal_sent_ends_it_too(tmp_path: Path) -> None:
    with watching(trace(tmp_path / "t", line())) as terminal:
        terminal.wait_for(lambda text: "1 hit" in text)
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.process.wait(PATIENCE_S) == 130


def test_a_follower_gives_each_event_once_and_only_whole_lines(tmp_path: Path) -> None:
    path, whole = tmp_path / "t", line(1.0) + line(2.0)
    follower = Follower(path)
    assert (list(follower.look()), follower.starts) == ([], 0)
    seen: list[float] = []
    with path.open("ab", buffering=0) as file:
        for at in range(len(whole)):
            file.write(whole[at : at + 1])
            seen += [event.ts for event in follower.look()]
            assert len(seen) == whole[: at + 1].count(b"\n")
    assert seen == [1.0, 2.0]
    assert not follower.skipped


@pytest.mark.parametrize("replace", [True, False])
def test_a_trace_that_is_replaced_or_cut_is_read_anew(tmp_path: Path, replace: bool) -> None:
    path = trace(tmp_path / "t", line(1.0), b"x\n", line(op="trace_lost", lost=1), line(2.0)[:-1])
    follower = Follower(path)
    assert len(list(follower.look())) == 1
    assert (follower.starts, follower.lost, follower.skipped.total()) == (1, 1, 1)
    if replace:
        trace(tmp_path / "other", *[line(3.0)] * 9).replace(path)
    else:
        trace(path, line(3.0))
    assert {event.ts for event in follower.look()} == {3.0}
    assert (follower.starts, follower.lost, follower.skipped.total()) == (2, 0, 0)


def test_a_line_without_an_end_is_never_held(tmp_path: Path) -> None:
    path, follower = tmp_path / "t", Follower(tmp_path / "t")
    with path.open("ab", buffering=0) as file:
        for _ in range(5):
            file.write(b"a" * (1 << 19))
            assert not list(follower.look())
        file.write(b"\n" + line(4.0))
    assert [event.ts for event in follower.look()] == [4.0]
    assert follower.skipped == {"line too long": 1}
    assert len(follower._rest) == 0


def test_rates_are_of_the_last_seconds_and_memory_is_bounded() -> None:
    from tests.observe.test_chrome import line as event

    recent = Recent(slowest=3)
    for second in range(1000):
        for _ in range(second % 5):
            recent.add(event(1000.5 + second, float(second)))
    assert recent.computed_a_second(1999.9) == 2.0
    assert recent.computed_a_second(2500.0) == 0.0
    assert recent.history(1999.9)[-5:] == [0, 1, 2, 3, 4]
    assert len(recent._seconds) < 300
    assert [slow.wall_ms for slow in recent.slowest()] == [999.0, 999.0, 999.0]
    early = Recent(slowest=0)
    early.add(event(100.0))
    early.add(event(101.0))
    assert early.computed_a_second(102.0) == 1.0
    assert not early.slowest()
