"""Every public name says what it takes and which of the package's errors it raises.

Public is what the reference shows. Not checked here: whether what a docstring says is true, and
errors that come out of a method of another object.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

import forwardcache
from forwardcache.errors import EmptyPromptError, InvalidInputError
from tests.docs.described import Public, parameters_of, public, shown
from tests.docs.raised import raised_by


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
