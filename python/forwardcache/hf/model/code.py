"""What code a model runs: its classes' ``forward``, and the functions that those name.

Whoever replaces one of them, on a class or in a module that defines a model, replaces what computes
every value, and touches no model. ``CodeWatch`` sees it in this process by the functions' identity.
For other processes it describes them: by name and by what was compiled, so that a patched process
and an unpatched one have no words in common. What a function from outside of installed libraries
holds in its closure or its module's names decides too; where that can't be put into words, nothing
is said (``description`` is None).

Followed are functions that the code names in its own module or on its own class, and the attention
that is registered under the configuration's name; not torch's own functions, nor what hides behind
an attribute of an object.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import sysconfig
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter, call, itemgetter
from typing import Any

_CALLS = ("__call__", "_call_impl")
_forward_of = attrgetter("forward")
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_INSTALLED = tuple(sysconfig.get_paths()[name] for name in ("purelib", "platlib", "stdlib"))


@dataclass(frozen=True, slots=True)
class Places:
    """Where code is read from.

    Attributes:
        classes: The classes that it is an attribute of, with all that they are made from.
        names: Dictionaries, and the names that are read there.
        dicts: The dictionaries of the classes.
    """

    classes: list[type]
    names: list[tuple[dict[str, Any], Sequence[str]]]
    dicts: list[dict[str, Any]]


class CodeWatch:
    """The code that some classes run, at one moment.

    Args:
        classes: The modules' classes, in an order that other processes share.
        attentions: Names under which their attention is registered.

    Attributes:
        description: What the code is, in words that mean the same in every process; None if some of
            it can't be described.
    """

    def __init__(self, classes: Sequence[type], attentions: Iterable[str]) -> None:
        walk = _Walk(set(attentions))
        for each in classes:
            walk.enter(each)
        self._classes = list(classes)
        self._namespaces = namespaces = walk.namespaces()
        self._read = [where for where, _ in namespaces]
        self._readers = [_reader(*each) for each in namespaces]
        self._registered = walk.registered
        self._seen = self._look()
        self.description = None if walk.is_unclear else tuple(walk.words)

    def holds(self) -> bool:
        """Whether all of it is as it was."""
        try:
            return self._look() == self._seen
        except (AttributeError, KeyError):
            # A name is gone.
            return False

    def places(self) -> Places | None:
        """Where all that ``holds`` looks at is read from; None where that can't be told."""
        classes = [each for each in (*self._classes, *self._read) if isinstance(each, type)]
        kinds: list[type] = [type(each) for each in classes]
        made_of = {base: None for each in (*classes, *kinds) for base in each.__mro__}
        found = [_dict_of(each) for each in made_of]
        dicts = [each for each in found if each is not None]
        read = [each for each in self._namespaces if isinstance(each[0], dict)]
        names = [*read, *((registry, (name,)) for registry, name in self._registered)]
        is_plain = len(dicts) == len(found) and all(type(each) is dict for each, _ in names)
        return Places(list(made_of), names, dicts) if is_plain else None

    def is_same_as(self, earlier: CodeWatch) -> bool:
        """Whether an earlier watch saw the same functions under the same names."""
        return self._seen == earlier._seen

    def _look(self) -> tuple[list[Any], ...]:
        return (
            list(map(_forward_of, self._classes)),
            list(map(call, self._readers, self._read)),
            [registry.get(name) for registry, name in self._registered],
        )


def _dict_of(kind: type) -> dict[str, Any] | None:
    """The dictionary of a class, of which ``vars`` shows a proxy; None if it can't be had."""
    found = gc.get_referents(vars(kind))
    return found[0] if len(found) == 1 and type(found[0]) is dict else None


def _reader(where: Any, names: Sequence[str]) -> Callable[[Any], Any]:
    """What reads several names in one call: of a dictionary its keys, of a class attributes."""
    return itemgetter(*names) if isinstance(where, dict) else attrgetter(*names)


