"""What ``import forwardcache`` brings with it, and how long it takes."""

import json
import subprocess
import sys
from typing import Any

import pytest

import forwardcache
from forwardcache import instrumentation
from tests.patience import PATIENCE_S

HEAVY = ["torch", "numpy", "transformers", "peft", "typer", "rich", "polars", "asyncio"]
PUBLIC = [
    "BackendInstrumentation",
    "BackendStats",
    "ForwardCache",
    "TraceEvent",
    "TraceWriter",
    "prompt_hash",
]
PRIVATE = ["_MISS", "_TraceEvent", "_prompt_hash"]

pytestmark = pytest.mark.thread_unsafe(reason="measures processes of its own")


def python(program: str) -> Any:
    """What a fresh interpreter prints as JSON."""
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    return json.loads(done.stdout)


@pytest.mark.parametrize("module", ["forwardcache", "forwardcache.instrumentation"])
def test_nothing_heavy_is_imported(module: str) -> None:
    program = f"import {module}, json, sys; print(json.dumps(sorted(sys.modules)))"
    assert set(HEAVY).isdisjoint(python(program))


def test_nothing_heavy_need_be_installed() -> None:
    program = f"""
import json, sys
sys.modules.update(dict.fromkeys({HEAVY}))
from forwardcache.instrumentation import BackendInstrumentation
with BackendInstrumentation() as inst:
    inst.cached("op", "view", "prompt", 8, lambda: 1)
    print(json.dumps(inst.stats.cache_misses))
"""
    assert python(program) == 1


def import_ms() -> float:
    """Milliseconds that the import takes a new interpreter."""
    program = """
import json, time
began = time.perf_counter()
import forwardcache.instrumentation
print(json.dumps((time.perf_counter() - began) * 1e3))
"""
    return float(python(program))


@pytest.mark.alone
def test_the_import_takes_less_than_50_ms() -> None:
    # A busy machine can make any one of them slow; a slow import is slow every time.
    assert any(import_ms() < 50 for _ in range(20))


@pytest.mark.parametrize("name", PUBLIC)
def test_the_package_re_exports_the_public_names(name: str) -> None:
    assert getattr(forwardcache, name) is getattr(instrumentation, name)
    assert name in forwardcache.__all__
    assert name in instrumentation.__all__


@pytest.mark.parametrize("name", PRIVATE)
def test_the_names_of_the_plain_python_original_are_there(name: str) -> None:
    assert hasattr(instrumentation, name)


def test_the_private_names_are_the_public_ones() -> None:
    assert instrumentation._TraceEvent is instrumentation.TraceEvent
    assert instrumentation._prompt_hash is instrumentation.prompt_hash


def test_the_sentinel_is_one_object() -> None:
    assert instrumentation.ForwardCache().get(("absent",)) is instrumentation._MISS
