"""Whether the model is still built as it was: modules, tensors, adapters, settings, hooks.

One walk finds everything to look at and puts it into flat lists; each later look goes over those
lists and never over the modules. It sees that a module or tensor was added, removed or replaced,
that a hook or another ``forward`` was put on a module, an adapter activated, scaled or merged, a
configuration changed. What tensors hold is not its business, but where they lie is (``slots``).

What code the modules' classes run is seen too (``code``). Hooks by which transformers hands out
inner states only read, and are no change.

Not seen: another number or function in a base module's own attribute (an attention's ``scaling``),
and another class put on a module.
"""

from __future__ import annotations

import weakref
from collections.abc import Collection, Iterator
from itertools import chain, compress
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from forwardcache.hf.model.adapter_parts import (
    active_settings,
    layer_settings,
    switched_modules,
)
from forwardcache.hf.model.checksum import checksums, digest_of
from forwardcache.hf.model.code import CodeWatch
from forwardcache.hf.model.flat import FLAG, GLOBAL_HOOKS, HOOKS, Flat, configs_of, flattened
from forwardcache.hf.model.look import QuickLook
from forwardcache.hf.model.settings import as_json, kept
from forwardcache.hf.model.slots import (
    CONTAINERS,
    packed_objects,
    restless_modules,
    saved_by,
    saves_itself,
    slots_of,
    walk,
)

_READS_ONLY = "transformers.utils.output_capturing"
_flag_of = itemgetter(FLAG)


