"""``forwardcache trace``: summary, merge and recover, in this process and as a process."""

from __future__ import annotations

import fcntl
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from forwardcache import TraceEvent, TraceWriter, _core
from forwardcache.observe import read_trace
from tests.cli.conftest import Ended, Run
from tests.patience import PATIENCE_S


def line(ts: float | None = 1.0, **fields: Any) -> bytes:
    eight = {"ts": ts, "probe": None, "view_id": "base", "prompt_hash": "h", "top_k": 8}
    eight |= {"op": "next_token_dist", "wall_ms": 0.25, "hit": True}
    return json.dumps(eight | fields).encode("ascii") + b"\n"


def trace(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def command(
    *arguments: object, stdin: bytes = b"", limit: int | None = None
) -> subprocess.CompletedProcess[str]:
    """The command as a process; with ``limit`` no file may grow beyond that many bytes."""

    def limited() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit or 0, limit or 0))

    ended = subprocess.run(
        [sys.executable, "-m", "forwardcache", "trace", *map(str, arguments)],
        input=stdin, capture_output=True, timeout=PATIENCE_S, check=False,
        preexec_fn=limited if limit else None,
    )  # fmt: skip
    return subprocess.CompletedProcess(
        ended.args, ended.returncode, ended.stdout.decode("utf-8"), ended.stderr.decode("utf-8")
    )


# summary


def test_summary_prints_the_figures_of_each_group_as_json(run: Run, tmp_path: Path) -> None:
    missed = {"hit": False, "wall_ms": 100.0, "run": "a", "thread": 0}
    one = trace(
        tmp_path / "one.jsonl",
        line(5.0, run="a"),
        line(6.0, **missed, batch=1, batch_size=2),
        line(7.0, **missed, batch=1, batch_size=2),
        line(8.0, **missed, error="ValueError"),
        b"x\n",
    )
    other = trace(
        tmp_path / "other.jsonl",
        line(2.0, probe="mmlu", run="b", waited=True),
        line(3.0, op="trace_lost", lost=4),
        b"{",
    )
    ended = run("trace", "summary", one, other, "--format", "json")
    assert (ended.code, ended.err) == (0, "")
    found = json.loads(ended.out)
    first, second = found.pop("groups")
    assert first == {
        "probe": None, "view_id": "base", "op": "next_token_dist", "events": 4, "hits": 1,
        "misses": 2, "hit_rate": pytest.approx(1 / 3), "failed": 1, "waited": 0,
        "hit_wall_s": 0.00025, "miss_wall_s": 0.2, "failed_wall_s": 0.1, "wait_s": 0.0,
        "wall_ms_p50": pytest.approx(100, rel=0.005), "wall_ms_p99": pytest.approx(100, rel=0.005),
        "batches": 1, "mean_batch_size": 2.0, "runs": 1, "first_ts": 5.0, "last_ts": 8.0,
    }  # fmt: skip
    assert (second["probe"], second["waited"], second["wait_s"]) == ("mmlu", 1, 0.00025)
    assert (found["events"], found["runs"], found["lost"]) == (5, 2, 4)
    assert (found["first_ts"], found["last_ts"]) == (2.0, 8.0)
    assert found["skipped"] == {"not JSON": 1, "no newline at the end": 1}


