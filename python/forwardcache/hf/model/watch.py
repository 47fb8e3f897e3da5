"""Whether the model is still built as it was: modules, tensors, adapters, settings, tokenizer.

One walk finds everything to look at and puts it into flat lists; each later look goes over those
lists and never over the modules. It sees that a module or tensor was added, removed or replaced,
that a hook or another ``forward`` was put on a module, an adapter activated, scaled or merged, a
configuration or the tokenizer changed. What tensors hold is not its business.

What code the modules' classes run is seen too (``code``).

Not seen: another number or function in a module's own attribute (an attention's ``scaling``),
another class put on a module, and the inside of a Rust tokenizer's vocabulary, merges or added
tokens where their number stays.
"""

from __future__ import annotations

import copy
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from operator import itemgetter
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from forwardcache.hf.model.adapter import switched_modules
from forwardcache.hf.model.code import CodeWatch

_TENSORS = ("_parameters", "_buffers")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks")
_CONTAINERS = (*_TENSORS, "_modules", *_HOOKS)
_GLOBAL_HOOKS = ("_global_forward_hooks", "_global_forward_pre_hooks")
_ADAPTER_FIELDS = ("_active_adapter", "merged_adapters", "scaling")
_TOKENIZER_NOTES = ("_tokenizer", "deprecation_warnings")
# Made anew on every access, so that only their text can be compared.
_TOKENIZER_PARTS = ("normalizer", "pre_tokenizer", "post_processor")
# Writing out the whole model would take as long as a short forward.
_TOKENIZER_MODEL_FIELDS = (
    "unk_token",
    "continuing_subword_prefix",
    "end_of_word_suffix",
    "fuse_unk",
    "byte_fallback",
    "ignore_merges",
    "dropout",
    "alpha",
    "nbest_size",
)
_AS_SET = {"none": "ieee"}
_Read = Callable[[dict[str, Any]], Any]
_ADAPTER_NAMES = ("lora_", "modules_to_save", "trainable_tokens", "token_adapter")


class ModelWatch:
    """A model's structure at one moment, and whether it still is the same.

    Holds the modules' dictionaries, but neither modules nor tensors; lets go of everything as soon
    as one of those is gone.

    Attributes:
        names: The tensors' names.
    """

    def __init__(self, model: nn.Module) -> None:
        names, modules = _walk(model)
        fields = [vars(module) for module in modules]
        global_hooks = [vars(torch_module)[name] for name in _GLOBAL_HOOKS]
        hooks = [each[name] for each in fields for name in _HOOKS] + global_hooks
        tensors = [each[name] for each in fields for name in _TENSORS]
        containers = [*hooks, *tensors, *(each["_modules"] for each in fields)]
        self._flat = _Flat(
            fields=fields,
            sizes=list(map(len, fields)),
            empty=[each for each in containers if not each],
            filled=[each for each in containers if each],
            hooks=[each for each in hooks if each],
            tensors=[each for each in tensors if each],
            forwards=[each for each in fields if "forward" in each],
            adapted=[_reader(vars(layer)) for layer in switched_modules(model)],
            configured=[each for each in fields if "config" in each],
            settings=[vars(config) for config in _configs(model)],
        )
        self.names = _tensor_names(names, modules)
        classes = list(dict.fromkeys(map(type, modules)))
        self._code = CodeWatch(classes, _attentions(model))
        self._died = False
        self._refs = self._watching([*modules, *self.tensors(), *self._replaceable()])
        self._seen = _settled(self._look())
        self._seen_settings = [_kept(each) for each in self._flat.settings]

    @property
    def has_unknown_code(self) -> bool:
        """Whether hooks, replaced ``forward``s or functions run, about which nothing is known."""
        return bool(self._flat.hooks or self._flat.forwards) or self.code is None

    @property
    def has_replaced_code(self) -> bool:
        """Whether a module's ``forward`` was replaced, or functions run that can't be described."""
        return bool(self._flat.forwards) or self.code is None

    @property
    def code(self) -> tuple[str, ...] | None:
        """What code runs, in words that mean the same in every process; None if unknown."""
        return self._code.description

    def holds(self) -> bool:
        """Whether nothing has changed, as far as a quick look tells."""
        flat = self._flat
        return (
            not self._died
            and list(map(len, flat.fields)) == flat.sizes
            and self._look() == self._seen
            and flat.settings == self._seen_settings
            and self._code.holds()
        )

    def is_same_as(self, earlier: ModelWatch) -> bool:
        """Whether an earlier watch, which no longer holds, stopped for nothing that matters."""
        return (
            not earlier._died
            and self._seen == earlier._seen
            and self._seen_settings == earlier._seen_settings
            and self._code.is_same_as(earlier._code)
        )

    def tensors(self) -> list[Tensor]:
        """Parameters and buffers, in the order of ``names``."""
        found = chain.from_iterable(map(dict.values, self._flat.tensors))
        return [tensor for tensor in found if tensor is not None]

    def is_training(self) -> bool:
        """Whether any module is in training mode."""
        return True in map(itemgetter("training"), self._flat.fields)

    def _look(self) -> tuple[Any, ...]:
        flat = self._flat
        return (
            any(flat.empty),
            list(map(id, chain.from_iterable(map(dict.values, flat.filled)))),
            # A hook's number is never given twice, unlike its id.
            list(chain.from_iterable(flat.hooks)),
            [id(fields.get("forward")) for fields in flat.forwards],
            [read(fields) for read, fields in flat.adapted],
            [id(fields.get("config")) for fields in flat.configured],
        )

    def _replaceable(self) -> list[Any]:
        """What modules were given of their own and is looked at by its id."""
        given = [(fields, "forward") for fields in self._flat.forwards]
        given += [(fields, "config") for fields in self._flat.configured]
        found = [fields[name] for fields, name in given]
        return [each for each in found if type(each).__weakrefoffset__]

    def _watching(self, objects: list[Any]) -> list[weakref.ref[Any]]:
        # An id alone may be given to a new object; a strong reference would keep replaced weights.
        watch = weakref.ref(self)

        def end(_: Any) -> None:
            ended = watch()
            if ended is not None:
                ended._died = True
                ended._flat = _Flat()

        return [weakref.ref(each, end) for each in objects]