class ModelWatch:
    """A model's structure at one moment, and whether it still is the same.

    Holds the modules' dictionaries, but neither modules nor tensors; lets go of everything as soon
    as one of those is gone.

    Attributes:
        slots: Where its tensors lie.
    """

    def __init__(self, model: nn.Module) -> None:
        names, modules = walk(model)
        self.slots = slots_of(model, names, modules)
        self._flat = flattened(model, modules, self.slots)
        self._unknown = _unknown_code(names, modules)
        self._saving = [weakref.ref(module) for module in modules if saves_itself(module)]
        classes = list(dict.fromkeys(map(type, modules)))
        self._code = CodeWatch(classes, _attentions(model))
        self._died = False
        self._refs = self._watching([*modules, *self.tensors(), *self._replaceable()])
        self._seen = _settled(self._look(self._flat.firm()))
        self._hooks = _telling_hooks(self._flat.hooks)
        self._seen_settings = [kept(each) for each in self._flat.settings]
        self._quick = QuickLook(self._flat, self._code)
        self._is_training: bool | None = None

    @property
    def unknown_code(self) -> str | None:
        """What runs that nothing is known about: hooks, other ``forward``s, functions; or None."""
        if self._unknown is None and self.code is None:
            return "its classes run functions of which nothing can be said"
        return self._unknown

    @property
    def has_unknown_code(self) -> bool:
        """Whether there is any such code."""
        return self.unknown_code is not None

    @property
    def has_replaced_code(self) -> bool:
        """Whether a module's ``forward`` was replaced, or functions run that can't be described."""
        return bool(self._flat.forwards) or self.code is None

    @property
    def code(self) -> tuple[str, ...] | None:
        """What code runs, in words that mean the same in every process; None if unknown."""
        return self._code.description

    def unchanged(self) -> list[Tensor] | None:
        """What ``tensors`` gives, if nothing has changed as far as a quick look tells; else None.

        The look goes over the tensors anyway, and whoever looks needs them next.
        """
        found = None if self._died else self._quick.tensors()
        if found is None or not self._holds_besides():
            found = self._looked_closer()
        return found

    def _holds_besides(self) -> bool:
        """Whether all holds that a quick look doesn't see."""
        quick, flat = self._quick, self._flat
        try:
            return (quick.sees_code or self._code.holds()) and (
                quick.sees_settings
                or (flat.settings == self._seen_settings and self._adapted() == self._seen[0][5])
            )
        except (KeyError, IndexError, RuntimeError):
            return False

    def _looked_closer(self) -> list[Tensor] | None:
        """As ``unchanged``, by comparing everything."""
        flat, quick = self._flat, self._quick
        quick.keep(None)
        self._is_training = None
        try:
            # What changes while everything is compared is seen by the next look.
            look = quick.taken() if quick.is_possible and not self._died else None
            firm = flat.firm()
            holds = (
                not self._died
                and list(map(len, flat.fields)) == flat.sizes
                and self._look(firm) == self._seen
                and flat.settings == self._seen_settings
                and self._code.holds()
            )
            if not holds:
                return None
            found: list[Any] = list(compress(firm, flat.is_there))
            found += flat.loose() if flat.picked else []
        except (KeyError, IndexError, RuntimeError):
            # Something is gone from where it was, or became a tensor.
            return None
        if look is not None:
            self._is_training = self.is_training()
            quick.keep(look)
        return found

    def is_same_as(self, earlier: ModelWatch) -> bool:
        """Whether an earlier watch, which no longer holds, stopped for nothing that matters."""
        return (
            not earlier._died
            and self._seen[0] == earlier._seen[0]
            and self._hooks == earlier._hooks
            and self._seen_settings == earlier._seen_settings
            and self._code.is_same_as(earlier._code)
        )

    def tensors(self) -> list[Tensor]:
        """What is in ``slots`` now, in their order; shorter or empty if something is gone."""
        found = [tensor for tensor in self._flat.firm() if tensor is not None]
        try:
            return found + self._flat.loose()
        except (KeyError, IndexError):
            return []

    def is_training(self) -> bool:
        """Whether any module is in training mode."""
        if self._is_training is not None:
            return self._is_training
        return True in map(itemgetter("training"), self._flat.fields)

    @property
    def saves_itself(self) -> bool:
        """Whether modules save anything in a way of their own."""
        return bool(self._saving)

    def saved(self, tensors: list[Tensor], *, packed: bool) -> bytes | None:
        """A digest of what modules save in a way of their own; None if some can't be read.

        Args:
            tensors: What is in ``slots``; what lies in their memory is left out.
            packed: Whether those with packed weights are read too, which takes as long as to
                unpack them. Such weights are never written to; ``holds`` sees that they are others.
        """
        known, own, words = {each.data_ptr() for each in tensors}, [], []
        for module in filter(None, (found() for found in self._saving)):
            if packed or not packed_objects(module):
                saved = saved_by(module)
                if saved is None:
                    return None
                own += [each for each in saved[0] if each.data_ptr() not in known]
                words += saved[1]
        return digest_of([*words, *checksums(own)])

    def _look(self, firm: list[Tensor | None]) -> tuple[Any, ...]:
        flat = self._flat
        matters = (
            any(flat.empty),
            list(map(id, firm)),
            list(map(id, chain.from_iterable(map(dict.values, flat.children)))),
            [id(where[key]) for where, key in flat.picked],
            [id(fields.get("forward")) for fields in flat.forwards],
            self._adapted(),
            [id(fields.get("config")) for fields in flat.configured],
        )
        # A hook's number is never given twice, unlike its id.
        hooks = chain.from_iterable(map(dict.items, flat.hooks))
        rest = [(number, id(hook)) for number, hook in hooks], any(flat.unhooked)
        return matters, rest, list(map(_flag_of, flat.flagged)), list(map(len, flat.containers))

    def _adapted(self) -> list[list[Any]]:
        return [list(map(read, layers)) for read, layers in self._flat.adapted]

    def _replaceable(self) -> list[Any]:
        """What modules were given of their own and is looked at by its id."""
        given = [(fields, "forward") for fields in self._flat.forwards]
        given += [(fields, "config") for fields in self._flat.configured]
        found = [fields[name] for fields, name in (*given, *self._flat.picked)]
        return [each for each in found if type(each).__weakrefoffset__]

    def _watching(self, objects: list[Any]) -> list[weakref.ref[Any]]:
        # An id alone may be given to a new object; a strong reference would keep replaced weights.
        watch = weakref.ref(self)

        # Bound here: when the interpreter ends, modules lose their names before models go.
        def end(_: Any, nothing: Flat = Flat()) -> None:  # noqa: B008
            ended = watch()
            if ended is not None:
                ended._died = True
                ended._flat = nothing
                ended._quick.forget(nothing)
                ended.slots = []

        return [weakref.ref(each, end) for each in objects]


