"""Claims: what a command's process puts off is there as soon as something asks for it."""

from __future__ import annotations

import gc
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

import pytest

from forwardcache.jobs.imports import _Compiler, import_transformers, without_collections


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
    stand_in = _Compiler(spec)
    monkeypatch.setitem(sys.modules, "put_off_package", stand_in)

    assert stand_in.disable(len) is len
    assert stand_in.disable(recursive=False)(len) is len
    assert stand_in.allow_in_graph(len) is stand_in.assume_constant_result(len) is len
    assert import_module("put_off_package.part").of == "a part"
    assert "answer" not in vars(stand_in)
    assert not hasattr(stand_in, "__wrapped__")
    assert stand_in.answer == 42
    assert stand_in.disable(len) == "real"
    assert import_module("put_off_package") is stand_in
    with pytest.raises(AttributeError, match="put_off_package"):
        _ = stand_in.other


def test_in_somebody_else_s_process_nothing_is_put_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gc, "freeze", lambda: pytest.fail("nothing may be frozen"))
    with without_collections():
        assert not gc.isenabled()
    assert gc.isenabled()
    import_transformers()
    assert not isinstance(sys.modules.get("torch._dynamo"), _Compiler)