@dataclass(frozen=True, slots=True)
class _Flat:
    """What a look goes over.

    Attributes:
        fields: Each module's ``__dict__``.
        sizes: Number of attributes in each.
        empty: Dictionaries of tensors, modules and hooks with nothing in them.
        filled: Those with something in them.
        hooks: Those of ``filled`` that hold hooks.
        tensors: Those of ``filled`` that hold parameters or buffers.
        forwards: Fields of the modules with a ``forward`` of their own.
        adapted: Fields of the adapter layers, and what reads their settings.
        configured: Fields of the modules that have a configuration.
        settings: Each configuration's ``__dict__``.
    """

    fields: list[dict[str, Any]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    empty: list[dict[Any, Any]] = field(default_factory=list)
    filled: list[dict[Any, Any]] = field(default_factory=list)
    hooks: list[dict[Any, Any]] = field(default_factory=list)
    tensors: list[dict[Any, Any]] = field(default_factory=list)
    forwards: list[dict[str, Any]] = field(default_factory=list)
    adapted: list[tuple[_Read, dict[str, Any]]] = field(default_factory=list)
    configured: list[dict[str, Any]] = field(default_factory=list)
    settings: list[dict[str, Any]] = field(default_factory=list)


def is_adapters(name: str) -> bool:
    """Whether a tensor of this name belongs to an adapter."""
    return any(part in name for part in _ADAPTER_NAMES)


def storage_of(tensor: Tensor) -> torch.UntypedStorage | None:
    """What holds a tensor's memory; None where there is no such thing."""
    try:
        return tensor.untyped_storage()
    except (RuntimeError, NotImplementedError):
        return None


def _walk(model: nn.Module) -> tuple[list[str], list[nn.Module]]:
    """Names and modules, each once; ``named_modules`` costs several times as much."""
    names, modules, known = [""], [model], {model}
    for name, module in zip(names, modules, strict=False):
        for key, child in vars(module)["_modules"].items():
            if child is not None and child not in known:
                known.add(child)
                modules.append(child)
                names.append(f"{name}.{key}")
    return names, modules


def _tensor_names(names: list[str], modules: list[nn.Module]) -> list[str]:
    return [
        f"{name}.{key}"
        for name, module in zip(names, modules, strict=True)
        for container in _TENSORS
        for key, tensor in vars(module)[container].items()
        if tensor is not None
    ]


def _reader(fields: dict[str, Any]) -> tuple[_Read, dict[str, Any]]:
    """What reads an adapter layer's settings, and where; one not set there is its class's."""
    present = [name for name in _ADAPTER_FIELDS if name in fields]
    return (itemgetter(*present) if present else len), fields


def _settled(value: Any) -> Any:
    """A copy of containers that doesn't change with the original."""
    if isinstance(value, tuple | list):
        return type(value)(map(_settled, value))
    return value.copy() if isinstance(value, dict) else value


def _configs(model: Any) -> list[Any]:
    configs = [vars(module)["config"] for module in _walk(model)[1] if "config" in vars(module)]
    found = {id(each): each for each in (*configs, *getattr(model, "peft_config", {}).values())}
    return [config for config in found.values() if hasattr(config, "__dict__")]


def _attentions(model: Any) -> set[str]:
    """Names of the attention that the configurations ask for."""
    found = (getattr(config, "_attn_implementation", None) for config in _configs(model))
    return {name for name in found if isinstance(name, str)}


def _kept(settings: dict[str, Any]) -> dict[str, Any]:
    """A copy to compare with later; what can't be copied and compared is kept itself."""
    return {key: _kept_value(value) for key, value in settings.items()}


def _kept_value(value: Any) -> Any:
    try:
        copied = copy.deepcopy(value)
        return copied if copied == value else value
    except Exception:
        return value


class TokenizerWatch:
    """A tokenizer's settings at one moment, and whether they still are the same."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        fields = _fields_of(tokenizer)
        self._backend = fields.get("_tokenizer")
        # Those that encoding itself writes to are compared by identity.
        own = {key: fields[key] for key in _TOKENIZER_NOTES if key in fields}
        self._fields = _kept(fields) | own
        self._parts = self._look()

    def holds(self, tokenizer: Any) -> bool:
        """Whether it is this tokenizer, and nothing about it has changed."""
        return (
            tokenizer is self._tokenizer
            and _fields_of(tokenizer) == self._fields
            and self._look() == self._parts
        )

    def _look(self) -> list[Any]:
        # The Rust tokenizer's own text has the truncation that every call sets anew.
        parts = [repr(getattr(self._backend, part, None)) for part in _TOKENIZER_PARTS]
        model = getattr(self._backend, "model", None)
        settings = [getattr(model, name, None) for name in _TOKENIZER_MODEL_FIELDS]
        return [_size(self._tokenizer), type(model), *settings, *parts]


def _fields_of(tokenizer: Any) -> dict[str, Any]:
    """A tokenizer's settings; one of the user's own may have none (slots)."""
    return getattr(tokenizer, "__dict__", {})


def _size(tokenizer: Any) -> int | None:
    """Number of tokens; one of the user's own may not tell."""
    try:
        return len(tokenizer)
    except TypeError:
        return None


def numerics() -> tuple[Any, ...]:
    """Process-wide settings that change what a forward gives."""
    autocast = [
        (device, torch.get_autocast_dtype(device))
        for device in ("cpu", "cuda")
        if torch.is_autocast_enabled(device)
    ]
    return (*autocast, torch.get_default_dtype(), *_matmul_precisions())


def _matmul_precisions() -> Iterator[str]:
    # The public getters raise once settings of the older and the newer kind are mixed.
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if getter is None:
        yield torch.get_float32_matmul_precision()
    else:
        # One that was never set is computed as "ieee" is.
        yield _AS_SET.get(found := getter("cuda", "matmul"), found)
        yield _AS_SET.get(found := getter("mkldnn", "matmul"), found)


def described(model: nn.Module) -> Iterator[bytes]:
    """A model's structure in words that mean the same in every process."""
    yield _json(_settings(getattr(model, "config", None)))
    for name, module in zip(*_walk(model), strict=True):
        yield f"{name} {type(module).__module__}.{type(module).__qualname__}".encode()
        for container in _TENSORS:
            for key, tensor in vars(module)[container].items():
                if tensor is not None:
                    words = key, tensor.dtype, tuple(tensor.shape), tensor.device.type
                    yield repr(tuple(map(str, words))).encode()
    for layer in switched_modules(model):
        fields: Any = vars(layer)
        scaling = {name: float(value).hex() for name, value in fields.get("scaling", {}).items()}
        variants = {name: str(type(each)) for name, each in fields.get("lora_variant", {}).items()}
        state = layer.active_adapters, fields.get("merged_adapters", []), scaling, variants
        yield _json([*state, bool(fields.get("fan_in_fan_out"))])


def described_tokenizer(tokenizer: Any) -> Iterator[bytes] | None:
    """A tokenizer's behaviour in words that mean the same in every process; None if unknown."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return None
    settings = json.loads(backend.to_str())
    # Every call sets these anew.
    settings |= {"truncation": None, "padding": None}
    fields = {
        key: _fields_of(tokenizer).get(key) for key in ("split_special_tokens", "chat_template")
    }
    special = tokenizer.special_tokens_map
    return iter([_json([type(tokenizer).__name__, settings, fields, special])])


def _settings(config: Any) -> Any:
    """A configuration without what doesn't change a forward."""
    if config is None:
        return None
    kernels = getattr(config, "_attn_implementation", None)
    settings = config.to_dict()
    for key in ("_name_or_path", "transformers_version"):
        settings.pop(key, None)
    return [settings, kernels]


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, default=str).encode()


__all__ = [
    "ModelWatch",
    "TokenizerWatch",
    "described",
    "described_tokenizer",
    "is_adapters",
    "numerics",
    "storage_of",
]
