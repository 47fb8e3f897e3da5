"""Claims: what a command's process puts off is there as soon as something asks for it."""

from __future__ import annotations

import gc
import subprocess
import sys
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from forwardcache.jobs.imports import (
    _MARKS,
    _SYMBOLS,
    _WITHOUT_SYMBOLS,
    _functions_of,
    _later,
    _marked,
    _PutOff,
    import_transformers,
    without_collections,
)


def test_a_stand_in_takes_marks_and_becomes_the_package_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "put_off_package"
    package.mkdir()
    (package / "__init__.py").write_text("answer = 42\ndef disable(fn): return 'real'\n")
    (package / "part.py").write_text("of = 'a part'\n")
    monkeypatch.syspath_prepend(tmp_path)
    spec = find_spec("put_off_package")
    assert spec is not None
    stand_in: Any = _PutOff(spec, dict.fromkeys(_MARKS, _marked))
    monkeypatch.setitem(sys.modules, "put_off_package", stand_in)
    taker: Any = ModuleType("taker")
    taker.disable = stand_in.disable
    monkeypatch.setitem(sys.modules, "taker", taker)

    assert stand_in.disable(len) is len
    assert stand_in.disable(recursive=False)(len) is len
    assert stand_in.allow_in_graph(len) is stand_in.assume_constant_result(len) is len
    assert import_module("put_off_package.part").of == "a part"
    assert "answer" not in vars(stand_in)
    assert not hasattr(stand_in, "__wrapped__")
    assert stand_in.answer == 42
    assert stand_in.disable(len) == "real"
    assert taker.disable(len) == "real"
    assert import_module("put_off_package") is stand_in
    with pytest.raises(AttributeError, match="put_off_package"):
        _ = stand_in.other


_SOURCE = """
def sym_eq(one, other): return "asked"
def is_nested_int(number): return "asked"
def expect_true(truth, skip=0): return "asked"
def has_free_unbacked_symbols(value): return "asked"
class Symbol: pass
"""


def put_off(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    (folder / "put_off_module.py").write_text(_SOURCE)
    monkeypatch.syspath_prepend(folder)
    name = "put_off_module"
    spec = find_spec(name)
    assert spec is not None
    stand_in = _PutOff(spec, {each: _later(name, each) for each in _functions_of(name)})
    monkeypatch.setitem(sys.modules, name, stand_in)
    return stand_in


def test_what_is_asked_of_no_symbol_is_answered_without_the_module(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = put_off(tmp_path, monkeypatch)
    taken = module.sym_eq
    assert (taken(2, 2), taken(2, 3)) == (True, False)
    assert (taken((2, 3), (2, 3)), taken((2, 3), (2,))) == (True, False)
    assert module.is_nested_int(7) is False
    assert (module.expect_true(True), module.expect_true(False)) == (True, False)
    assert "Symbol" not in vars(module)
    assert taken(object(), 2) == "asked"
    assert isinstance(module.Symbol(), module.Symbol)
    assert module.sym_eq(2, 2) == "asked"


@pytest.mark.parametrize("name", ["expect_true", "is_nested_int", "has_free_unbacked_symbols"])
def test_what_may_be_a_symbol_is_asked_of_the_module(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(put_off(tmp_path, monkeypatch), name)(object()) == "asked"


def test_the_answers_without_symbols_are_torch_s_own() -> None:
    symbols: Any = import_module(_SYMBOLS)
    truths: list[tuple[Any, ...]] = [(True,), (False,)]
    pairs: list[tuple[Any, ...]] = [*product((True, False), repeat=2)]
    sizes: list[tuple[Any, ...]] = [(2, 2), (2, 3)]
    sizes += [((2, 3), (2, 3)), ((2, 3), (2, 4)), ((2,), (2, 3))]
    asked = {"sym_and": pairs, "sym_or": pairs, "sym_eq": sizes, "is_nested_int": [(0,), (3,)]}
    for name, (_, answer) in _WITHOUT_SYMBOLS.items():
        if own := getattr(symbols, name, None):
            for arguments in asked.get(name, truths):
                assert answer(*arguments) is own(*arguments), (name, arguments)


def test_in_somebody_else_s_process_nothing_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "freeze", lambda: pytest.fail("nothing may be frozen"))
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled()
    import_transformers()
    assert not isinstance(sys.modules.get("torch._dynamo"), _PutOff)


_IMPORTS = """
import sys
from forwardcache.jobs.imports import OWN_PROCESS, import_transformers
OWN_PROCESS.set(True)
import_transformers()
from forwardcache.hf import HFBackend
tensors = sys.modules["torch.distributed.tensor"]
put_off = {"scipy", "sympy", "peft", "torch.distributed.tensor._api"} & sys.modules.keys()
print(sorted(put_off), tensors.DTensor.__name__)
"""


def test_a_command_imports_neither_peft_nor_sympy_and_who_asks_for_a_part_gets_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _IMPORTS], capture_output=True, check=True, text=True
    )
    assert done.stdout == "[] DTensor\n"
