"""Claims: a trace that somebody else wrote costs bounded memory and time, and no line of it more
than itself: a line of a gigabyte, one without an end, nesting without a bottom, endless numbers.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from forwardcache.instrumentation import TraceWriter
from forwardcache.observe import read_trace
from tests.patience import PATIENCE_S

HUGE = 1 << 30
EVENT = (
    b'{"ts": 1.0, "probe": null, "view_id": "base", "prompt_hash": "0123456789ab", "top_k": 8,'
    b' "op": "op", "wall_ms": 1.0, "hit": false}\n'
)
# Less than one such line beside what the interpreter has: a gigabyte of addresses, without a GIL.
BOUNDED = f"""
import resource, sys, time
from forwardcache.instrumentation import BackendInstrumentation
from forwardcache.observe import read_trace
from forwardcache._core import recover_trace
taken = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + {HUGE} * 3 // 4,) * 2)
path = sys.argv[1]
"""


def bounded(code: str, path: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-c", BOUNDED + code, str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def huge(path: Path, *, before: bytes = b"", after: bytes = b"") -> Path:
    """A file with a line of a gigabyte, which takes no room on the disk."""
    with path.open("wb") as file:
        file.write(before)
        file.seek(HUGE, 1)
        file.write(after)
        if not after:
            file.truncate()
    return path


def test_a_line_of_a_gigabyte_is_skipped_in_bounded_memory(tmp_path: Path) -> None:
    path = huge(tmp_path / "trace.jsonl", before=EVENT, after=b"\n" + EVENT)
    told = bounded("t = read_trace(path); print(len(list(t)), dict(t.skipped))", path)
    assert told == "2 {'line too long': 1}\n"


@pytest.mark.parametrize("after", [b"", b"\n"], ids=["without an end", "with one"])
def test_a_trace_goes_on_behind_such_a_line(tmp_path: Path, after: bytes) -> None:
    path = huge(tmp_path / "trace.jsonl", after=after)
    code = """
with BackendInstrumentation(trace_path=path) as inst:
    inst.cached("op", "base", "a prompt", 8, int)
"""
    bounded(code, path)
    with path.open("rb") as file:
        file.seek(HUGE)
        assert file.read(1) == b"\n"
        assert file.read().count(b"\n") == 1


def test_what_a_dead_process_left_is_recovered_beside_such_a_line(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    killed = """
import os, signal, sys
from forwardcache.instrumentation import BackendInstrumentation
inst = BackendInstrumentation(trace_path=sys.argv[1])
for i in range(100):
    inst.cached("op", "base", f"prompt {i}", 8, int)
    if i == 50:
        inst.trace.flush()
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", killed, str(path)], check=False, timeout=PATIENCE_S)
    with path.open("ab") as file:
        file.seek(HUGE, 1)
        file.truncate()
        file.write(b"\n")
    bounded("recover_trace(path)", path)
    told = bounded("print(sum(1 for _ in read_trace(path)))", path)
    assert told == "100\n"


@pytest.mark.parametrize(
    "line",
    [
        b"[" * 100_000,
        b'{"ts": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        EVENT.replace(b'"op": "op"', b'"op": ' + b'{"a":' * 50_000 + b"1" + b"}" * 50_000)[:-1],
        EVENT.replace(b'"top_k": 8', b'"top_k": ' + b"9" * 100_000)[:-1],
        EVENT.replace(b'"ts": 1.0', b'"ts": ' + b"9" * 100_000)[:-1],
        EVENT.replace(b'"ts": 1.0', b'"ts": 1e' + b"9" * 1000)[:-1],
        EVENT.replace(b'"view_id": "base"', b'"view_id": "' + b"\\ud800" * 1000 + b"\xff" + b'"')[
            :-1
        ],
        b"\0" * 100_000,
    ],
    ids=[
        "brackets",
        "a deep ts",
        "a deep op",
        "a long integer",
        "a long ts",
        "1e999",
        "text",
        "NUL",
    ],
)
def test_a_line_that_says_nothing_costs_no_other(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "trace.jsonl"
    path.write_bytes(EVENT + line + b"\n" + EVENT)
    trace = read_trace(path)
    assert [event.view_id for event in trace] == ["base", "base"]
    assert sum(trace.skipped.values()) == 1


def test_prompts_of_any_size_and_letters_are_labelled(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    nasty = ["", "\0", "\ud800", "\n" * 10, '"}\n{"', "\U0010ffff" * 1000, "a" * (64 << 20)]
    from forwardcache.instrumentation import BackendInstrumentation

    with BackendInstrumentation(trace_path=path) as inst:
        for prompt in nasty:
            inst.cached(prompt[:100], prompt[:100], prompt, 8, int)
    trace = read_trace(path)
    assert [event.hit for event in trace] == [False] * len(nasty)
    assert not trace.skipped
    assert path.stat().st_size < 20_000


def test_a_writer_is_not_fooled_by_a_folder_in_its_place(tmp_path: Path) -> None:
    (tmp_path / "trace.jsonl").mkdir()
    with pytest.raises(OSError, match=r"trace\.jsonl"):
        TraceWriter(tmp_path / "trace.jsonl")
