"""Checkpoints of one training run: which adapters a folder holds, the step and base of each."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Sequence
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


def check_same_base(adapters: Sequence[NamedAdapter]) -> None:
    """Refuse adapters that say that they were trained on different models.

    A model's folder is wherever somebody put it, so that what is compared is its own name; whether
    an adapter fits the model that it is put on is seen when it is.

    Args:
        adapters: In folders that are there.

    Raises:
        InvalidInputError: naming two of them, and their models.
    """
    known: dict[str, tuple[NamedAdapter, str]] = {}
    for adapter in adapters:
        given = _base(Path(adapter.folder))
        if given is not None:
            known.setdefault(_model_name(given), (adapter, given))
    if len(known) > 1:
        (one, of_one), (other, of_other), *_ = known.values()
        raise InvalidInputError(
            f"adapters of different models: {one.name} was trained on {of_one}, {other.name} on "
            f"{of_other}; hold each against its own, in a run of its own"
        )


def _base(folder: Path) -> str | None:
    """What an adapter says that it was trained on; None where it says nothing."""
    try:
        given = json.loads((folder / _CONFIG).read_bytes())["base_model_name_or_path"]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return given if isinstance(given, str) and given else None


def _model_name(given: str) -> str:
    """The model's own name, wherever it is: also in the hub's cache, ``models--OWNER--NAME/…``."""
    cached = re.search(r"models--(?:[^/]*--)?([^/]+)/snapshots/", given)
    return (cached[1] if cached else Path(given).name).casefold()
