"""The command as a process: signals, missing packages, how quickly it answers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from forwardcache import __version__
from tests.cli.conftest import ASSETS, Run, read_rows, without_first_line
from tests.patience import PATIENCE_S

# Comes before every finder and knows nothing of the packages named.
BLOCKED = """
import sys
class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {names!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Blocker())
from forwardcache.__main__ import main
sys.exit(main({argv!r}))
"""


def python(*arguments: str, folder: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=folder
    )


@pytest.mark.parametrize(
    "missing", ["typer", "rich", "polars", "numpy", "torch", "transformers", "peft"]
)
@pytest.mark.parametrize("command", ["demo", "score"])
def test_a_missing_package_is_one_line_that_names_the_extra(
    missing: str, command: str, tmp_path: Path
) -> None:
    argv = [command]
    if command == "score":
        argv += ["--model", str(ASSETS / "model"), "--prompts", str(ASSETS / "prompts.jsonl")]
    ended = python("-c", BLOCKED.format(names={missing}, argv=argv), folder=tmp_path)
    assert ended.returncode == 2, ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    assert missing in ended.stderr
    assert "pip install 'forwardcache[hf]'" in ended.stderr
    assert not ended.stdout
    assert not list(tmp_path.iterdir())


def test_the_version_needs_no_extra() -> None:
    ended = python("-c", BLOCKED.format(names={"typer", "rich", "numpy"}, argv=["--version"]))
    assert (ended.returncode, ended.stdout) == (0, f"forwardcache {__version__}\n")


@pytest.mark.parametrize("argv", [["--help"], ["score", "--help"], ["demo", "--help"]])
def test_help_imports_neither_torch_nor_numpy(argv: list[str]) -> None:
    script = (
        "import sys; from forwardcache.__main__ import main\n"
        f"assert main({argv!r}) == 0\n"
        "assert not {'torch', 'numpy', 'transformers', 'polars'} & set(sys.modules)"
    )
    ended = python("-c", script)
    assert ended.returncode == 0, ended.stderr
    assert "Usage: forwardcache" in ended.stdout
    words = " ".join(ended.stdout.split())
    assert "130 interrupted, 141 the reader of standard output has gone" in words


def test_the_module_is_the_command() -> None:
    ended = python("-m", "forwardcache", "--version")
    assert (ended.returncode, ended.stdout) == (0, f"forwardcache {__version__}\n")
    assert python("-m", "forwardcache", "fly").returncode == 2


def test_standard_output_that_is_full_is_the_machine_s_failure() -> None:
    with Path("/dev/full").open("w") as full:
        ended = subprocess.run(
            [sys.executable, "-m", "forwardcache", "score", "--help"],
            stdout=full, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
        )  # fmt: skip
    assert ended.returncode == 3
    assert ended.stderr == "forwardcache: No space left on device\n"


def test_a_reader_that_leaves_is_no_error() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    ended = subprocess.run(
        [sys.executable, "-m", "forwardcache", "score", "--help"],
        stdout=writer, stderr=subprocess.PIPE, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, "")


def test_ctrl_c_keeps_rows_and_trace_and_the_run_goes_on(score: Run, tmp_path: Path) -> None:
    texts = [json.loads(line)["prompt"] for line in (ASSETS / "prompts.jsonl").open()]
    prompts = tmp_path / "prompts.txt"
    lines = [f"{number} {text}" for number in range(2) for text in texts]
    prompts.write_text("\n".join(" ".join(line.split()) for line in lines), "utf-8")
    out, part = tmp_path / "rows.jsonl", tmp_path / "rows.jsonl.part"
    options = ["--prompts", prompts, "--views", "base,ft,scaled:0.5,null:1,null:2", "--out", out]
    options += ["--op", "rolling_logprob", "--trace", tmp_path / "trace.jsonl"]
    model = ["--model", ASSETS / "model", "--adapter", ASSETS / "adapter", "--dtype", "float32"]
    command = [sys.executable, "-m", "forwardcache", "score", *model, *options]
    with subprocess.Popen(list(map(str, command)), stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + PATIENCE_S
        while process.poll() is None and time.monotonic() < deadline:
            if part.exists() and part.stat().st_size:
                process.send_signal(signal.SIGINT)
                break
            time.sleep(0.01)
        _, err = process.communicate(timeout=PATIENCE_S)

    assert process.returncode == 130, err
    assert without_first_line(err).count("\n") == 1, err
    assert "--resume" in err
    assert not out.exists()
    kept = read_rows(part)
    events = read_rows(tmp_path / "trace.jsonl")
    assert 0 < len(kept) < len(lines) * 5
    assert len(events) >= len(kept)

    ended = score(*options, "--resume")
    assert ended.code == 0, ended.err
    rows = read_rows(out)
    assert rows[: len(kept)] == kept
    assert len({(row["line"], row["view"]) for row in rows}) == len(rows) == len(lines) * 5


def test_a_warning_is_one_line_without_source() -> None:
    """Of a full disk Python's own warning came first, with a line of this package's source."""
    code = "import warnings; from forwardcache.cli.exits import say_warnings; say_warnings(); "
    warn = "warnings.warn('the disk\\nis full', RuntimeWarning)"
    ended = subprocess.run(
        [sys.executable, "-c", code + warn],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=True,
    )
    assert ended.stderr == "forwardcache: the disk is full\n"


def test_closed_standard_output_is_one_line(tmp_path: Path) -> None:
    command = f"{sys.executable} -m forwardcache trace summary trace.jsonl >&-"
    (tmp_path / "trace.jsonl").touch()
    ended = subprocess.run(
        command,
        shell=True,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        cwd=tmp_path,
    )
    assert ended.returncode == 3
    assert ended.stderr.splitlines() == [
        "forwardcache: standard output is closed: give the command somewhere to write"
    ]


def test_a_file_on_standard_input_may_not_be_written(tmp_path: Path) -> None:
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("one\ntwo\n")
    model = ["--model", str(ASSETS / "model"), "--prompts", "-"]
    for written in (["--trace", str(prompts)], ["--out", str(tmp_path / "link.jsonl"), "--force"]):
        (tmp_path / "link.jsonl").unlink(missing_ok=True)
        (tmp_path / "link.jsonl").symlink_to(prompts)
        with prompts.open("rb") as stdin:
            ended = subprocess.run(
                [sys.executable, "-m", "forwardcache", "score", *model, *written],
                stdin=stdin,
                capture_output=True,
                text=True,
                timeout=PATIENCE_S,
                check=False,
            )
        assert ended.returncode == 2, ended.stderr
        assert ended.stderr.count("\n") == 1
        assert "file of the prompts" in ended.stderr
        assert prompts.read_text() == "one\ntwo\n"
