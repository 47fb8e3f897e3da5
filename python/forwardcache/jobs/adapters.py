"""``--adapter [NAME=]DIR``: which adapters there are, and what each is called."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from forwardcache.adapter_names import check_names
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.checkpoints import adapters_in
from forwardcache.jobs.options import NamedAdapter


def parse_adapters(words: Sequence[str], folder: str | None = None) -> tuple[NamedAdapter, ...]:
    """What each ``--adapter`` was given, and behind them what ``--adapters`` has.

    Args:
        words: ``NAME=DIR`` each, split at the first ``=``; or ``DIR``, which may hold one too if it
            is there.
        folder: Its sub-folders hold adapters; None for no such folder.

    Raises:
        InvalidInputError: a name is none or stands twice, one of several has no name, or there is
            no adapter in the folder.
    """
    adapters = (*map(_parsed, words), *(() if folder is None else adapters_in(folder)))
    unnamed = [each.folder for each in adapters if each.name is None]
    if unnamed and len(adapters) > 1:
        raise InvalidInputError(
            f"--adapter {unnamed[0]}: several adapters need a name each, as in NAME={unnamed[0]}"
        )
    check_names([each.name for each in adapters if each.name is not None])
    return adapters


def default_views(adapters: Sequence[NamedAdapter]) -> str:
    """The views that are scored where none are named: base, and each adapter."""
    each = ("ft" if one.name is None else f"ft:{one.name}" for one in adapters)
    return ",".join(["base", *each])


def adapters_to_load(adapters: Sequence[NamedAdapter]) -> str | dict[str, str] | None:
    """What a backend is given: a folder, folders by name, or nothing."""
    return unnamed_adapter(adapters) or folders_by_name(adapters) or None


def unnamed_adapter(adapters: Sequence[NamedAdapter]) -> str | None:
    """The folder of the only adapter where it has no name."""
    return adapters[0].folder if adapters and adapters[0].name is None else None


def folders_by_name(adapters: Sequence[NamedAdapter]) -> dict[str, str]:
    """The folders of the adapters that have names."""
    return {each.name: each.folder for each in adapters if each.name is not None}


def _parsed(word: str) -> NamedAdapter:
    name, equals, folder = word.partition("=")
    if not equals or Path(word).exists():
        return NamedAdapter(None, word)
    if not folder:
        raise InvalidInputError(f"--adapter {word}: behind the = there is no folder")
    return NamedAdapter(name, folder)
