"""Claims: without the package that an extra brings, importing what needs it says which extra."""

from __future__ import annotations

import subprocess
import sys

import pytest

WITHOUT = """
import sys
sys.modules[{package!r}] = None
try:
    import {module}
except ImportError as error:
    print(error)
"""


@pytest.mark.parametrize(
    ("module", "package", "extra"),
    [
        ("forwardcache.store.redis", "redis", "forwardcache[redis]"),
        ("forwardcache.distributed", "ray", "forwardcache[ray]"),
    ],
)
def test_the_extra_is_named(module: str, package: str, extra: str) -> None:
    code = WITHOUT.format(module=module, package=package)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert f"pip install '{extra}'" in done.stdout


@pytest.mark.parametrize("package", ["redis", "ray", "lm_eval"])
def test_the_package_alone_imports_none_of_them(package: str) -> None:
    imports = "import sys, forwardcache, forwardcache.hf, forwardcache.store"
    code = f"{imports}; print({package!r} in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
