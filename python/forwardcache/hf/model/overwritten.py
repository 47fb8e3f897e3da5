"""What is loaded when an adapter is put on a model, and what of the model's own that replaces.

PEFT stores embeddings and head with an adapter that trains them, or on request, as the trainer's
base model had them, and loads them over the model's. Where they differ from the model's own, what
is left when the adapter is off isn't the base model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import nn

from forwardcache.errors import AdapterError

_NOTE = "_forwardcache_overwritten"


@dataclass(slots=True)
class Loaded:
    """What PEFT loaded.

    Attributes:
        missing: Parameters of the adapter that the file has no tensor for.
        unexpected: Tensors of the file that have no place in the model.
        overwritten: The base model's own tensors that another value was loaded into.
    """

    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    overwritten: list[str] = field(default_factory=list)


@contextmanager
def watched(model: nn.Module, path: str, *, keeps_base: bool = False) -> Iterator[Loaded]:
    """Watches what is loaded into ``model`` in the body.

    Args:
        model: The model before an adapter is put on it.
        path: What the adapter is called in an error.
        keeps_base: Whether nothing of the base model may be written to: what the file has of it is
            left out where it is the same, else the adapter is refused.

    Raises:
        AdapterError: an embedding or the head has another number of rows, or the base model's own
            tensors would be others.
    """
    own = {id(tensor): tensor for tensor in chain(model.parameters(), model.buffers())}
    rows = _rows(model)
    loaded = Loaded()

    def look(module: nn.Module, state: dict[str, Any], prefix: str, *rest: Any) -> None:
        # These lists grow as more is loaded, and PEFT leaves in them what is the adapter's.
        _, _, loaded.missing, loaded.unexpected, _ = rest
        _check_rows(module, state, prefix, rows, path)
        for name, tensor in list(_tensors(module, prefix)):
            if name not in state or id(tensor) not in own:
                continue
            if _differs(tensor, state[name]):
                loaded.overwritten.append(name.removeprefix(prefix))
            elif keeps_base and tensor.shape == state[name].shape:
                state.pop(name)
        if keeps_base and loaded.overwritten:
            raise AdapterError(
                f"the adapter {path} has {loaded.overwritten[0]} of another base model in its "
                "file, which would take the place of this one's: load it alone, without a name"
            )

    handle = model.register_load_state_dict_pre_hook(look)  # type: ignore[no-untyped-call]
    try:
        yield loaded
    finally:
        handle.remove()


def note_overwritten(model: nn.Module, loaded: Loaded) -> None:
    """Keeps with the model what of it is not its own any more; copies of it have the note too."""
    if loaded.overwritten:
        setattr(model, _NOTE, (*overwritten(model), *loaded.overwritten))


def overwritten(model: nn.Module) -> tuple[str, ...]:
    """The tensors of a model, or of the one that PEFT has around it, that are an adapter's."""
    names: tuple[str, ...] = getattr(model, _NOTE, ())
    return names


def _tensors(module: nn.Module, prefix: str) -> Iterator[tuple[str, torch.Tensor]]:
    """Each tensor under each of its names: tied ones have several."""
    yield from module.named_parameters(prefix.removesuffix("."), remove_duplicate=False)
    yield from module.named_buffers(prefix.removesuffix("."), remove_duplicate=False)


def _differs(own: torch.Tensor, given: torch.Tensor) -> bool:
    if own.shape != given.shape:
        # Packed weights, or an error of torch's that comes next.
        return False
    return not torch.allclose(own, given.to(own), rtol=0, atol=0, equal_nan=True)


def _ends(module: nn.Module) -> list[nn.Module]:
    """What has a row a token: the embedding and the head."""
    found = []
    for name in ("get_input_embeddings", "get_output_embeddings"):
        with suppress(AttributeError, NotImplementedError):
            found.append(getattr(module, name)())
    return [each for each in found if isinstance(each, nn.Module)]


def _rows(model: nn.Module) -> set[int]:
    weights = [getattr(each, "weight", None) for each in _ends(model)]
    return {each.shape[0] for each in weights if isinstance(each, torch.Tensor) and each.ndim == 2}


def _check_rows(
    module: nn.Module, state: Mapping[str, Any], prefix: str, rows: set[int], path: str
) -> None:
    """A vocabulary that grew in training is told as that, and not as a tensor that doesn't fit."""
    ends = {id(inner) for end in _ends(module) for inner in end.modules()}
    for name, tensor in _tensors(module, prefix):
        given = state.get(name)
        if given is None or given.ndim != tensor.ndim or given.shape == tensor.shape:
            continue
        sizes = zip(tensor.shape, given.shape, strict=True)
        other = {(here, there) for here, there in sizes if here != there}
        owner = module.get_submodule(name.removeprefix(prefix).rpartition(".")[0])
        if id(owner) in ends and len(other) == 1 and {here for here, _ in other} <= rows:
            here, there = other.pop()
            raise AdapterError(
                f"the adapter {path} was trained with a vocabulary of {there} rows, and the model "
                f"has {here} (in {name.removeprefix(prefix)}): resize the model first "
                f"(resize_token_embeddings({there})) and put the adapter on that one"
            )


__all__ = ["Loaded", "note_overwritten", "overwritten", "watched"]
