"""Importing torch and transformers for a command that scores, without what no scoring needs.

Nothing that is imported becomes garbage, so that looking for some, a quarter of the time, is put
off. In a process of its own a command does without more:

- transformers imports scipy's optimisers for the losses of models that find objects in images,
  which no command trains: it is told meanwhile that there is no scipy.
- It marks a few functions for torch's compiler, and so imports all of that. A stand-in takes the
  marks, and becomes the compiler as soon as anything else is asked of it.
- Of sizes that may be symbols torch asks a few questions for every model, and so imports all of
  sympy: a stand-in answers where there is no symbol, and else becomes the module.
- It imports torch's distributed tensors for models that are cut up among processes, which a
  command's is not: it is told that this torch was built without, and who asks for them gets them.
- torch's own libraries are loaded by a thread that holds no interpreter, while transformers begins.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import import_module
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any

OWN_PROCESS: ContextVar[bool] = ContextVar("OWN_PROCESS", default=False)
"""Whether nothing but one command runs in this process."""

# What transformers asks itself, and where it looks for the answer.
_SCIPY = "is_scipy_available"
_DISTRIBUTED = "is_torch_distributed_available"
_ASKED = ("transformers.utils", "transformers.utils.import_utils")
_TENSORS = "torch.distributed.tensor"
_COMPILER = "torch._dynamo"
_MARKS = ("assume_constant_result", "allow_in_graph", "disable")
_SYMBOLS = "torch.fx.experimental.symbolic_shapes"
# What it answers of truths and numbers that are no symbols: nearly all that it is asked.
_WITHOUT_SYMBOLS: dict[str, tuple[type, Callable[..., object]]] = {
    **dict.fromkeys(
        ("expect_true", "guard_or_false", "guard_or_true", "statically_known_true"),
        (bool, lambda truth: truth),
    ),
    "sym_and": (bool, lambda *truths: all(truths)),
    "sym_or": (bool, lambda *truths: any(truths)),
    "sym_eq": (int, lambda one, other: one == other),
    "is_nested_int": (int, lambda _: False),
}
# The one with CUDA is linked against the other.
_LIBRARIES = ("libtorch_cuda.so", "libtorch_cpu.so")
_LAZILY = 1


@contextmanager
def without_collections() -> Iterator[None]:
    """Garbage is not looked for meanwhile; in a command's own process never in what is there now.

    A look goes over a million objects of torch and transformers, of which none ever goes.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if OWN_PROCESS.get():
            gc.freeze()
            # Libraries look at the end for what was never thrown away.
            atexit.register(gc.unfreeze)
        if was_enabled:
            gc.enable()


def import_transformers() -> None:
    """Imports what all of its models are made with."""
    if not OWN_PROCESS.get():
        return
    loading = threading.Thread(target=_load_libraries, name="torch's libraries", daemon=True)
    loading.start()
    import_module("transformers.utils")
    loading.join()
    # For good: modules that are imported later rely on what those before them have defined.
    _tell_that_there_is_none(_DISTRIBUTED)
    # PEFT relies on transformers to have imported them.
    _put_off(_TENSORS, {})
    _put_off(_COMPILER, dict.fromkeys(_MARKS, _marked))
    _put_off(_SYMBOLS, {name: _later(_SYMBOLS, name) for name in _functions_of(_SYMBOLS)})
    before = _tell_that_there_is_none(_SCIPY)
    try:
        import_module("transformers.modeling_utils")
    finally:
        for module, known in before:
            setattr(module, _SCIPY, known)


def _tell_that_there_is_none(question: str) -> list[tuple[ModuleType, Any]]:
    """Answers no wherever the question is asked; what was there before."""
    there = [sys.modules[name] for name in _ASKED if name in sys.modules]
    before = [(module, getattr(module, question)) for module in there if hasattr(module, question)]
    for module, _ in before:
        setattr(module, question, _there_is_none)
    return before


def _there_is_none() -> bool:
    return False


def _load_libraries() -> None:
    """Loads what importing torch loads first; whatever goes wrong here, that says."""
    with suppress(Exception):
        found = find_spec("torch")
        folder = Path(str(found and found.origin)).parent / "lib"
        there = [folder / name for name in _LIBRARIES if (folder / name).is_file()]
        # Called as a function, unlike Python's own way, it lets the interpreter go on.
        load = ctypes.CDLL(None).dlopen
        load.argtypes, load.restype = (ctypes.c_char_p, ctypes.c_int), ctypes.c_void_p
        if there:
            load(str(there[0]).encode(), _LAZILY)


def _put_off(name: str, meanwhile: Mapping[str, Any]) -> None:
    """Puts a stand-in in the place of a module of torch, if that isn't there yet."""
    parent, _, own = name.rpartition(".")
    spec = find_spec(name) if name not in sys.modules else None
    if spec is not None:
        stand_in = _PutOff(spec, meanwhile)
        sys.modules[name] = stand_in
        setattr(sys.modules[parent], own, stand_in)


class _PutOff(ModuleType):
    """A module, until something is asked of it other than what it gives meanwhile, or its parts.

    Args:
        spec: Where it is.
        meanwhile: What it gives until then; whoever has taken it gets the module's own later.
    """

    def __init__(self, spec: ModuleSpec, meanwhile: Mapping[str, Any]) -> None:
        super().__init__(spec.name, None)
        self.__spec__, self.__loader__ = spec, spec.loader
        self.__file__ = spec.origin
        self.__package__ = spec.parent
        if spec.submodule_search_locations is not None:
            self.__path__ = list(spec.submodule_search_locations)
        vars(self).update(meanwhile)
        self._meanwhile = meanwhile

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or "_meanwhile" not in vars(self):
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        self._become_real()
        return getattr(self, name)

    def _become_real(self) -> None:
        given = vars(self).pop("_meanwhile", {})
        loader: Any = self.__loader__
        loader.exec_module(self)
        for module in [*sys.modules.values()] if given else ():
            for name, stand_in in given.items():
                if getattr(module, "__dict__", {}).get(name) is stand_in:
                    setattr(module, name, getattr(self, name))


def _functions_of(module: str) -> list[str]:
    """The functions of a module that isn't imported, by its source; none without that."""
    spec = find_spec(module)
    source = None if spec is None else getattr(spec.loader, "get_source", str)(module)
    return re.findall(r"^def (\w+)\(", source or "", re.MULTILINE)


def _later(module: str, function: str) -> Any:
    """A function of a module that is put off: it calls the module's own where a symbol may be."""
    kind, answer = _WITHOUT_SYMBOLS.get(function, (None, None))

    def call(*asked: Any, **named: Any) -> Any:
        if answer is not None and not named and _are_plain(asked, kind):
            return answer(*asked)
        put_off: Any = sys.modules[module]
        if vars(put_off).get(function) is call:
            put_off._become_real()
        return getattr(put_off, function)(*asked, **named)

    return call


def _are_plain(values: tuple[Any, ...], kind: type | None) -> bool:
    """Whether all are of just that class, or all are tuples of it."""
    if values and all(type(each) is tuple for each in values):
        values = tuple(chain.from_iterable(values))
    return all(type(each) is kind for each in values)


def _marked(function: Any = None, *_: Any, **__: Any) -> Any:
    """A function as it is; without one, what gives a function as it is."""
    return _marked if function is None else function


__all__ = ["OWN_PROCESS", "import_transformers", "without_collections"]
