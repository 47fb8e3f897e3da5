"""Are the optional packages there? Asked before any work, without importing them."""

from __future__ import annotations

import os
import sys
import warnings
from importlib.util import find_spec

from forwardcache.cli.exits import BadInputError
from forwardcache.extras import install

SCORING = ("rich", "polars", "numpy", "torch", "transformers", "peft", "safetensors", "tokenizers")
PARQUET = ("polars",)
STORE = ("numpy",)


def check_installed(*modules: str, extra: str = "hf") -> None:
    """Refuse to begin without ``modules``.

    Raises:
        BadInputError: naming what is missing and the extra that brings it.
    """
    missing = [module for module in modules if not _is_there(module)]
    if missing:
        raise BadInputError(f"needs {', '.join(missing)}: {install(extra)}")


def _is_there(module: str) -> bool:
    try:
        return sys.modules.get(module) is not None or find_spec(module) is not None
    except (ImportError, ValueError):
        return False


def quiet_libraries() -> None:
    """Keep transformers' words and bars off the terminal; has to run before it is imported.

    Threads of torch that wait without sleeping slow each other down on a busy machine.
    """
    for library in ("torch", "transformers", "peft"):
        warnings.filterwarnings("ignore", category=FutureWarning, module=library)
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
