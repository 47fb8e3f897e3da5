"""Which adapters a backend has: none, one without a name, or several by their names."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from os import PathLike
from typing import Any, TypeAlias

from torch import nn

from forwardcache.adapter_names import check_names
from forwardcache.errors import AdapterError, InvalidInputError
from forwardcache.hf.model.adapter_folder import check_holds_none, chosen_adapter, names_on
from forwardcache.hf.model.adapters import Adapters
from forwardcache.hf.model.adapters_of_folders import AdaptersOfFolders
from forwardcache.hf.model.adapters_on_model import AdaptersOnModel
from forwardcache.hf.model.identity import ModelIdentity

Folder: TypeAlias = str | PathLike[str]
AdapterChoice: TypeAlias = Folder | Mapping[str, Folder] | Sequence[str] | None
"""A folder or a name; folders by their names; or names."""


def check_adapters(adapter: AdapterChoice, max_adapters: int) -> None:
    """Refuses names that views can't hold.

    Raises:
        InvalidInputError: a name is none or stands twice, there are none, or ``max_adapters`` is
            below 1.
    """
    if max_adapters < 1:
        raise InvalidInputError(f"max_adapters must be at least 1, got {max_adapters!r}")
    if adapter is None or isinstance(adapter, str | PathLike):
        return
    if not isinstance(adapter, Mapping | Sequence) or isinstance(adapter, bytes):
        kind = type(adapter).__name__
        raise InvalidInputError(f"adapter must be a folder, a dict or a list of names, got {kind}")
    names = list(adapter)
    if not names or not all(isinstance(name, str) for name in names):
        raise InvalidInputError(f"adapter: expected names of adapters, got {names!r}")
    check_names(names)


def adapter_to_load(
    path: str, adapter: Folder | Mapping[str, Folder] | None, *, allow_download: bool
) -> str | Mapping[str, Folder] | None:
    """The adapter, or adapters, for the model in ``path``.

    Raises:
        AdapterError: the folder has an adapter of its own, and others are asked for.
    """
    if isinstance(adapter, Mapping):
        check_holds_none(path, list(adapter), allow_download=allow_download)
        return adapter
    return chosen_adapter(path, adapter, allow_download=allow_download)


def folders_of(adapter: Folder | Mapping[str, Folder] | None) -> list[str]:
    """The folders of the adapters that are asked for."""
    if adapter is None:
        return []
    return list(map(str, adapter.values() if isinstance(adapter, Mapping) else [adapter]))


def named_adapters(
    model: nn.Module,
    causal_lm: Any,
    identity: ModelIdentity,
    adapter: AdapterChoice,
    *,
    most: int,
    body: Any,
    base: Callable[[], ModelIdentity],
) -> Adapters | None:
    """The adapters that have names; None where there are none such.

    Args:
        model: What is called, as it stands.
        causal_lm: The transformers model itself.
        identity: Of the model as it stands.
        adapter: What was asked for.
        most: How many are in memory at once, where they are loaded.
        body: What gives the model's head its states; None where it can't be told.
        base: Makes an identity of the model without its adapters.

    Raises:
        AdapterError: folders are given for a model that has adapters, or names that it doesn't
            have.
    """
    there = names_on(model)
    if isinstance(adapter, Mapping):
        if there:
            raise AdapterError(
                f"the model has the adapters {', '.join(there)}: give a model without adapters, or "
                "the names of those that it has"
            )
        folders = {name: str(folder) for name, folder in adapter.items()}
        return AdaptersOfFolders(causal_lm, identity, folders, most=most, body=body)
    if isinstance(adapter, str | PathLike):
        return None
    is_list = adapter is not None
    names = there if adapter is None else list(adapter)
    if missing := [name for name in names if name not in there]:
        raise AdapterError(
            f"the model has no adapter called {missing[0]!r}; it has {', '.join(there) or 'none'}"
        )
    if not is_list and len(names) < 2:
        return None
    return AdaptersOnModel(
        model, causal_lm, identity, names, body=body, base=base(), needs_name=is_list
    )


__all__ = [
    "AdapterChoice",
    "adapter_to_load",
    "check_adapters",
    "folders_of",
    "named_adapters",
]
