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
from forwardcache import __version__
from forwardcache.conformance.checks import checks_of
from forwardcache.conformance.kit import KIT_VERSION
from tests.patience import PATIENCE_S

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
        # What these two import takes longer than most of the runs, and no item needs it.
        without = [f"-pno:{name}" for name in ("cacheprovider", "hypothesispytest", "anyio")]
        command = [sys.executable, "-m", "pytest", "-rA", "--tb=short", *without, *args]
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
            timeout=PATIENCE_S,
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
        timeout=PATIENCE_S,
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
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True
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
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S, check=True
    )
    assert done.stdout.strip() == "[]"


def expected_file(folder: Path, text: str) -> Path:
    path = folder / "expected.toml"
    path.write_text(text, encoding="utf-8")
    return path


def test_a_file_of_expected_failures_is_xfail_and_its_stale_entry_fails(tmp_path: Path) -> None:
    bad = "engines.stopped(engines.chunk(1, finish='length'))"
    path = expected_file(tmp_path, '[engine]\ncancellation = "issue 12"\nstart = "issue 3"\n')
    module(tmp_path, f"{{'bad': {bad}}}, expected_failures={str(path)!r}")
    run = Run(tmp_path)
    assert run.counts() == {"failed": 1, "passed": 6, "xfailed": 1}
    assert "[XPASS(strict)] issue 3" in run.text


def test_the_suite_takes_options_and_expected_failures_and_says_how_much_has_run(
    tmp_path: Path,
) -> None:
    path = expected_file(tmp_path, '[engine]\nEngine-token_ids = "none"\n')
    run = suite(
        tmp_path,
        "--engine=tests.conformance.engines:ShortContextUnsaid",
        "--engine-profile=strict",
        "--max-tokens=4",
        "--long-max-tokens=20",
        "--concurrency=2",
        "--drive-abort",
        f"--expected-failures={path}",
    )
    assert run.counts() == {"passed": 21, "skipped": 1}
    assert f"engine kit {KIT_VERSION} (forwardcache {__version__}): 21 of 22 checks run" in run.text


def test_a_run_of_the_suite_that_skips_everything_is_no_pass(tmp_path: Path) -> None:
    dead = "tests.conformance.engines:FailsToStart"
    run = suite(tmp_path, f"--engine={dead}", "-k", "generate or cancellation")
    assert set(run.counts()) == {"skipped", "deselected"}
    assert "0 of 3 checks run" in run.text
    assert run.code == 1


def test_a_check_beside_threads_of_the_test_runner_leaves_nothing_behind(tmp_path: Path) -> None:
    """As pytest-timeout does: a thread an item, which lives while it runs."""
    module(tmp_path, "ENGINES, profile='strict'")
    (tmp_path / "conftest.py").write_text(
        "import threading\n"
        "import pytest\n\n\n"
        "@pytest.hookimpl(wrapper=True)\n"
        "def pytest_runtest_protocol(item):\n"
        "    timer = threading.Timer(60, print)\n"
        "    timer.start()\n"
        "    try:\n"
        "        return (yield)\n"
        "    finally:\n"
        "        timer.cancel()\n"
    )
    assert Run(tmp_path).counts() == {"passed": 21, "skipped": 1}


def test_items_that_are_called_from_several_threads_at_once_take_turns(tmp_path: Path) -> None:
    """As pytest-run-parallel does: each item's function in several threads."""
    module(tmp_path, "ENGINES, profile='strict'")
    (tmp_path / "conftest.py").write_text(
        "import threading\n"
        "import unittest\n"
        "import pytest\n\n\n"
        "@pytest.hookimpl(tryfirst=True)\n"
        "def pytest_pyfunc_call(pyfuncitem):\n"
        "    check, errors = pyfuncitem.callspec.params['check'], []\n\n"
        "    def call():\n"
        "        try:\n"
        "            check()\n"
        "        except BaseException as error:\n"
        "            errors.append(error)\n\n"
        "    threads = [threading.Thread(target=call) for _ in range(3)]\n"
        "    for thread in threads:\n"
        "        thread.start()\n"
        "    for thread in threads:\n"
        "        thread.join()\n"
        "    for error in errors:\n"
        "        raise error\n"
        "    return True\n"
    )
    assert Run(tmp_path).counts() == {"passed": 21, "skipped": 1}
