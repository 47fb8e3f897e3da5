"""The pytest front: one item a check, each alone, with no plugin for asyncio.

Checked here, in runs of pytest of their own: ids, outcomes, expected failures, skips with reasons,
items alone and in any order, the suite for foreign engines, what a failure shows, and that the
engine is cleaned up at the end.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import forwardcache
from forwardcache.conformance.checks import checks_of

ROOT = Path(__file__).parents[2]
# Where this process has the package from: installed, or built in this tree.
PACKAGE = Path(forwardcache.__file__).parents[1]
CHECKS = [check.name for check in checks_of("seed")]

MODULE = """
from forwardcache.conformance import parametrize_with_checks
from tests.conformance import engines

LOG = open("log.txt", "a", buffering=1)


class Logged(engines.Engine):
    def __init__(self):
        super().__init__()
        LOG.write("made ")

    async def start(self, worker_id):
        LOG.write("started ")
        return await super().start(worker_id)

    async def cleanup(self):
        LOG.write("cleaned ")
        await super().cleanup()


ENGINES = {"toy": Logged}


@parametrize_with_checks(%s)
def test_engine(check):
    check()
"""


class Run:
    """One run of pytest in a folder of its own."""

    def __init__(self, folder: Path, *args: str) -> None:
        plugins = ["-p", "no:cacheprovider"]
        command = [sys.executable, "-m", "pytest", "-rA", "--tb=short", *plugins, *args]
        done = subprocess.run(
            command,
            cwd=folder,
            env={
                "PYTHONPATH": f"{ROOT}:{PACKAGE}:{folder}",
                "PATH": "",
                "HOME": str(folder),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.code = done.returncode
        self.text = done.stdout + done.stderr

    def counts(self) -> dict[str, int]:
        """Items by outcome, from the last line."""
        words = self.text.strip().splitlines()[-1].strip("= ").split(" in ")[0].split(", ")
        pairs = (word.split() for word in words)
        return {name: int(count) for count, name in pairs}


def module(folder: Path, arguments: str = "ENGINES", *, more: str = "") -> Path:
    path = folder / "test_mine.py"
    path.write_text(MODULE.replace("@parametrize", f"{more}\n@parametrize") % arguments)
    return path


def log(folder: Path) -> list[str]:
    return (folder / "log.txt").read_text().split()


def test_one_item_a_check_with_ids_and_in_order(tmp_path: Path) -> None:
    module(tmp_path)
    run = Run(tmp_path, "--collect-only", "-q")
    ids = [line.split("::")[1] for line in run.text.splitlines() if "::" in line]
    assert ids == [f"test_engine[toy-{check}]" for check in CHECKS]


def test_a_conforming_engine_passes_and_is_made_started_and_cleaned_as_in_a_run(
    tmp_path: Path,
) -> None:
    module(tmp_path)
    assert Run(tmp_path).counts() == {"passed": 8}
    assert log(tmp_path) == ["made", "started", "cleaned", "cleaned", "made", "cleaned"]


@pytest.mark.parametrize("check", CHECKS)
def test_each_item_runs_alone_and_leaves_a_clean_engine(tmp_path: Path, check: str) -> None:
    module(tmp_path)
    run = Run(tmp_path, f"test_mine.py::test_engine[toy-{check}]")
    assert run.counts() == {"passed": 1}
    assert log(tmp_path)[-1] == "cleaned"


def test_strict_items_run_alone_too(tmp_path: Path) -> None:
    module(tmp_path, "ENGINES, profile='strict'")
    for check in ("left_behind", "neighbours", "token_ids"):
        run = Run(tmp_path, f"test_mine.py::test_engine[toy-{check}]")
        assert run.counts() == {"passed": 1}


def test_items_in_reverse_order_pass(tmp_path: Path) -> None:
    module(tmp_path)
    (tmp_path / "conftest.py").write_text(
        "def pytest_collection_modifyitems(items):\n    items.reverse()\n"
    )
    assert Run(tmp_path).counts() == {"passed": 8}
    assert log(tmp_path).count("started") == 3
    assert log(tmp_path)[-1] == "cleaned"


def test_a_failing_item_fails_alone_and_shows_sentence_check_and_chunks(tmp_path: Path) -> None:
    module(tmp_path, "{'bad': engines.stopped(engines.chunk(1, finish='length'))}")
    run = Run(tmp_path)
    assert run.counts() == {"failed": 1, "passed": 7}
    assert "CancellationIgnored: the stopped stream did not end" in run.text
    assert "check: cancellation" in run.text
    assert "chunk  ms" in run.text
    assert "loop_thread.py" not in run.text


def test_expected_failures_are_xfail_with_their_reason(tmp_path: Path) -> None:
    bad = "engines.stopped(engines.chunk(1, finish='length'))"
    arguments = f"{{'bad': {bad}}}, expected_failures={{'cancellation': 'issue 12'}}"
    module(tmp_path, arguments)
    run = Run(tmp_path)
    assert run.counts() == {"passed": 7, "xfailed": 1}
    assert "issue 12" in run.text
    assert run.code == 0


def test_an_expected_failure_may_name_one_engine_of_several(tmp_path: Path) -> None:
    bad = "engines.stopped(engines.chunk(1, finish='length'))"
    arguments = (
        f"{{'bad': {bad}, 'toy': Logged}}, expected_failures={{'bad-cancellation': 'issue 12'}}"
    )
    module(tmp_path, arguments)
    assert Run(tmp_path).counts() == {"passed": 15, "xfailed": 1}


def test_an_expected_failure_that_names_no_check_is_refused(tmp_path: Path) -> None:
    module(tmp_path, "ENGINES, expected_failures={'cancelation': 'typo'}")
    run = Run(tmp_path)
    assert run.code == 2
    assert "names no check: 'cancelation'" in run.text


def test_items_are_skipped_with_the_reason_if_the_engine_does_not_start(tmp_path: Path) -> None:
    module(tmp_path, "{'dead': engines.FailsToStart}")
    run = Run(tmp_path)
    assert run.counts() == {"failed": 1, "passed": 1, "skipped": 6}
    assert "the engine did not start: start() failed: RuntimeError: no memory" in run.text


def test_an_item_alone_is_skipped_if_the_engine_does_not_start(tmp_path: Path) -> None:
    module(tmp_path, "{'dead': engines.FailsToStart}")
    run = Run(tmp_path, "test_mine.py::test_engine[dead-cancellation]")
    assert run.counts() == {"skipped": 1}
    assert "no memory" in run.text


def test_an_engine_that_blocks_its_loop_fails_its_items_and_the_run_ends(tmp_path: Path) -> None:
    module(tmp_path, "{'stuck': engines.BlocksForGood}, check_timeout=0.3")
    run = Run(tmp_path)
    assert run.counts() == {"failed": 3, "passed": 5}
    assert "CheckTimedOut" in run.text
    assert "self.released.wait" in run.text


def test_checks_work_in_unittest_and_plain_loops(tmp_path: Path) -> None:
    (tmp_path / "test_unit.py").write_text(
        "import unittest\n"
        "from forwardcache.conformance import conformance_checks\n"
        "from tests.conformance import engines\n"
        "class Test(unittest.TestCase):\n"
        "    def test_all(self):\n"
        "        for check in conformance_checks(engines.FailsToStart):\n"
        "            with self.subTest(check.name):\n"
        "                check()\n"
    )
    done = subprocess.run(
        [sys.executable, "-m", "unittest", "-v", "test_unit"],
        cwd=tmp_path,
        env={"PYTHONPATH": f"{ROOT}:{PACKAGE}"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "FAILED (failures=1, skipped=6)" in done.stderr


def suite(folder: Path, *args: str) -> Run:
    return Run(folder, "--pyargs", "forwardcache.conformance.suite", *args)


def test_the_suite_checks_a_foreign_engine_without_code(tmp_path: Path) -> None:
    run = suite(tmp_path, "--engine", "tests.conformance.foreign:ThreadedEngine", "-v")
    assert run.counts() == {"passed": 8}
    assert "test_engine[ThreadedEngine-cancellation]" in run.text


def test_the_suite_takes_several_engines_and_a_profile(tmp_path: Path) -> None:
    run = suite(
        tmp_path,
        "--engine=tests.conformance.foreign:ThreadedEngine",
        "--engine=tests.conformance.engines:StopSeenOnlyAtFirst",
        "--engine-profile=strict",
        "--cancel-deadline=0.5",
    )
    assert run.code == 1
    assert "MidStreamCancellationIgnored" in run.text


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "needs an engine: --engine pkg.mod:factory"),
        (("--engine", "nowhere"), "'nowhere' is not of the form pkg.mod:factory"),
        (("--engine", "no_such_module:f"), "'no_such_module' can't be imported"),
        (("--engine", "tests.conformance.engines:Nope"), "names nothing"),
        (("--engine", "tests.conformance.engines:Engine", "--engine-profile", "x"), "profile must"),
    ],
)
def test_the_suite_says_what_is_wrong_in_one_line(
    tmp_path: Path, args: tuple[str, ...], words: str
) -> None:
    run = suite(tmp_path, *args)
    assert run.code != 0
    assert words in run.text
    assert "Traceback" not in run.text


def test_the_options_are_nobodys_business_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "conftest.py").write_text(
        "def pytest_addoption(parser):\n    parser.addoption('--engine', default='mine')\n"
    )
    (tmp_path / "test_it.py").write_text(
        "def test_it(request):\n    assert request.config.getoption('--engine') == 'mine'\n"
    )
    assert Run(tmp_path).counts() == {"passed": 1}


def test_the_plugin_loads_next_to_nothing() -> None:
    code = (
        "import sys, forwardcache; before = set(sys.modules)\n"
        "import forwardcache.conformance.pytest_plugin\n"
        "import json; print(json.dumps(sorted(set(sys.modules) - before)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    loaded = {name for name in json.loads(done.stdout) if "json" not in name}
    assert loaded == {"forwardcache.conformance", "forwardcache.conformance.pytest_plugin"}


def test_the_kit_loads_neither_torch_nor_transformers_nor_numpy() -> None:
    code = (
        "import sys\nfrom forwardcache.conformance import *\n"
        "import forwardcache.conformance.command, forwardcache.conformance.suite\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'rich') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == "[]"
