"""Every public name says what it takes and which of the package's errors it raises.

Public is what the reference shows. Not checked here: whether what a docstring says is true, and
errors that come out of a method of another object.
"""

from __future__ import annotations

import ast
import inspect
import itertools
import pkgutil
import re
import textwrap
from collections.abc import Callable, Iterator
from functools import cache
from importlib import import_module
from types import FunctionType, ModuleType
from typing import Any, NamedTuple

import griffe
import pytest

import forwardcache
from forwardcache.errors import EmptyPromptError, ForwardCacheError, InvalidInputError
from tests.docs.page import ROOT

# Of a page: `::: module`, and perhaps the members that it shows.
_SHOWN = re.compile(r"^::: ([\w.]+)(?:\n +options: \{members: \[(.*)\]\})?", re.MULTILINE)
# A class that says this is never called by users.
_MADE_BY = re.compile(r"\bmade by\b", re.IGNORECASE)
# A docstring that leaves its sections to another function's, which has the same parameters.
_THOSE_OF = re.compile(r"options and errors are those of ``(\w+)``")


class Public(NamedTuple):
    """A function, a method with its class, or a class."""

    path: str
    value: Any
    owner: type | None = None

    @property
    def sections(self) -> dict[str, set[str]]:
        """Names in each section of the docstring; of a class those of its bases too."""
        texts = [inspect.getdoc(self.value) or ""]
        if inspect.isclass(self.value):
            texts += [inspect.getdoc(each) or "" for each in self.value.__mro__[1:-1]]
        elif other := _THOSE_OF.search(texts[0]):
            texts.append(inspect.getdoc(self.value.__globals__[other[1]]) or "")
        found: dict[str, set[str]] = {"parameters": set(), "attributes": set(), "raises": set()}
        parsed = [griffe.parse_google(griffe.Docstring(text), warnings=False) for text in texts]
        for section in itertools.chain(*parsed):
            if section.kind.value == "raises":
                found["raises"] |= {str(each.annotation) for each in section.value}
            elif section.kind.value in found:
                found[section.kind.value] |= {each.name.lstrip("*") for each in section.value}
        return found


def shown() -> Iterator[tuple[ModuleType, list[str]]]:
    """The modules of the reference, with those of their names that it shows."""
    for page in sorted((ROOT / "docs" / "reference").glob("*.md")):
        for name, members in _SHOWN.findall(page.read_text("utf-8")):
            module = import_module(name)
            yield module, members.split(", ") if members else names_of(module)


def names_of(module: ModuleType) -> list[str]:
    """What it lists as public, or else what is written in it."""
    here = module.__name__
    own = [name for name in vars(module) if getattr(vars(module)[name], "__module__", "") == here]
    return getattr(module, "__all__", [name for name in own if not name.startswith("_")])


def methods_of(owner: type) -> Iterator[tuple[str, Any]]:
    """Its public methods and properties, but for those that another package's class gives it."""
    # A field that holds a function is one of the class's attributes.
    for name in sorted({*dir(owner)} - {*getattr(owner, "__dataclass_fields__", ())}):
        giver = next((each for each in owner.__mro__ if name in vars(each)), object)
        if not name.startswith("_") and giver.__module__.startswith("forwardcache"):
            what = vars(giver)[name]
            if isinstance(what, (property, classmethod, staticmethod)) or inspect.isroutine(what):
                yield name, what


@cache
def public() -> dict[str, Public]:
    return {each.path: each for each in described()}


def described() -> Iterator[Public]:
    for module, names in shown():
        for name in names:
            value, path = getattr(module, name), f"{module.__name__}.{name}"
            if inspect.isclass(value):
                yield Public(path, value)
                for method, what in methods_of(value):
                    yield Public(f"{path}.{method}", getattr(what, "__func__", what), value)
            elif callable(value):
                yield Public(path, value)


def parameters_of(one: Public) -> set[str]:
    """Those that a caller gives; none of an error, of a protocol, or of what others make."""
    if inspect.isclass(one.value):
        fixed = issubclass(one.value, BaseException) or getattr(one.value, "_is_protocol", False)
        if fixed or _MADE_BY.search(inspect.getdoc(one.value) or ""):
            return set()
    return set(inspect.signature(one.value).parameters) - {"self", "cls"}


def undescribed(one: Public) -> set[str]:
    """Its parameters that no section of the docstring names."""
    sections = one.sections
    return parameters_of(one) - sections["parameters"] - sections["attributes"]


def unsaid(one: Public) -> set[str]:
    """Names of the package's errors that it raises and that its docstring doesn't have."""
    starts = [one.value]
    if inspect.isclass(one.value):
        starts = [vars(one.value).get(name) for name in ("__init__", "__post_init__")]
    elif isinstance(one.value, property):
        starts = [one.value.fget]
    found: dict[Any, set[type[Exception]]] = {}
    for start in starts:
        raised_by(start, one.owner, found)
    # A class says once what all its methods raise.
    owner = Public("", one.owner).sections["raises"] if one.owner else set()
    said = one.sections["raises"] | owner
    return {error.__name__ for errors in found.values() for error in errors
            if not said & {each.__name__ for each in error.__mro__}}  # fmt: skip


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


def test_the_reference_shows_every_public_package() -> None:
    listed = set()
    for _, name, is_package in pkgutil.walk_packages(forwardcache.__path__, "forwardcache."):
        if is_package and hasattr(import_module(name), "__all__"):
            listed.add(name)
    assert listed <= {module.__name__ for module, _ in shown()}
    ids = {id(each.value) for each in public().values()}
    values = {name: getattr(forwardcache, name) for name in forwardcache.__all__}
    assert {name for name, value in values.items() if id(value) not in ids} == {"__version__"}


def test_every_public_name_has_a_docstring() -> None:
    assert [path for path, each in public().items() if not inspect.getdoc(each.value)] == []


def test_every_parameter_is_described() -> None:
    found = {path: undescribed(each) for path, each in public().items() if callable(each.value)}
    assert {path: names for path, names in found.items() if names} == {}


def test_every_error_of_ours_that_is_raised_is_described() -> None:
    found = {path: unsaid(each) for path, each in public().items()}
    assert {path: names for path, names in found.items() if names} == {}


# What the checks find


def all_is_said(number: int) -> None:
    """One.

    Args:
        number: A number.

    Raises:
        InvalidInputError: there is none.
    """
    _refuse(number)


def not_described(number: int) -> None:
    """One."""
    _refuse(number)


def elsewhere(number: int) -> None:
    """One; its options and errors are those of ``all_is_said``."""
    _refuse(number)


def _refuse(number: int) -> None:
    if not number:
        raise EmptyPromptError("none")


@pytest.mark.parametrize("function", [all_is_said, elsewhere])
def test_what_is_described_is_found(function: Callable[..., Any]) -> None:
    assert undescribed(Public("", function)) == set()
    assert issubclass(EmptyPromptError, InvalidInputError)
    assert InvalidInputError.__name__ in Public("", function).sections["raises"]


def test_what_is_not_described_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in (all_is_said, elsewhere, not_described, _refuse):
        monkeypatch.setattr(function, "__module__", "forwardcache.made_up")
    assert undescribed(Public("", not_described)) == {"number"}
    assert unsaid(Public("", not_described)) == {"EmptyPromptError"}
    assert unsaid(Public("", all_is_said)) == unsaid(Public("", elsewhere)) == set()
