"""Which files of ``tests/`` a test is made of."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
# In a text: a module that a process of its own is to run or import.
_NAMED: Final = re.compile(r"\btests(?:\.\w+)+")


def files_of(*paths: str, root: Path = ROOT) -> tuple[str, ...]:
    """Some files of ``tests`` and those that they use.

    Args:
        paths: Paths below ``root``.
        root: The folder that ``tests`` is in.

    Returns:
        Paths below ``root``, sorted: the files themselves, those that they import or name in a text
        as modules, those that these do, and so on.
    """
    found: set[Path] = set()
    further = {root / path for path in paths}
    while further:
        path = further.pop()
        if path not in found:
            found.add(path)
            further |= {*_named_in(path, root)}
    return tuple(sorted(str(path.relative_to(root)) for path in found))


def conftests_of(*tests: str, root: Path = ROOT) -> tuple[str, ...]:
    """Each ``conftest.py`` that pytest loads for some test files; all paths are below ``root``."""
    folders = {folder for test in tests for folder in Path(test).parents}
    conftests = sorted(str(folder / "conftest.py") for folder in folders)
    return tuple(path for path in conftests if (root / path).is_file())


def _named_in(path: Path, root: Path) -> Iterator[Path]:
    for name in _names_in(path):
        place = root / name.replace(".", "/")
        for candidate in (place.with_suffix(".py"), place / "__init__.py", place / "__main__.py"):
            if candidate.is_file():
                yield candidate


def _names_in(path: Path) -> Iterator[str]:
    """Dotted names of which some are modules of ``tests``."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "tests":
            yield node.module or ""
            yield from (f"{node.module}.{each.name}" for each in node.names)
        elif isinstance(node, ast.Import):
            yield from (each.name for each in node.names if each.name.startswith("tests."))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield from _NAMED.findall(node.value)
