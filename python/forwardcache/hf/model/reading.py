"""What the libraries say and raise while they read files: one line or nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

from transformers.utils import logging as transformers_logging

from forwardcache.errors import ForwardCacheError, ModelLoadError
from forwardcache.hf.text.item import blamed_on_item


def clear(
    doing: str, kind: type[ForwardCacheError] = ModelLoadError
) -> AbstractContextManager[None]:
    """Turns whatever the libraries raise at broken files, from KeyError to a panic, into one line.

    Memory that runs out and an interrupt are not about the files and pass through.
    """
    return blamed_on_item(doing, words=first_line, kind=kind)


def first_line(error: BaseException) -> str:
    """What an error says, in one line; after a heading what it heads."""
    if isinstance(error, json.JSONDecodeError | KeyError):
        return f"{type(error).__name__}: {error}"
    lines = str(error).strip().splitlines()
    # Torch heads a list of weights that don't fit; the first of them says more than the heading.
    if len(lines) > 1 and lines[0].startswith("Error(s) in loading state_dict"):
        lines = lines[1:]
    if lines and lines[0].rstrip().endswith(":"):
        # What is wrong comes after it: "Couldn't instantiate the backend tokenizer from one of:".
        return " ".join(line.strip() for line in lines)
    return lines[0].strip() if lines else type(error).__name__


@contextmanager
def without_bars() -> Iterator[None]:
    """No progress bars of transformers in the body."""
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]
