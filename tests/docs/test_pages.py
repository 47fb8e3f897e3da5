"""Every Python and console block of the README and of ``docs/`` runs, page by page."""

from __future__ import annotations

import shutil
import sys
from json import JSONDecodeError
from pathlib import Path
from subprocess import CalledProcessError
from types import SimpleNamespace
from typing import Any

import pytest

import forwardcache
from forwardcache import BackendInstrumentation
from tests.docs.blocks import Block, Command, blocks_of, commands_of, without_figures
from tests.docs.page import ROOT, Page, programs
from tests.warm import WarmPython

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DEMO = Path(forwardcache.__file__).parent / "demo"
READER = Path(__file__).parent / "reader"
PROMPTS, FEW = 40, 20
"""Prompts of the reader: where a page shows what came of them, and elsewhere."""


@pytest.fixture
def reader(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
    warm: WarmPython,
) -> Path:
    """The reader's folder: a model, an adapter, prompts, traces and a package of their own."""
    folder = tmp_path / "reader"
    shutil.copytree(READER, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "MODEL_FOLDER").symlink_to(DEMO / "model")
    (folder / "ADAPTER_FOLDER").symlink_to(DEMO / "adapter")
    prompts = (DEMO / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)
    count = PROMPTS if shows_output(request.node.callspec.params.get("path")) else FEW
    (folder / "prompts.jsonl").write_text("".join(prompts[:count]), "utf-8")
    (folder / "train.jsonl").write_text("".join(prompts[PROMPTS : PROMPTS + 100]), "utf-8")
    (folder / "runs").mkdir()
    for name in ("trace", "one", "two", "runs/workers.0", "runs/workers.1"):
        write_trace(folder / f"{name}.jsonl")
    python = [str(folder), *(path for path in sys.path if path)]
    monkeypatch.setenv("PYTHONPATH", ":".join(python))
    monkeypatch.setenv("PATH", programs(tmp_path / "bin", warm))
    # pytest would show a reader's failures at full width.
    monkeypatch.delenv("CI", raising=False)
    for name, value in {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb"}.items():
        monkeypatch.setenv(name, value)
    # Each of a reader's own benchmarks would go on for a second.
    monkeypatch.setenv("PYTEST_ADDOPTS", "--benchmark-max-time=0.1")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.chdir(folder)
    return folder


def shows_output(path: Path | None) -> bool:
    """Whether a page shows what a command of its prints, which is of all prompts."""
    if path is None:
        return False
    consoles = (block for block in blocks_of(path) if block.language == "console")
    return any(command.output for block in consoles for command in commands_of(block))


def write_trace(path: Path) -> None:
    with BackendInstrumentation(trace_path=path) as inst:
        for probe in ("mmlu", "gsm8k"):
            with inst.probe(probe):
                inst.cached_batch("next_token_dist", "base", ["a", "b"], 8, lambda at: at)
                inst.cached("next_token_dist", "ft", probe, 8, lambda: 1)


def names_of_a_reader() -> dict[str, Any]:
    """What the pages take for given: a model of the reader's own, a request and its context."""
    return {
        "__name__": "__page__",
        "my_model": lambda prompt, top_k: [0.0] * top_k,
        "my_model_batch": lambda prompts, top_k: [[0.0] * top_k for _ in prompts],
        "request": {"model": "m", "token_ids": [1, 2, 3], "stop_conditions": {"max_tokens": 4}},
        "context": SimpleNamespace(id="1", is_stopped=lambda: False, is_killed=lambda: False),
    }


@pytest.mark.timeout(900)
@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_block_of_the_page_runs(path: Path, reader: Path) -> None:
    runs = {"python", "console", "json"}
    expected = sum(block.language in runs for block in blocks_of(path))
    assert Page(path, names_of_a_reader()).run() >= expected


def page(folder: Path, text: str) -> Page:
    path = folder / "page.md"
    path.write_text(text, "utf-8")
    return Page(path, {})


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("```python\n1 / 0\n```\n", ZeroDivisionError),
        ("```python\nprint('a 1')\n```\n\n```\nb 1\n```\n", AssertionError),
        ("```console\n$ false\n```\n", AssertionError),
        ("```console\n$ echo a\nb\n```\n", AssertionError),
        ("```console\n$ make no-such-target\n```\n", CalledProcessError),
        ("```console\n$ pip install 'forwardcache[nothing]'\n```\n", AssertionError),
        ("```console\necho a\n```\n", AssertionError),
        ("```sql\nSELECT 1\n```\n", AssertionError),
        ("```json\n{,}\n```\n", JSONDecodeError),
    ],
)
def test_a_block_that_is_wrong_is_found(text: str, error: type[Exception], reader: Path) -> None:
    with pytest.raises(error):
        page(reader, text).run()


def test_figures_may_differ_and_nothing_else() -> None:
    assert without_figures("┃ a ┃ 1,234 ┃\n└───┘\n") == without_figures("┃ a ┃     5.0e-3 ┃\n└──┘")
    assert without_figures("(a=1, b=0.5)") == without_figures("(a=20, b=8.7e-06)")
    assert without_figures("a 1") != without_figures("b 1")
    assert without_figures("forwardcache: 7%, comparing nulls, 0:01:30 left\na 1") == ["a #"]


def test_files_and_insertions_are_told_by_the_lead(tmp_path: Path) -> None:
    path = tmp_path / "page.md"
    path.write_text("My engine, `engine.py`:\n\n```python\nx = 1\n```\n\n```\n1\n```\n")
    assert [*blocks_of(path)] == [
        Block("python", "x = 1\n", 4, "My engine, `engine.py`:"),
        Block("", "1\n", 8, ""),
    ]
    assert [block.file for block in blocks_of(path)] == ["engine.py", None]
    console = Block("console", "$ a \\\n   b\nshown\n$ c\n", 1, "")
    assert [*commands_of(console)] == [Command("a b", "shown\n"), Command("c", "")]
