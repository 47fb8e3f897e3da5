"""Checkpoints of one training run: which adapters a folder holds, and the step of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.options import NamedAdapter

_NUMBERED = re.compile(r"(.*?)(?<![\d.])(\d{1,18})", re.DOTALL | re.ASCII)
_CONFIG = "adapter_config.json"


def adapters_in(folder: str) -> tuple[NamedAdapter, ...]:
    """The adapters in the sub-folders of ``folder``, each called as its own.

    Checkpoints come in the order of the numbers at the ends of their names, others behind them by
    name. Sub-folders without an adapter are passed over, and so are hidden ones.

    Args:
        folder: What ``--adapters`` was given.

    Raises:
        InvalidInputError: there is no such folder, or no adapter in any sub-folder.
    """
    where = Path(folder)
    if not where.is_dir():
        raise InvalidInputError(f"--adapters {folder}: there is no such folder")
    names = [
        each.name
        for each in where.iterdir()
        if not each.name.startswith(".") and (each / _CONFIG).is_file()
    ]
    if not names:
        hint = "; it is an adapter itself, which --adapter takes"
        raise InvalidInputError(
            f"--adapters {folder}: none of its sub-folders has an {_CONFIG}"
            + (hint if (where / _CONFIG).is_file() else "")
        )
    return tuple(NamedAdapter(name, str(where / name)) for name in sorted(names, key=_in_order))


def _in_order(name: str) -> tuple[bool, str, int, str]:
    found = _NUMBERED.fullmatch(name)
    return (False, found[1], int(found[2]), name) if found else (True, "", 0, name)


def steps_of(names: Iterable[str | None]) -> dict[str | None, int]:
    """By name of an adapter: the step of the training run that it is a checkpoint of.

    Args:
        names: Of adapters; one may stand several times.

    Returns:
        The numbers at the ends of the names that are the same before it, as most are; empty where
        no two are.
    """
    found = {name: _NUMBERED.fullmatch(name) for name in dict.fromkeys(names) if name is not None}
    numbered = {name: (each[1], int(each[2])) for name, each in found.items() if each is not None}
    if not numbered:
        return {}
    prefix, count = Counter(prefix for prefix, _ in numbered.values()).most_common(1)[0]
    if count < 2:
        return {}
    return {name: step for name, (of, step) in numbered.items() if of == prefix}