class _Walk:
    """Goes from entry to entry; what is found is put into words."""

    def __init__(self, attentions: set[str]) -> None:
        self._attentions = attentions
        self._namespaces: dict[int, tuple[Any, dict[str, None]]] = {}
        self._known: set[tuple[int, int]] = set()
        self.registered: list[tuple[dict[str, Any], str]] = []
        self.words: list[str] = []
        self.is_unclear = False
        # Dictionaries and functions that are named by their address stay where they are.
        self._kept: list[Any] = []

    def namespaces(self) -> list[tuple[Any, Sequence[str]]]:
        """Where names were read, and which."""
        return [(where, tuple(names)) for where, names in self._namespaces.values()]

    def enter(self, owner: type) -> None:
        """Goes through a module's class."""
        self.words.append(f"class {_name_of(owner)}")
        self._visit(_forward_of(owner), owner)
        for name in _CALLS:
            # Mostly torch's own class, once for all others.
            self._note(next(each for each in owner.__mro__ if name in vars(each)), name)
            self._visit(getattr(owner, name), owner)

    def _note(self, where: Any, name: str) -> None:
        self._namespaces.setdefault(id(where), (where, {}))[1][name] = None

    def _visit(self, value: Any, owner: type | None) -> None:
        if isinstance(value, functools.partial):
            self.words.append("partial")
            self._hold([value.args, value.keywords], owner, is_foreign=True)
            value = value.func
        if isinstance(value, types.MethodType):
            value = value.__func__
        if not isinstance(value, types.FunctionType):
            self._describe_callable(value)
        elif (id(value), id(owner)) not in self._known:
            self._known.add((id(value), id(owner)))
            self._kept.append(value)
            self._follow(value, owner)

    def _describe_callable(self, value: Any) -> None:
        if isinstance(value, types.BuiltinFunctionType | type):
            self.words.append(_name_of(value))
        else:
            self.words.append(f"object {_name_of(type(value))}")
            self.is_unclear |= not _is_installed(type(value))

    def _follow(self, function: types.FunctionType, owner: type | None) -> None:
        self.words.append(f"{function.__globals__.get('__name__')} {_digest(function.__code__)}")
        if _is_torchs(function):
            return
        is_foreign = not _is_installed(function) and not _is_of_the_same(function, owner)
        defaults = [function.__defaults__, function.__kwdefaults__]
        self._hold([*defaults, *_cells(function)], owner, is_foreign=is_foreign)
        for name in _names(function.__code__):
            if name in function.__globals__:
                self._follow_global(function.__globals__, name, owner, is_foreign=is_foreign)
            if isinstance(getattr(owner, name, None), types.FunctionType):
                self._note(owner, name)
                self._visit(getattr(owner, name), owner)

    def _follow_global(
        self, names: dict[str, Any], name: str, owner: type | None, *, is_foreign: bool
    ) -> None:
        value = names[name]
        registered = getattr(value, "_global_mapping", None)
        if isinstance(registered, dict):
            for attention in sorted(self._attentions & set(value)):
                self.registered += [
                    (each, attention) for each in (value._local_mapping, registered)
                ]
                self._visit(value[attention], None)
        elif isinstance(value, types.FunctionType):
            self._note(names, name)
            self._visit(value, owner)
        elif is_foreign:
            self._note(names, name)
            self._hold([value], owner, is_foreign=True)

    def _hold(self, values: Iterable[Any], owner: type | None, *, is_foreign: bool) -> None:
        """What a function holds; of a library's own not every object needs words."""
        for value in values:
            if isinstance(value, _PLAIN):
                self.words.append(repr(value))
            elif isinstance(value, types.FunctionType | functools.partial | types.MethodType):
                self._visit(value, owner)
            elif isinstance(value, types.ModuleType | types.BuiltinFunctionType | type):
                self.words.append(_name_of(value))
            elif isinstance(value, tuple | list):
                self.words.append(f"{len(value)}:")
                self._hold(value, owner, is_foreign=is_foreign)
            elif isinstance(value, dict):
                self._hold([*value, *value.values()], owner, is_foreign=is_foreign)
            else:
                self.words.append(_name_of(type(value)))
                self.is_unclear |= is_foreign


def _cells(function: types.FunctionType) -> Iterator[Any]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:
            # A cell that nothing was put into yet.
            continue


def _name_of(value: Any) -> str:
    name = getattr(value, "__qualname__", None) or getattr(value, "__name__", "")
    return f"{getattr(value, '__module__', '')}.{name}"


def _is_installed(value: Any) -> bool:
    """Whether it is a library's; what it holds is then decided by its version."""
    code = getattr(value, "__code__", None)
    if code is not None:
        return str(code.co_filename).startswith(_INSTALLED)
    return not str(value.__module__).startswith("__main__")


def _is_of_the_same(function: types.FunctionType, owner: type | None) -> bool:
    """Whether a function is from the module of a class or of one that it is made from."""
    homes = () if owner is None else (each.__module__ for each in owner.__mro__)
    return function.__globals__.get("__name__") in homes


def _is_torchs(function: types.FunctionType) -> bool:
    return str(function.__globals__.get("__name__")).partition(".")[0] == "torch"


@lru_cache(maxsize=4096)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """Names that the code reads, of inner functions too, each once."""
    found = dict.fromkeys(code.co_names)
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            found |= dict.fromkeys(_names(const))
    return tuple(found)


@lru_cache(maxsize=4096)
def _digest(code: types.CodeType) -> str:
    """Hex digest of what was compiled, without where it was written."""
    words = [code.co_code, code.co_names, code.co_varnames, code.co_freevars, code.co_flags]
    text = repr([*words, code.co_qualname, [_const(each) for each in code.co_consts]])
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _const(value: Any) -> Any:
    if isinstance(value, types.CodeType):
        return _digest(value)
    if isinstance(value, tuple):
        return [_const(each) for each in value]
    # The order of a set is another one in each process.
    return sorted(map(repr, value)) if isinstance(value, frozenset) else value
