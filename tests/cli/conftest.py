"""The command line in this process, on the model that ships for the demo."""

from __future__ import annotations

import io
import json
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

import forwardcache
from forwardcache.__main__ import main

ASSETS = Path(forwardcache.__file__).parent / "demo"


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.out.splitlines()]

    def refused(self, *words: str, code: int = 2) -> None:
        """Asserts one clear line that has ``words``, and nothing on standard output.

        The line that says what is going to be done may stand before it.
        """
        assert self.code == code, self.err
        said = without_first_line(self.err)
        assert said.count("\n") == 1, self.err
        assert said.startswith("forwardcache: ")
        assert "Traceback" not in said
        assert not self.out
        for word in words:
            assert word in said


def without_first_line(err: str) -> str:
    """What ``score``, ``diff`` or ``export`` said behind its first line, if that is there."""
    first = r"(scoring .* with .*, views|comparing .* over|exporting .* over) .*\n"
    return re.sub(rf"\Aforwardcache: {first}", "", err)


Run = Callable[..., Ended]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    """Calls ``main`` with arguments and standard input."""

    def call(*arguments: object, stdin: bytes = b"") -> Ended:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        capsys.readouterr()
        code = main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        return Ended(code, captured.out, captured.err)

    return call


@pytest.fixture
def score(run: Run) -> Run:
    """``score`` with the demo's model and adapter, in float32 unless another is asked for."""

    def call(*arguments: object, **keywords: Any) -> Ended:
        model = ["--model", ASSETS / "model", "--adapter", ASSETS / "adapter"]
        words = last_of_each([*model, "--dtype", "float32", *arguments])
        return run("score", *words, **keywords)

    return call


@pytest.fixture
def diff(run: Run) -> Run:
    """``diff`` with the demo's model and adapter, in float32 and without nulls unless asked for."""

    def call(*arguments: object, **keywords: Any) -> Ended:
        model = ["--model", ASSETS / "model", "--adapter", ASSETS / "adapter"]
        words = last_of_each([*model, "--dtype", "float32", "--nulls", 0, *arguments])
        return run("diff", *words, **keywords)

    return call


def last_of_each(words: list[Any]) -> list[Any]:
    """A command line whose later options stand for earlier ones: the command refuses both."""
    found: dict[Any, list[Any]] = {}
    option: Any = None
    for word in words:
        if isinstance(word, str) and word.startswith("--"):
            found[option := word] = []
        else:
            found.setdefault(option, []).append(word)
    return [
        word
        for name, values in found.items()
        for word in ([*values] if name is None else [name, *values])
    ]


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    """Twelve prompts with completions and carried fields, as JSON lines."""
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(lines[:12]), "utf-8")
    return path


def first(prompts: Path, count: int) -> Path:
    """A file of the first prompts of the demo, next to ``prompts``."""
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    path = prompts.with_name("first.jsonl")
    path.write_text("".join(lines[:count]), "utf-8")
    return path


@pytest.fixture(scope="module")
def browser() -> Iterator[Chrome]:
    """Chromium without a window; what pages say and ask for is logged."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    assert chromium, "this test needs chromium: apt-get install chromium chromium-driver"
    assert driver, "this test needs chromedriver: apt-get install chromium-driver"
    options = ChromeOptions()
    options.binary_location = chromium
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "hide-scrollbars"):
        options.add_argument(f"--{argument}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    with Chrome(options=options, service=Service(driver)) as opened:
        yield opened


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON lines file."""
    return [json.loads(line) for line in path.read_text("ascii").splitlines()]


@pytest.fixture(scope="module")
def backend() -> Iterator[Any]:
    """The demo's model, asked directly."""
    from forwardcache.hf import HFBackend

    with HFBackend.load(ASSETS / "model", ASSETS / "adapter", dtype="float32") as loaded:
        yield loaded
