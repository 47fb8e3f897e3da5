"""Which of the package's errors a function raises, as far as its source tells.

Followed are calls by name: of functions, of classes, of methods of its own class.
"""

from __future__ import annotations

import ast
import inspect
import textwrap
from collections.abc import Iterator
from types import FunctionType
from typing import Any

from forwardcache.errors import ForwardCacheError


def raised_by(function: Any, owner: type | None, found: dict[Any, set[type[Exception]]]) -> None:
    """Adds the errors of ``function``, and of what it calls by name, to ``found``."""
    if not isinstance(function, FunctionType) or function in found:
        return
    # The methods that a dataclass is given have no source.
    written = function.__code__.co_filename != "<string>"
    if not (written and function.__module__.startswith("forwardcache")):
        return
    found[function] = set()
    [tree] = ast.parse(textwrap.dedent(inspect.getsource(function))).body
    for node in what_runs(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call):
            error = named(node.exc.func, function, owner)
            if inspect.isclass(error) and issubclass(error, ForwardCacheError):
                found[function].add(error)
        elif isinstance(node, ast.Call):
            called = named(node.func, function, owner)
            if inspect.isclass(called):
                for start in ("__init__", "__post_init__"):
                    raised_by(vars(called).get(start), called, found)
            raised_by(called, owner, found)


def what_runs(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below ``node`` but for those of functions that are only made there."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)):
            yield child
            yield from what_runs(child)


def named(node: ast.expr, function: FunctionType, owner: type | None) -> Any:
    """What an expression such as ``name``, ``module.name`` or ``self.name`` stands for, or None."""
    if isinstance(node, ast.Name):
        return owner if node.id == "cls" else function.__globals__.get(node.id)
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if node.value.id in ("self", "cls"):
            return getattr(owner, node.attr, None)
        return getattr(function.__globals__.get(node.value.id), node.attr, None)
    return None
