"""Importing torch and transformers for a command that scores, without what no scoring needs.

Nothing that is imported becomes garbage, so that looking for some, a quarter of the time, is put
off. In a process of its own a command does without more:

- transformers imports scipy's optimisers for the losses of models that find objects in images,
  which no command trains: it is told meanwhile that there is no scipy.
- It marks a few functions for torch's compiler, and so imports all of that. A stand-in takes the
  marks, and becomes the compiler as soon as anything else is asked of it.
- torch's own libraries are loaded by a thread that holds no interpreter, while transformers begins.
"""

from __future__ import annotations

import atexit
import ctypes
import gc
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

OWN_PROCESS: ContextVar[bool] = ContextVar("OWN_PROCESS", default=False)
"""Whether nothing but one command runs in this process."""

_TOLD = "is_scipy_available"
_COMPILER = "torch._dynamo"
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
    import transformers.utils

    loading.join()
    known = vars(transformers.utils).get(_TOLD)
    with _compiler_put_off():
        try:
            if known is not None:
                setattr(transformers.utils, _TOLD, _there_is_none)
            import transformers.modeling_utils
        finally:
            if known is not None:
                setattr(transformers.utils, _TOLD, known)


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


@contextmanager
def _compiler_put_off() -> Iterator[None]:
    """Puts a stand-in in the place of torch's compiler, if that isn't there yet."""
    import torch

    spec = find_spec(_COMPILER) if _COMPILER not in sys.modules else None
    if spec is not None and spec.submodule_search_locations is not None:
        stand_in = _Compiler(spec)
        sys.modules[_COMPILER] = stand_in
        setattr(torch, _COMPILER.rpartition(".")[2], stand_in)
    yield


class _Compiler(ModuleType):
    """torch's compiler, until something other than its marks or one of its modules is asked for.

    Args:
        spec: Where it is.
    """

    def __init__(self, spec: ModuleSpec) -> None:
        super().__init__(spec.name, None)
        self.__spec__, self.__loader__ = spec, spec.loader
        self.__file__ = spec.origin
        self.__package__ = spec.name
        self.__path__ = list(spec.submodule_search_locations or ())
        self.assume_constant_result = self.allow_in_graph = self.disable = _marked

    def __getattr__(self, name: str) -> Any:
        own = vars(self)
        if name.startswith("__") or "is_real" in own:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        own["is_real"] = True
        loader: Any = self.__loader__
        loader.exec_module(self)
        return getattr(self, name)


def _marked(function: Any = None, *_: Any, **__: Any) -> Any:
    """A function as it is; without one, what gives a function as it is."""
    return _marked if function is None else function


__all__ = ["OWN_PROCESS", "import_transformers", "without_collections"]
