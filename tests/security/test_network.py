"""Claims: nothing is asked of another machine unless the user named one or allowed downloads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import forwardcache
from tests.patience import PATIENCE_S
from tests.security.without_network import REFUSED

HOOK = Path(__file__).with_name("without_network.py")
COMMAND = ("-m", "forwardcache")
ASSETS = Path(forwardcache.__file__).parent / "demo"


def run(*command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [sys.executable, str(HOOK), *command],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode != REFUSED, done.stderr
    return done


# Whom it asks doesn't hang on how many prompts there are.
DEMO = """
import sys
from forwardcache.__main__ import main
from forwardcache.cli import demo
demo.PROMPTS = "few.jsonl"
sys.exit(main(["demo", "--out", "demo"]))
"""


def test_the_demo_its_report_and_its_trace_ask_nobody(tmp_path: Path) -> None:
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    (tmp_path / "few.jsonl").write_text("".join(lines[:24]), "utf-8")
    (tmp_path / "few.py").write_text(DEMO, "utf-8")
    for command in (
        ("few.py",),
        (*COMMAND, "report", "demo/trace.jsonl", "--scores", "demo/rows.jsonl", "--out", "r.html"),
        (*COMMAND, "trace", "summary", "demo/trace.jsonl"),
        (*COMMAND, "trace", "recover", "demo/trace.jsonl"),
    ):
        done = run(*command, folder=tmp_path)
        assert done.returncode == 0, done.stderr


def test_a_hub_name_that_nobody_allowed_is_refused_without_asking(tmp_path: Path) -> None:
    (tmp_path / "prompts.txt").write_text("a prompt\n")
    command = ["score", "--model", "openai-community/gpt2", "--prompts", "prompts.txt"]
    done = run(*COMMAND, *command, "--out", "rows.jsonl", folder=tmp_path)
    assert done.returncode == 2
    assert "a hub name needs --allow-download" in done.stderr


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import urllib.request; urllib.request.urlopen('http://example.org', timeout=1)",
        "import socket; socket.getaddrinfo('huggingface.co', 443)",
        "import socket; socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))",
    ],
)
def test_the_watch_sees_an_attempt(tmp_path: Path, code: str) -> None:
    (tmp_path / "attempt.py").write_text(code)
    command = [sys.executable, str(HOOK), "attempt.py"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == REFUSED
