"""Runs the blocks of one page in order, as a reader does, in a folder of the reader's own.

Python runs in one namespace a page. A plain block behind it is what it prints, a block whose lead
ends with a file's name is that file. Commands run in a shell; what is shown below one is what it
prints. Outputs are compared without their figures. ``make`` and ``pip`` aren't run, since they set
a machine up: targets have to be there, and so do extras.
"""

from __future__ import annotations

import ast
import asyncio
import builtins
import inspect
import io
import json
import os
import re
import subprocess
import sys
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from types import FunctionType
from typing import Any

from forwardcache import __version__
from tests.docs.blocks import Block, Command, blocks_of, commands_of, without_figures
from tests.patience import PATIENCE_S
from tests.warm import WarmPython

ROOT = Path(__file__).parents[2]


class Page:
    """A page on its way through; the working directory is the reader's folder.

    Args:
        path: The Markdown file.
        namespace: Names that the reader has.
    """

    def __init__(self, path: Path, namespace: dict[str, Any]) -> None:
        self._path, self._namespace = path, {"__builtins__": builtins} | namespace
        self._printed = ""
        self._files: list[Path] = []

    def run(self) -> int:
        """Run every block; how many did something."""
        ran = 0
        for block in blocks_of(self._path):
            try:
                ran += self._run(block)
            except Exception as error:
                error.add_note(f"{self._path}, line {block.line}")
                raise
        return ran

    def _run(self, block: Block) -> bool:
        match block.language:
            case "python":
                self._take(block)
            case "console":
                for command in commands_of(block):
                    self._command(command)
            case "json":
                json.loads(block.text)
            case "sql" | "toml" | "yaml":
                raise AssertionError(f"nothing runs {block.language} here: put it into Python")
            case _ if not block.lead:
                same = without_figures(self._printed) == without_figures(block.text)
                assert same, f"printed:\n{self._printed}"
            case _:
                return False
        return True

    def _take(self, block: Block) -> None:
        if block.before is not None:
            file = self._inserted(block, block.before)
        elif block.file is not None:
            file = self._written(block, Path(block.file))
        else:
            self._python("\n" * (block.line - 1) + block.text, str(self._path))
            return
        # A page may go on with the names of its files; pytest alone runs those of tests.
        if not file.name.startswith("test_"):
            self._python(file.read_text("utf-8"), str(file))

    def _written(self, block: Block, file: Path) -> Path:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(block.text, "utf-8")
        self._files.append(file)
        return file

    def _inserted(self, block: Block, name: str) -> Path:
        for file in self._files:
            text = file.read_text("utf-8")
            if found := re.search(rf"^ *{name} = ", text, re.MULTILINE):
                file.write_text(text[: found.start()] + block.text + text[found.start() :], "utf-8")
                return file
        raise AssertionError(f"no file of the page has {name} =")

    def _python(self, code: str, name: str) -> None:
        flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
        compiled = compile(code, name, "exec", flags, dont_inherit=True)
        out = io.StringIO()
        with redirect_stdout(out):
            # With an await at its top the code is that of a coroutine.
            if inspect.iscoroutine(result := FunctionType(compiled, self._namespace)()):
                asyncio.run(result)
        self._printed = out.getvalue()

    def _command(self, command: Command) -> None:
        program, *arguments = command.text.split(" #")[0].split()
        if program == "make":
            subprocess.run(["make", "-n", *arguments], cwd=ROOT, check=True, capture_output=True)
        elif program == "pip":
            assert arguments[0] == "install"
            _check_extras(command.text)
        else:
            _check_output(command, _ended(command.text))


def _check_extras(text: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    for extras in re.findall(r"\[([\w,]+)\]", text):
        assert set(extras.split(",")) <= set(project["optional-dependencies"])


def _ended(command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        timeout=PATIENCE_S, check=False, env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )  # fmt: skip


def _check_output(command: Command, ended: subprocess.CompletedProcess[str]) -> None:
    told = f"{command.text}\n{ended.stdout}"
    # 1: the answer is no; then the page has to show it.
    assert ended.returncode in ((0, 1) if command.output else (0,)), told
    if command.output:
        # No page states the package's version: where a command prints it, the page has "…".
        printed = ended.stdout.replace(f"forwardcache {__version__}", "forwardcache …")
        assert without_figures(printed) == without_figures(command.output), told


def programs(folder: Path, warm: WarmPython) -> str:
    """A search path that begins with the package's programs of this interpreter."""
    folder.mkdir()
    # Ray's cluster and what pytest rewrites as it imports it are begun by a Python of their own.
    fresh, module = f'exec "{sys.executable}" -m', "tests.docs.command"
    scripts = {
        "forwardcache": f'case " $* " in *" --ray "*) {fresh} {module} "$@";; esac\n'
        f'exec "{warm.python}" -m {module} "$@"',
        "pytest": f'{fresh} pytest "$@"',
    }
    for name, lines in scripts.items():
        (folder / name).write_text(f"#!/bin/sh\n{lines}\n")
        (folder / name).chmod(0o755)
    return f"{folder}{os.pathsep}{os.environ['PATH']}"
