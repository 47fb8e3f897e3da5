"""Which extra brings which package, so that an import that fails says what to install."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec

from forwardcache.errors import MissingExtraError

EXTRA_OF = {
    **dict.fromkeys(("typer", "click", "rich", "polars"), "cli"),
    **dict.fromkeys(("jinja2", "matplotlib"), "report"),
    **dict.fromkeys(("numpy", "scipy", "torch", "transformers", "peft", "safetensors"), "hf"),
    "tokenizers": "hf",
    "lm_eval": "lm-eval",
    **dict.fromkeys(("pyarrow", "fsspec"), "parts"),
    "ray": "ray",
    "redis": "redis",
    **dict.fromkeys(("httpx", "tenacity"), "server"),
}


def install(extra: str) -> str:
    """The command that brings ``extra``."""
    return f"pip install 'forwardcache[{extra}]'"


@contextmanager
def extra_named(what: str) -> Iterator[None]:
    """Around imports: one that fails says which extra brings its package.

    Args:
        what: What needs the package, as the subject of a sentence in the singular.

    Raises:
        MissingExtraError: for a package of an extra. Any other import fails as it would.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRA_OF:
            raise
        message = f"{what} needs {package}: {install(EXTRA_OF[package])}"
        raise MissingExtraError(message, name=package) from error


def require(what: str, *packages: str) -> None:
    """Refuse to go on without packages that are imported only once something needs them.

    Args:
        what: As of ``extra_named``.
        *packages: What it needs.

    Raises:
        MissingExtraError: one isn't installed.
    """
    with extra_named(what):
        for package in packages:
            if sys.modules.get(package) is None and not is_installed(package):
                raise ModuleNotFoundError(f"No module named {package!r}", name=package)


def is_installed(package: str) -> bool:
    """Whether a package of that name could be imported; it is not."""
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
