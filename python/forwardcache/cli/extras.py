"""Are the optional packages there? Asked before any work, without importing them."""

from __future__ import annotations

import sys

from forwardcache.errors import InvalidInputError
from forwardcache.extras import install, is_installed

SCORING = (
    *("rich", "polars", "numpy", "scipy"),
    *("torch", "transformers", "peft", "safetensors", "tokenizers"),
)
PARQUET = ("polars",)
PARTS = ("numpy", "pyarrow")
STORE = ("numpy",)
STATISTICS = ("numpy", "scipy")


def check_installed(*modules: str, extra: str = "hf") -> None:
    """Refuse to begin without ``modules``.

    Raises:
        InvalidInputError: naming what is missing and the extra that brings it.
    """
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        raise InvalidInputError(f"needs {', '.join(missing)}: {install(extra)}")


def _is_there(module: str) -> bool:
    return sys.modules.get(module) is not None or is_installed(module)