def test_summary_prints_tables_and_what_is_missing(run: Run, tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl", line(), line(probe="mmlu"), line(op="trace_lost", lost=2))
    ended = run("trace", "summary", path)
    assert (ended.code, ended.err) == (0, "")
    assert ended.out.count("next_token_dist") == 4
    assert "mmlu" in ended.out
    assert ended.out.splitlines()[-1] == (
        "2 events, 0 runs, 1970-01-01 00:00:01 UTC to 1970-01-01 00:00:01 UTC; "
        "2 events lost by the writer"
    )


def test_columns_without_any_value_are_left_out(run: Run, tmp_path: Path) -> None:
    columns = {"failed", "waited", "batches", "waits, s"}
    plain = run("trace", "summary", trace(tmp_path / "t.jsonl", line())).out
    assert not {column for column in columns if column in plain}
    missed = line(hit=False, batch=1, batch_size=1)
    full = [line(waited=True), missed, line(hit=False, error="ValueError")]
    shown = run("trace", "summary", trace(tmp_path / "t.jsonl", *full)).out
    assert {column for column in columns if column in shown} == columns


def test_names_that_are_markup_or_move_the_cursor_are_shown_as_they_are(
    run: Run, tmp_path: Path
) -> None:
    path = trace(tmp_path / "t.jsonl", line(probe="[red]é", view_id="\x1b[31m\ud800", ts=1e300))
    ended = run("trace", "summary", path)
    assert ended.code == 0, ended.err
    assert "[red]é" in ended.out
    assert r"\x1b[31m\ud800" in ended.out
    assert "\x1b" not in ended.out
    assert "1e+300" in ended.out


def test_standard_input_is_a_trace(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl", line())
    ended = command("summary", path, "-", "--format", "json", stdin=line() * 2)
    assert ended.returncode == 0, ended.stderr
    assert json.loads(ended.stdout)["events"] == 3


@pytest.mark.parametrize("as_json", [False, True])
def test_no_events_are_no_error_and_said_on_standard_error(
    run: Run, tmp_path: Path, as_json: bool
) -> None:
    path = trace(tmp_path / "t.jsonl", b"x\n", line(op="trace_lost", lost=1))
    ended = run("trace", "summary", path, *(["--format", "json"] if as_json else []))
    assert ended.code == 0
    assert ended.err == (
        f"forwardcache: no events in {path}; skipped 1 line (not JSON: 1); "
        "1 event lost by the writer\n"
    )
    assert (json.loads(ended.out)["events"] == 0) if as_json else not ended.out


def test_a_file_that_cannot_be_read_is_one_line(run: Run, tmp_path: Path) -> None:
    good = trace(tmp_path / "t.jsonl", line())
    run("trace", "summary", good, tmp_path / "none.jsonl").refused("none.jsonl", "No such file")
    (tmp_path / "empty").mkdir()
    run("trace", "summary", tmp_path / "empty").refused("empty", "no trace is in this folder")
    run("trace", "summary").refused("PATH", "--help")
    run("trace").refused("--help")


def test_summary_needs_no_numbers_and_no_model(tmp_path: Path) -> None:
    path = trace(tmp_path / "t.jsonl", line())
    script = (
        "import sys; from forwardcache.__main__ import main\n"
        f"assert main(['trace', 'summary', {str(path)!r}]) == 0\n"
        f"assert main(['trace', 'merge', {str(path)!r}, '-o', {str(path) + '2'!r}]) == 0\n"
        "assert not {'torch', 'numpy', 'transformers', 'polars'} & set(sys.modules)"
    )
    subprocess.run(
        [sys.executable, "-c", script], check=True, timeout=PATIENCE_S, capture_output=True
    )


# merge


def test_merge_puts_lines_in_order_of_time_and_keeps_their_bytes(run: Run, tmp_path: Path) -> None:
    odd = b' {"hit": true, ' + line(2.0).replace(b', "hit": true', b"")[1:-1] + b" \r\n"
    lost = line(4.0, op="trace_lost", lost=3)
    one = trace(tmp_path / "one", line(1.0), line(4.0), line(3.0, note="é:"), line(None), line(9.0))
    other = trace(tmp_path / "other", odd, lost, line(9.0, view_id="ft"))
    ended = run("trace", "merge", one, other, "-o", tmp_path / "out.jsonl")
    assert (ended.code, ended.out) == (0, "")
    assert ended.err == (
        f"forwardcache: {tmp_path}/out.jsonl: 7 events of 2 traces; 3 events lost by the writers\n"
    )
    expected = [line(1.0), odd, line(4.0), line(3.0, note="é:"), line(None), lost, line(9.0)]
    merged = (tmp_path / "out.jsonl").read_bytes()
    assert merged == b"".join([*expected, line(9.0, view_id="ft")])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["one", "other", "out.jsonl"]


def test_merge_leaves_out_what_is_no_event_and_says_how_much(run: Run, tmp_path: Path) -> None:
    one = trace(tmp_path / "one", line(1.0), b"\n", b"# note\n", line(3.0), line(5.0)[:-1])
    other = trace(tmp_path / "other", line(2.0), b"{}\n")
    ended = run("trace", "merge", one, other, "-o", tmp_path / "out.jsonl")
    assert ended.code == 0
    assert ended.err == (
        f"forwardcache: {tmp_path}/out.jsonl: 3 events of 2 traces; left out 4 lines "
        "(blank line: 1, no newline at the end: 1, no ts: 1, not JSON: 1)\n"
    )
    reader = read_trace(tmp_path / "out.jsonl")
    assert [event.ts for event in reader] == [1.0, 2.0, 3.0]
    assert not reader.skipped


def test_merge_refuses_to_write_what_it_reads(run: Run, tmp_path: Path) -> None:
    one = trace(tmp_path / "one", line(1.0))
    (tmp_path / "soft").symlink_to(one)
    (tmp_path / "hard").hardlink_to(one)
    for out in ("one", "soft", "hard"):
        for options in ([], ["--force"]):
            ended = run("trace", "merge", one, "-o", tmp_path / out, *options)
            ended.refused("would be written and is also read")
    (tmp_path / "hard").rename(tmp_path / "out.part")
    ended = run("trace", "merge", one, "-o", tmp_path / "out", "--force")
    ended.refused("out.part", "would be written and is also read")
    assert one.read_bytes() == line(1.0)


def test_merge_reads_standard_input_and_does_not_write_it(tmp_path: Path) -> None:
    one, out = trace(tmp_path / "one", line(1.0), line(3.0)), tmp_path / "out"
    ended = command("merge", one, "-", "-o", out, stdin=line(2.0))
    assert ended.returncode == 0, ended.stderr
    assert out.read_bytes() == line(1.0) + line(2.0) + line(3.0)
    arguments = ["-m", "forwardcache", "trace", "merge", "-", "--force", "-o", str(one)]
    with one.open("rb") as stdin:
        refused = subprocess.run(
            [sys.executable, *arguments],
            stdin=stdin,
            capture_output=True,
            timeout=PATIENCE_S,
            check=False,
        )
    assert (refused.returncode, b"is also read: /dev/stdin" in refused.stderr) == (2, True)
    assert one.read_bytes() == line(1.0) + line(3.0)


def test_times_are_shown_with_the_digits_that_are_known(run: Run, tmp_path: Path) -> None:
    path = trace(tmp_path / "t", line(wall_ms=0.0123456), line(wall_ms=23_456_789.0, hit=False))
    rows = [row for row in run("trace", "summary", path).out.splitlines() if "base" in row]
    _, times = ([cell.strip() for cell in row.split("│")[4:-1]] for row in rows)
    assert times == ["1.235e-05", "23,460", "0.0123", "23,500,000"]


def test_the_tables_fit_a_terminal_of_80_columns(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole: Any = {"view_id": "scaled_0.50", "op": "next_token_dist", "batch": 1, "batch_size": 2}
    path = trace(tmp_path / "t", line(**whole), line(**whole, hit=False, wall_ms=1234.5))
    for name, value in {"FORCE_COLOR": "1", "NO_COLOR": "1", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    shown = re.sub(r"\x1b\[[\d;]*m", "", run("trace", "summary", path).out).splitlines()
    assert max(map(len, shown)) <= 80
    assert sum("scaled_0.50" in row and "next_token_dist" in row for row in shown) == 3


def test_merge_replaces_a_file_only_with_force(run: Run, tmp_path: Path) -> None:
    one, out = trace(tmp_path / "one", line(1.0)), trace(tmp_path / "out", b"precious")
    run("trace", "merge", one, "-o", out).refused("is there already", "--force")
    assert out.read_bytes() == b"precious"
    assert run("trace", "merge", one, "-o", out, "--force").code == 0
    assert out.read_bytes() == line(1.0)


def test_the_part_of_a_killed_merge_is_replaced_with_force(run: Run, tmp_path: Path) -> None:
    one, part = trace(tmp_path / "one", line(1.0)), trace(tmp_path / "out.part", line(7.0) * 9)
    run("trace", "merge", one, "-o", tmp_path / "out").refused("out.part", "--force")
    assert run("trace", "merge", one, "-o", tmp_path / "out", "--force").code == 0
    assert (tmp_path / "out").read_bytes() == line(1.0)
    assert not part.exists()


def test_the_part_of_a_merge_that_runs_is_left_alone(run: Run, tmp_path: Path) -> None:
    one, part = trace(tmp_path / "one", line(1.0)), trace(tmp_path / "out.part", line(7.0))
    with part.open("ab") as others:
        fcntl.flock(others, fcntl.LOCK_EX)
        ended = run("trace", "merge", one, "-o", tmp_path / "out", "--force")
    ended.refused("another command is writing")
    assert part.read_bytes() == line(7.0)


def test_merge_refuses_what_it_cannot_read_or_write(run: Run, tmp_path: Path) -> None:
    one = trace(tmp_path / "one", line(1.0))
    out = tmp_path / "out"
    run("trace", "merge", one, tmp_path / "none", "-o", out).refused("none", "No such file")
    run("trace", "merge", one, "-o", tmp_path / "none" / "out").refused("there is no folder")
    run("trace", "merge", one, "-o", tmp_path).refused("is a folder")
    run("trace", "merge", one).refused("--out")
    assert [path.name for path in tmp_path.iterdir()] == ["one"]


def test_a_disk_that_is_full_is_the_machine_s_failure_and_leaves_nothing(tmp_path: Path) -> None:
    one = trace(tmp_path / "one", *([line(1.0)] * 5000))
    for limit in (1000, 1_990_000):  # while lines are written, and at the end
        ended = command("merge", one, one, one, "-o", tmp_path / "out", limit=limit)
        assert ended.returncode == 3
        assert ended.stderr == f"forwardcache: writing {tmp_path}/out.part: File too large\n"
        assert [path.name for path in tmp_path.iterdir()] == ["one"]


def interrupted(process: subprocess.Popen[str]) -> str:
    """What a process says that gets Ctrl-C while it waits for a pipe.

    A signal that comes between Python's look for signals and its read is seen after the read, which
    waits for ever here; a person then presses again, who sees that nothing happens.
    """
    give_up = time.monotonic() + PATIENCE_S
    while process.poll() is None:
        process.send_signal(signal.SIGINT)
        asleep = 0
        while asleep < 10 and process.poll() is None:
            assert time.monotonic() < give_up, "no interrupt was heard"
            time.sleep(0.05)
            asleep = asleep + 1 if sleeps(process) else 0
    return process.communicate()[1]


def sleeps(process: subprocess.Popen[str]) -> bool:
    """Whether a process waits for something; one that could run, on a busy machine, does not."""
    try:
        status = Path(f"/proc/{process.pid}/stat").read_text()
    except FileNotFoundError:
        return True
    return status.rpartition(")")[2].split()[0] == "S"


def test_an_interrupted_merge_leaves_nothing(tmp_path: Path) -> None:
    pipe, out = tmp_path / "pipe", tmp_path / "out"
    os.mkfifo(pipe)
    arguments = [sys.executable, "-m", "forwardcache", "trace", "merge", pipe, "-o", out]
    process = subprocess.Popen(list(map(str, arguments)), stderr=subprocess.PIPE, text=True)
    with process, pipe.open("wb", buffering=0) as writer:
        writer.write(line() * 10)
        deadline = time.monotonic() + PATIENCE_S
        while not (tmp_path / "out.part").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        err = interrupted(process)
    assert (process.returncode, err) == (130, "forwardcache: interrupted\n")
    assert [path.name for path in tmp_path.iterdir()] == ["pipe"]


def test_merging_takes_memory_for_no_file(run: Run, tmp_path: Path) -> None:
    lines = [line(float(number), probe=f"probe {number}") for number in range(10_000)]
    paths = [trace(tmp_path / name, *lines * 2) for name in ("one", "other")]
    # What a first run imports is no file's.
    assert run("trace", "merge", *paths, "-o", tmp_path / "first").code == 0
    tracemalloc.start()
    try:
        assert run("trace", "merge", *paths, "-o", tmp_path / "out").code == 0
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    sizes = [path.stat().st_size for path in paths]
    assert (tmp_path / "out").stat().st_size == sum(sizes)
    assert peak < 5e6 < sum(sizes)


def test_a_merged_trace_is_a_trace_of_its_writers(run: Run, tmp_path: Path) -> None:
    for start, name in enumerate(("one", "other")):
        with TraceWriter(tmp_path / name) as writer:
            for number in range(start, 200, 2):
                writer.write(
                    TraceEvent(float(number), name, "base", f"{number}", 8, "op", 0.5, True)
                )
    out = tmp_path / "out"
    assert run("trace", "merge", tmp_path / "one", tmp_path / "other", "-o", out).code == 0
    assert [event.prompt_hash for event in read_trace(out)] == [str(n) for n in range(200)]
    both = (tmp_path / "one").read_bytes() + (tmp_path / "other").read_bytes()
    assert sorted(out.read_bytes().splitlines()) == sorted(both.splitlines())


# recover

KILLED = """
import os, signal, sys
from forwardcache import TraceEvent, TraceWriter
writer = TraceWriter(sys.argv[1], interval_s=3600.0)
for number in range(1000):
    writer.write(TraceEvent(float(number), None, "base", str(number), 8, "op", 0.5, True))
os.kill(os.getpid(), signal.SIGKILL)
"""


def killed(path: Path) -> None:
    """Leaves at ``path`` the trace of a process that wrote 1,000 events and was killed."""
    ended = subprocess.run(
        [sys.executable, "-c", KILLED, str(path)], timeout=PATIENCE_S, check=False
    )
    assert ended.returncode == -signal.SIGKILL


def test_recover_completes_the_trace_of_a_killed_process_once(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    killed(path)
    before = sum(1 for _ in read_trace(path))
    assert before < 1000
    assert f"forwardcache trace recover {path}" in command("summary", path).stderr
    merged = command("merge", path, "-o", tmp_path / "merged")
    assert f"forwardcache trace recover {path}" in merged.stderr
    (tmp_path / "merged").unlink()
    ended = command("recover", path)
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{path}: {1000 - before:,} events recovered from 1 journal\n"
    assert [event.prompt_hash for event in read_trace(path)] == [str(n) for n in range(1000)]
    assert not command("summary", path).stderr
    again = command("recover", path)
    assert again.stdout == f"{path}: 0 events recovered from 0 journals\n"
    assert [found.name for found in tmp_path.iterdir()] == ["trace.jsonl"]


def test_recover_says_in_words_which_path_is_not_there(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "no.jsonl"
    ended = run("trace", "recover", path)
    assert (ended.code, ended.err) == (2, f"forwardcache: {path}: No such file or directory\n")


def test_recover_leaves_the_journal_of_a_running_process_alone(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    with TraceWriter(path, interval_s=3600.0) as writer:
        writer.write(TraceEvent(1.0, None, "base", "h", 8, "op", 0.5, True))
        ended = command("recover", path, "--format", "json")
        assert ended.returncode == 0, ended.stderr
        assert json.loads(ended.stdout)["alive"] == 1
    assert [event.prompt_hash for event in read_trace(path)] == ["h"]


def recovered(run: Run, monkeypatch: pytest.MonkeyPatch, *options: str, **counts: int) -> Ended:
    """``trace recover`` where the core reports ``counts``."""
    nothing = dict.fromkeys(("recovered", "journals", "damaged", "alive", "lost"), 0)
    monkeypatch.setattr(_core, "recover_trace", lambda path: nothing | counts)
    return run("trace", "recover", "trace.jsonl", *options)


@pytest.mark.parametrize("missing", ["damaged", "lost"])
def test_a_trace_that_stays_incomplete_is_exit_status_1(
    run: Run, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    ended = recovered(run, monkeypatch, recovered=1234, journals=2, **{missing: 1})
    assert (ended.code, ended.err) == (1, "")
    assert ended.out.startswith("trace.jsonl: 1,234 events recovered from 2 journals; 1 ")
    assert missing in ended.out


def test_what_was_recovered_is_printed_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ended = recovered(run, monkeypatch, "--format", "json", recovered=3, journals=1, alive=1)
    assert ended.code == 0
    assert json.loads(ended.out) == {
        "recovered": 3, "journals": 1, "damaged": 0, "alive": 1, "lost": 0,
    }  # fmt: skip


def test_recover_says_which_trace_is_not_there(run: Run, tmp_path: Path) -> None:
    run("trace", "recover", tmp_path / "none.jsonl").refused("none.jsonl", "No such file")


def test_a_disk_that_fails_while_recovering_is_the_machine_s_failure(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path) -> dict[str, int]:
        raise OSError(28, "No space left on device", str(path))

    monkeypatch.setattr(_core, "recover_trace", full)
    ended = run("trace", "recover", "trace.jsonl")
    ended.refused("trace.jsonl: No space left on device", code=3)
