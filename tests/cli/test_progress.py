"""What is said while ``score`` runs.

Claims: the first line comes before the prompts are read and before torch is imported, and behind
the checks of paths and options; off a terminal a line is said at each interval, also within a
batch; a terminal has a bar with a steady label; both tell prompts, rate, hits and time left.
"""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forwardcache.cli import progress
from forwardcache.cli.interrupts import Interrupts
from forwardcache.cli.progress import RunProgress, Size, run_progress
from forwardcache.jobs.job import Job
from forwardcache.jobs.prompts import Prompt, PromptSet
from forwardcache.jobs.views import View
from tests.cli.conftest import ASSETS, Run
from tests.patience import HANG_S, PATIENCE_S
from tests.warm import WarmPython

MODEL = ["--model", str(ASSETS / "model"), "--adapter", str(ASSETS / "adapter")]
COMMAND = ["-m", "forwardcache", "score", *MODEL, "--dtype", "float32"]
FIGURES = re.compile(r"([\d,]+) of ([\d,]+) prompts, [\d,.]+ prompts/s, ([\d,]+) hits(, .* left)?")
BASE, TUNED = View("base"), View("ft")


def job_of(prompts: int, *views: View) -> Job:
    source = PromptSet("p", tuple(Prompt(at, "text") for at in range(1, prompts + 1)), sha256="")
    return Job(source, [10] * prompts, "next_token_dist", views, 8, 8)


def test_the_first_line_is_said_before_torch_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch is imported')")
    path = f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    ended = subprocess.run(
        [sys.executable, *COMMAND, "--prompts", str(ASSETS / "prompts.jsonl")],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=PATIENCE_S,
        check=False,
    )  # fmt: skip
    first, second = ended.stderr.splitlines()
    assert first == (
        f"forwardcache: scoring {ASSETS / 'prompts.jsonl'} (next_token_dist) with "
        f"{ASSETS / 'model'} and {ASSETS / 'adapter'}, views base, ft"
    )
    assert "torch is imported" in second


@pytest.mark.parametrize("by_name", [True, False], ids=["a pipe with a name", "standard input"])
def test_the_first_line_is_said_before_the_prompts_are_there(
    by_name: bool, tmp_path: Path, warm: WarmPython
) -> None:
    pipe = tmp_path / "prompts.txt"
    os.mkfifo(pipe)
    command = [
        str(warm.python),
        *COMMAND,
        "--prompts",
        str(pipe) if by_name else "-",
        "--views",
        "base",
    ]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr is not None
        first = process.stderr.readline()
        if by_name:
            pipe.write_text("one\n")
        rows, _ = process.communicate(None if by_name else "one\n", timeout=PATIENCE_S)
    assert first.startswith(f"forwardcache: scoring {pipe if by_name else 'standard input'} (")
    assert rows.count("\n") == 1


@pytest.mark.parametrize(
    ("wrong", "word"),
    [
        (["--prompts", "none.jsonl"], "none.jsonl"),
        (["--prompts", "tests"], "no file of prompts"),
        (["--model", "none"], "no such folder"),
        (["--adapter", "none"], "no such folder"),
        (["--out", "rows.txt"], "must end in"),
        (["--trace", "none/trace.jsonl"], "there is no folder"),
        (["--views", "other"], "unknown view"),
        (["--identity", "other"], "--identity"),
    ],
)
def test_paths_and_options_are_checked_before_it(
    wrong: list[str], word: str, score: Run, prompts: Path
) -> None:
    ended = score("--prompts", prompts, *wrong)
    ended.refused(word)
    assert ended.err.count("\n") == 1


def test_off_a_terminal_a_line_is_said_at_each_interval(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_EVERY_S", 0.02)
    said, settled, deadline = "", "3,000 of 5,000 prompts", time.monotonic() + HANG_S
    with run_progress(job_of(5000, BASE, TUNED), hits=lambda: 1234, done=1000) as told:
        told.settle(10 * 2000, 2000)
        told.settle(10 * 2000, 2000)
        # Nothing more is done: a long batch.
        while said.count(settled) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
        while not said.endswith("\n") and time.monotonic() < deadline:
            time.sleep(0.01)
            said += capsys.readouterr().err
    assert said.count(settled) >= 2
    # Before them there may be lines of what was done when an interval ended.
    lines = said.splitlines()
    for line in lines:
        found = FIGURES.fullmatch(line.removeprefix("forwardcache: "))
        assert found is not None, line
        assert (found[2], found[3]) == ("5,000", "1,234")
    assert all(settled in line for line in lines[-2:])
    time.sleep(0.1)
    assert not capsys.readouterr().err.count("\n") > 1, "nothing is said when the run has ended"


def test_rate_and_time_left_are_of_this_run(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr("forwardcache.cli.progress.time.monotonic", lambda: clock[0])
    told = RunProgress(Size(500, 2, 10 * 400, 100), lambda: 0, Interrupts())
    assert told.told() == "100 of 500 prompts, 0.0 prompts/s, 0 hits"
    told.advance(10 * 100)
    clock[0] += 10
    # A quarter of one view of 400 prompts: an eighth of the run.
    assert told.told() == "100 of 500 prompts, 5.0 prompts/s, 0 hits, 0:01:10 left"
    told.settle(10 * 200, 200)
    told.settle(10 * 200, 200)
    assert told.told() == "300 of 500 prompts, 20.0 prompts/s, 0 hits, 0:00:10 left"


def test_a_terminal_has_a_bar_with_a_steady_label(prompts: Path, warm: WarmPython) -> None:
    leader, follower = pty.openpty()
    command = [
        str(warm.python),
        *COMMAND,
        "--prompts",
        str(prompts),
        "--views",
        "base,ft",
        "--top-k",
        "8",
    ]
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=follower, env=environment
    ) as process:
        os.close(follower)
        said = read_to_end(leader)
        assert process.wait(timeout=PATIENCE_S) == 0
    _, bar = said.split("views base, ft", 1)
    bar = bar.split("values computed")[0]
    labels = set(re.findall(r"(\w+)\s+[━╸╺ ]*\x1b?\S*\s*[\d,]+ of 12 prompts", strip_escapes(bar)))
    assert labels == {"scoring"}, bar
    assert re.search(r"12 of 12 prompts, [\d,.]+ prompts/s, 0 hits, 0:00:00 left", bar), bar


def strip_escapes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def read_to_end(terminal: int) -> str:
    """What a terminal shows until nobody has it open."""
    found = b""
    try:
        while part := os.read(terminal, 1 << 16):
            found += part
    except OSError:
        pass
    os.close(terminal)
    return found.decode()
