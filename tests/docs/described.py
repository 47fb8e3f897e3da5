"""What the reference shows, and what the docstrings of it name."""

from __future__ import annotations

import inspect
import itertools
import re
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from types import ModuleType
from typing import Any, NamedTuple

import griffe

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
