"""``forwardcache check``: exit status, report and words, for engines and backends of others."""

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from forwardcache.__main__ import main
from forwardcache.conformance import command
from forwardcache.conformance.leaving import CALLS
from forwardcache.conformance.report import CheckResult, Report
from tests.patience import PATIENCE_S

MODULE = """
from tests.conformance.backend.dummy import DummyBackend
from tests.conformance.foreign import {engine} as engine

backend = DummyBackend

def broken():
    return DummyBackend("ids in order of id")

def unmade():
    raise OSError("no model folder")

class Silent:
    async def start(self, worker_id):
        return {{"model": "m"}}

    async def generate(self, request, context):
        return
        yield

    async def cleanup(self):
        print("said by the engine")
"""


@pytest.fixture
def foreign(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of somebody else in the current folder."""
    name = f"foreign_{abs(hash(tmp_path)):x}"
    (tmp_path / f"{name}.py").write_text(MODULE.format(engine=foreign_engine()))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return name


def foreign_engine() -> str:
    from tests.conformance import foreign

    classes = [name for name, each in vars(foreign).items() if hasattr(each, "cleanup")]
    return classes[0]


def test_a_backend_that_keeps_the_rules_exits_0(
    foreign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "backend", f"{foreign}:backend"]) == 0
    out = capsys.readouterr().out
    assert "view_isolation" in out
    assert out.endswith("keeps the rules of a scoring backend\n")


def test_a_backend_that_breaks_a_rule_exits_1_and_says_which(
    foreign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "backend", f"{foreign}:broken", "--format", "json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert report["conforms"] is False
    assert report["results"][-1]["rule"] == "distribution_order"
    assert main(["check", "backend", f"{foreign}:broken", "--format", "json", "--all"]) == 1
    assert report["results"][-1] != json.loads(capsys.readouterr().out)["results"][-1]


def test_what_is_no_backend_keeps_no_rule(foreign: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "backend", f"{foreign}:Silent"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert "no rule applies to what it gives: the backend has no logprob_of, " in said.err
    assert "rolling_logprob_batch, and no views that have them" in said.err


@pytest.mark.parametrize("factory", ["unmade", "missing"])
@pytest.mark.parametrize("kind", ["backend", "engine"])
def test_what_cannot_be_made_exits_2_with_one_line(
    foreign: str, capsys: pytest.CaptureFixture[str], kind: str, factory: str
) -> None:
    assert main(["check", kind, f"{foreign}:{factory}"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.count("\n") == 1
    assert factory in said.err


@pytest.mark.parametrize("profile", ["seed", "strict"])
def test_an_engine_that_conforms_exits_0(
    foreign: str, capsys: pytest.CaptureFixture[str], profile: str
) -> None:
    assert main(["check", "engine", f"{foreign}:engine", "--profile", profile]) == 0
    assert f"conforms to profile {profile}" in capsys.readouterr().out


def test_an_engine_that_does_not_exits_1_and_what_it_prints_goes_to_stderr(
    foreign: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "engine", f"{foreign}:Silent", "--format", "json"]) == 1
    said = capsys.readouterr()
    assert "NoChunksYielded" in json.dumps(json.loads(said.out))
    assert "said by the engine" in said.err


def test_an_unknown_profile_is_wrong_use(foreign: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "engine", f"{foreign}:engine", "--profile", "all"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_threads_that_were_there_before_the_engine_do_not_end_the_process(foreign: str) -> None:
    over = threading.Event()
    others = [threading.Thread(target=over.wait), threading.Thread(target=over.wait, name=CALLS)]
    others[1].daemon = True
    for other in others:
        other.start()
    try:
        assert main(["check", "engine", f"{foreign}:engine"]) == 0
    finally:
        over.set()


def test_a_real_process_leaves_with_the_verdict_though_a_thread_is_left(tmp_path: Path) -> None:
    (tmp_path / "left.py").write_text(
        "import threading, time\n"
        "class Engine:\n"
        "    async def start(self, worker_id):\n"
        "        threading.Thread(target=time.sleep, args=(60,)).start()\n"
        "        return {'model': ''}\n"
        "    async def generate(self, request, context):\n"
        "        yield {}\n"
        "    async def cleanup(self):\n"
        "        pass\n"
    )
    command = [sys.executable, "-m", "forwardcache", "check", "engine", "left:Engine"]
    done = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )
    assert done.returncode == 1
    assert "EmptyModelInConfig" in done.stdout


def test_the_options_of_an_engine_reach_the_kit(
    foreign: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: dict[str, Any] = {}

    def check(factory: object, **options: object) -> Report:
        asked.update(options)
        return Report("strict", [CheckResult("start", "passed")])

    monkeypatch.setattr(command, "check_conformance", check)
    options = (
        "--profile strict --timeout 600 --cancel-deadline 5 --max-tokens 4 --long-max-tokens 200 "
        "--concurrency 2 --drive-abort"
    )
    assert main(["check", "engine", f"{foreign}:engine", *options.split()]) == 0
    del asked["failing_factory"], asked["expected_failures"]
    assert asked == {
        "profile": "strict",
        "report_all": False,
        "check_timeout": 600.0,
        "cancel_deadline": 5.0,
        "max_tokens": 4,
        "long_max_tokens": 200,
        "concurrency": 2,
        "drive_abort": True,
    }


def test_expected_failures_are_read_for_engines_and_backends(
    foreign: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "expected.toml"
    path.write_text(
        '[engine]\nSilent-single_generate = "issue 1"\nconcurrent_generates = "issue 1"\n'
        'cancellation = "issue 1"\n\n[backend]\ndistribution_order = "issue 2"\n'
    )
    known = ["--expected-failures", str(path)]
    assert main(["check", "engine", f"{foreign}:Silent", *known]) == 0
    assert main(["check", "backend", f"{foreign}:broken", *known]) == 0
    assert "expected" in capsys.readouterr().out
    assert main(["check", "backend", f"{foreign}:backend", *known]) == 1
    assert "take the entry out" in capsys.readouterr().out
