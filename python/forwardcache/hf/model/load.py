"""From folders to a model and its tokenizer, or one clear error.

Nothing is downloaded unless allowed, no code that came with a model is run, and no pickle is read:
weights are taken from safetensors files only.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import PreTrainedModel

from forwardcache.errors import InvalidInputError, ModelLoadError, UnsupportedModelError
from forwardcache.hf.model.peft_kinds import PeftMixedModel, PeftModel
from forwardcache.hf.model.reading import clear, first_line, without_bars
from forwardcache.hf.text.tokenizer_choice import choose_for_all

# Below a file, so where no adapter can lie: the folder's own is put on by ``put_adapter``, which
# checks it and reads no pickle.
_NOWHERE = "config.json/none"

# While transformers loads one model, tying of weights is off in the whole process, so that a second
# one that is loaded meanwhile is left with a head without memory, and so are later ones.
_one_at_a_time = threading.Lock()


def load_model(
    path: str,
    *,
    device: str,
    dtype: str | torch.dtype,
    allow_download: bool,
    attn_implementation: str | None = None,
) -> Any:
    """The model in ``path``, in evaluation mode, without an adapter that may lie beside it.

    Args:
        path: A folder, or with ``allow_download`` a name on the hub.
        device: A torch device, or "auto": the GPU if there is one, else the CPU.
        dtype: A torch dtype or its name, or "auto": the checkpoint's own.
        allow_download: Whether the hub may be asked.
        attn_implementation: What computes attention, by transformers' name; None leaves it to the
            model.

    Raises:
        ModelLoadError: there is no such folder, something in it is missing or broken, or the
            device or dtype isn't there.
        UnsupportedModelError: the model is of no kind that gives next tokens of text.
    """
    if not allow_download and not Path(path).is_dir():
        raise ModelLoadError(f"{path} is not a folder (a hub name needs allow_download)")
    options: dict[str, Any] = {
        "local_files_only": not allow_download,
        "trust_remote_code": False,
    }
    target = _device(device)
    with clear(f"can't load a model from {path}"), without_bars():
        config = transformers.AutoConfig.from_pretrained(path, **options)
        auto_class = _auto_class(path, config)
        _check_runs_nothing(path, config)
        if attn_implementation is not None:
            options["attn_implementation"] = _attention(attn_implementation)
        with _one_at_a_time:
            loaded: Any = auto_class.from_pretrained(
                path,
                dtype=_dtype(dtype),
                use_safetensors=True,
                output_loading_info=True,
                adapter_kwargs={"subfolder": _NOWHERE},
                **options,
            )
        model, report = loaded
        _check_complete(path, report)
        return model.to(target).eval()


def load_tokenizer(
    path: str,
    adapters: Sequence[str],
    *,
    tokenizer: str | PathLike[str] | None,
    add_bos_token: bool | None,
    allow_download: bool,
) -> Any:
    """The tokenizer for a model with its adapters: see ``choose_for_all``.

    Raises:
        ModelLoadError: its files are missing or broken.
        InvalidInputError: there is none such.
    """
    if not isinstance(tokenizer, str | PathLike | None):
        kind = type(tokenizer).__name__
        raise InvalidInputError(f'tokenizer must be "base", "adapter" or a folder, got {kind}')
    wanted = None if tokenizer is None else str(tokenizer)
    of_adapter = adapters[0] if adapters else None
    where = {None: path, "base": path, "adapter": of_adapter}.get(wanted, wanted)
    with clear(f"can't load a tokenizer from {where}"), without_bars():
        return choose_for_all(
            path,
            adapters,
            wanted,
            add_bos_token=add_bos_token,
            allow_download=allow_download,
        )


def causal_lm_of(model: Any) -> PreTrainedModel:
    """The model of transformers in ``model``, with or without PEFT around it.

    Raises:
        UnsupportedModelError: there is none.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel) else model
    # PEFT's model of adapters of several kinds has no such method.
    inner = model.base_model.model if isinstance(model, PeftMixedModel) else inner
    if not isinstance(inner, PreTrainedModel):
        raise UnsupportedModelError(
            f"expected a causal language model of transformers, got {type(inner).__name__}"
        )
    return inner


def _auto_class(path: str, config: Any) -> Any:
    """What makes the model of ``config``: transformers' class for text, else that for images too.

    A model that is asked about images and text runs on text alone as well, or is refused once it
    is looked at.
    """
    name = config.model_type
    if config.is_encoder_decoder:
        raise UnsupportedModelError(f"{path} is an encoder-decoder ({name})")
    if type(config) in transformers.MODEL_FOR_CAUSAL_LM_MAPPING:
        return transformers.AutoModelForCausalLM
    if type(config) in transformers.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING:
        return transformers.AutoModelForImageTextToText
    raise UnsupportedModelError(
        f"{path} is no model that gives next tokens of text: transformers has no causal language "
        f"model, nor one of images and text, of the type {name}"
    )


def _check_runs_nothing(path: str, config: Any) -> None:
    """A name with a slash is a kernel on the hub: code that transformers fetches and runs."""
    for name, value in vars(config).items():
        if isinstance(value, transformers.PretrainedConfig):
            _check_runs_nothing(path, value)
        elif "_implementation" in name and "/" in str(value):
            raise UnsupportedModelError(f"{path} asks for code from elsewhere: {name} is {value}")


def _check_complete(path: str, report: dict[str, Any]) -> None:
    # A weight that isn't in the file would be random, and the scores nonsense.
    missing = sorted({str(key) for key in report["missing_keys"]})
    if missing:
        raise ModelLoadError(f"{path} lacks {len(missing)} weights, for instance {missing[0]}")


def _device(device: str) -> torch.device:
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        target = torch.device(device)
    except RuntimeError:
        raise ModelLoadError(
            f"device must be auto, cpu, cuda, cuda:1 or another of torch's, got {device!r}"
        ) from None
    try:
        torch.empty(0, device=target)
    except (RuntimeError, AssertionError) as error:
        raise ModelLoadError(f"device {device!r} can't be used: {first_line(error)}") from None
    return target


def _attention(name: str) -> str:
    # A name with a slash is code on the hub, which transformers would fetch and run.
    if not isinstance(name, str) or "/" in name:
        raise InvalidInputError(
            f"attn_implementation must be eager, sdpa or another of transformers' own, got {name!r}"
        )
    return name


def _dtype(dtype: str | torch.dtype) -> Any:
    if isinstance(dtype, torch.dtype) or dtype == "auto":
        return dtype
    found = getattr(torch, dtype, None)
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ModelLoadError(
            f"dtype must be auto, float32, bfloat16, float16 or another floating one of torch's, "
            f"got {dtype!r}"
        )
    return found