def _telling_hooks(hooks: list[dict[int, Any]]) -> list[tuple[int, int]]:
    """Number and id of each hook that may change what a forward gives."""
    found = [each for held in hooks for each in held.items()]
    return [(number, id(hook)) for number, hook in found if not _only_reads(hook)]


def _only_reads(hook: Any) -> bool:
    return getattr(hook, "__module__", None) == _READS_ONLY


def _unknown_code(names: list[str], modules: list[nn.Module]) -> str | None:
    """Where hooks or replaced ``forward``s run, of which nothing is known; None for nowhere."""
    if _telling_hooks([vars(torch_module)[name] for name in GLOBAL_HOOKS]):
        return "hooks run on every module"
    for name, module in zip(names, modules, strict=True):
        fields, where = vars(module), name.lstrip(".") or type(module).__name__
        if _telling_hooks([fields[each] for each in HOOKS]):
            return f"hooks run on {where}"
        if "forward" in fields:
            return f"{where} has a forward of its own"
    return None


def _settled(value: Any) -> Any:
    """A copy of containers that doesn't change with the original, nor with a tensor in it."""
    if isinstance(value, tuple | list):
        return type(value)(map(_settled, value))
    if isinstance(value, dict):
        return {key: _settled(each) for key, each in value.items()}
    # Scalings become tensors that are filled in place where adapters are swapped while compiled.
    return float(value) if isinstance(value, Tensor) and value.numel() == 1 else value


def _attentions(model: Any) -> set[str]:
    """Names of the attention that the configurations ask for."""
    found = (getattr(config, "_attn_implementation", None) for config in configs_of(model))
    return {name for name in found if isinstance(name, str)}


def described(model: nn.Module, *, but: Collection[nn.Module] = ()) -> Iterator[bytes]:
    """A model's structure in words that mean the same in every process.

    Args:
        model: The model.
        but: Modules that are left out, each with all that is below it.
    """
    yield as_json(_settings(getattr(model, "config", None)))
    names, modules = walk(model)
    restless = restless_modules(modules)
    left_out = tuple(f"{name}." for name, each in zip(names, modules, strict=True) if each in but)
    for name, module in zip(names, modules, strict=True):
        if module in but:
            continue
        yield f"{name} {type(module).__module__}.{type(module).__qualname__}".encode()
        for container in CONTAINERS:
            held = vars(module)[container]
            for key in sorted(held) if module in restless else held:
                if held[key] is not None:
                    yield _tensor_words(key, held[key])
    for slot in slots_of(model, names, modules):
        if slot.is_hidden and not slot.name.startswith(left_out):
            yield _tensor_words(slot.name, slot.where[slot.key])
    for layer in switched_modules(model):
        if layer in but:
            continue
        fields: Any = vars(layer)
        scaling = {name: float(value).hex() for name, value in fields.get("scaling", {}).items()}
        variants = {name: str(type(each)) for name, each in fields.get("lora_variant", {}).items()}
        state = layer.active_adapters, fields.get("merged_adapters", []), scaling, variants
        yield as_json([*state, bool(fields.get("fan_in_fan_out"))])


def described_adapters(model: nn.Module, *, but: Collection[nn.Module] = ()) -> Iterator[bytes]:
    """What decides values in the settings of the active adapters, in such words.

    Args:
        model: The model.
        but: Modules whose settings are left out; an adapter with no others says nothing.
    """
    layers = [layer for layer in switched_modules(model) if layer not in but]
    yield as_json(active_settings(model, layers))
    for layer in layers:
        yield as_json(layer_settings(layer))


def _tensor_words(name: str, tensor: Tensor) -> bytes:
    words = name, tensor.dtype, tuple(tensor.shape), tensor.device.type
    return repr(tuple(map(str, words))).encode()


def _settings(config: Any) -> Any:
    """A configuration without what doesn't change a forward."""
    if config is None:
        return None
    kernels = getattr(config, "_attn_implementation", None)
    settings = config.to_dict()
    for key in ("_name_or_path", "transformers_version"):
        settings.pop(key, None)
    return [settings, kernels]


def storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """What holds a tensor's memory; None where there is no such thing."""
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return None


__all__ = ["ModelWatch", "described", "described_adapters", "storage_of"]
