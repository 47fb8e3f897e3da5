"""Claims: without the package that an extra brings, what needs it says which extra, in one line."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from forwardcache import BackendInstrumentation
from forwardcache.extras import EXTRA_OF
from forwardcache.store import open_store

ROOT = Path(__file__).parents[1]

WITHOUT = """
import sys
sys.modules[{package!r}] = None
from forwardcache.errors import MissingExtraError
try:
    {statement}
except MissingExtraError as error:
    print(error.name, error)
"""


@pytest.mark.parametrize(
    ("statement", "package", "extra"),
    [
        ("import forwardcache.store.redis", "redis", "redis"),
        ("import forwardcache.distributed.team", "ray", "ray"),
        ("import forwardcache.hf", "torch", "hf"),
        ("import forwardcache.hf", "numpy", "hf"),
        ("import forwardcache.scoring", "numpy", "hf"),
        ("import forwardcache.statistics", "numpy", "hf"),
        ("import forwardcache.statistics", "scipy", "hf"),
        ("import forwardcache.conformance.backend", "numpy", "hf"),
        ("import forwardcache.conformance.http", "httpx", "server"),
        ("import forwardcache.conformance.server", "tenacity", "server"),
        ("import forwardcache.integrations.lm_eval", "lm_eval", "lm-eval"),
        ("import forwardcache.observe.report", "polars", "cli"),
        ("import forwardcache.observe.report.page", "matplotlib", "report"),
        ("import forwardcache.observe.report.page", "jinja2", "report"),
        ("import forwardcache.observe.table", "polars", "cli"),
        ("import forwardcache.observe; forwardcache.observe.to_polars([])", "polars", "cli"),
    ],
)
def test_the_extra_is_named(statement: str, package: str, extra: str) -> None:
    code = WITHOUT.format(statement=statement, package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"{package} ")
    assert done.stdout.endswith(f" needs {package}: pip install 'forwardcache[{extra}]'\n")


def test_the_extras_named_are_those_that_bring_the_packages() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    # Typer brings click.
    for package, extra in EXTRA_OF.items():
        named = " ".join(project["optional-dependencies"][extra]).replace("typer", "typer click")
        assert re.search(rf"\b{package.replace('_', '.')}\b", named), package


def test_the_harness_s_command_says_the_extra_in_one_line(tmp_path: Path) -> None:
    absent = "raise ModuleNotFoundError(name='lm_eval')"
    (tmp_path / "lm_eval.py").write_text(absent)
    paths = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-m", "forwardcache.integrations.lm_eval", "--help"],
        env={**os.environ, "PYTHONPATH": paths}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "forwardcache: forwardcache.integrations.lm_eval needs lm_eval: "
        "pip install 'forwardcache[lm-eval]'\n"
    )


COMMAND_WITHOUT = """
import sys
sys.modules.update(dict.fromkeys({packages!r}))
from forwardcache.__main__ import main
sys.exit(main({argv!r}))
"""


def command_without(packages: list[str], *argv: str) -> subprocess.CompletedProcess[str]:
    code = COMMAND_WITHOUT.format(packages=packages, argv=list(argv))
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


@pytest.mark.parametrize(
    ("argv", "packages", "extra"),
    [
        (["trace", "summary", "t.jsonl"], ["typer"], "cli"),
        (["score", "--model", "m", "--prompts", "p"], ["torch"], "hf"),
        (["diff", "--model", "m", "--texts", "t"], ["numpy"], "hf"),
        (["diff", "--model", "m", "--texts", "t"], ["scipy"], "hf"),
        (["diff", "--model", "m", "--texts", "t", "--report", "p.html"], ["jinja2"], "report"),
        (["check", "backend", "json:loads"], ["numpy"], "hf"),
        (["check", "server", "http://h", "--model-name", "m"], ["httpx"], "server"),
        (["check", "server", "http://h", "--model-name", "m", "--model", "d"], ["torch"], "hf"),
        (["report", "t.jsonl"], ["polars"], "cli"),
        (["report", "t.jsonl", "--format", "html"], ["jinja2"], "report"),
        (["report", "--scores", "rows.jsonl"], ["scipy"], "report"),
        (["store", "info", "values.db"], ["numpy"], "hf"),
        (["store", "info", "redis://localhost"], ["redis"], "redis"),
    ],
)
def test_a_command_says_the_extra_in_one_line(
    argv: list[str], packages: list[str], extra: str
) -> None:
    done = command_without(packages, *argv)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert f"pip install 'forwardcache[{extra}]'" in done.stderr


def test_numbers_of_a_report_and_of_a_store_need_no_more_than_they_use(tmp_path: Path) -> None:
    trace, store = tmp_path / "trace.jsonl", tmp_path / "values.db"
    with BackendInstrumentation(trace_path=trace) as inst:
        inst.cached("op", "base", "a", 8, lambda: 1)
    open_store(store).close()
    unused = ["torch", "transformers", "jinja2", "matplotlib", "scipy"]
    for argv, packages in (
        (["report", str(trace)], [*unused, "numpy"]),
        (["store", "info", str(store)], unused),
    ):
        done = command_without(packages, *argv)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def imported() -> set[str]:
    """What a process has imported that imported the package."""
    code = (
        "import sys, forwardcache.store; from forwardcache.hf import HFBackend; print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {*done.stdout.split()}


@pytest.mark.parametrize("package", ["redis", "ray", "lm_eval", "forwardcache.statistics"])
def test_the_package_alone_imports_none_of_them(package: str, imported: set[str]) -> None:
    assert {"forwardcache.hf", "torch"} <= imported
    assert package not in imported
