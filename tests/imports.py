"""Who imports whom in the package, read from the sources.

Imports for type checkers alone are left out: they draw no line at run time.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import forwardcache

PACKAGE = Path(forwardcache.__file__).parent


def module_of(path: Path) -> str:
    """The dotted name below the package; empty for the package itself."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def graph() -> dict[str, set[str]]:
    """By module: the modules that it imports, anywhere in its code."""
    files = {module_of(path): path for path in PACKAGE.rglob("*.py")}
    return {
        module: {found for found in _imported(path, files) if found != module}
        for module, path in files.items()
    }


def _imported(path: Path, files: dict[str, Path]) -> Iterator[str]:
    for node in _run_time(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            names = [(each.name, "") for each in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [(node.module or "", each.name) for each in node.names]
        else:
            continue
        for module, name in names:
            package, _, rest = module.partition(".")
            if package == "forwardcache":
                whole = f"{rest}.{name}".strip(".")
                yield whole if whole in files else rest


def _run_time(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING"):
            yield from _run_time(child)


def circles(found: dict[str, set[str]]) -> list[str]:
    """The modules that reach themselves, as far as they are left once all others are taken away."""
    left = dict(found)
    while ends := [each for each, others in left.items() if not others & left.keys()]:
        for each in ends:
            del left[each]
    return sorted(left)
