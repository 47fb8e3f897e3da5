"""From folders to a model, its tokenizer and its adapter, or one clear error.

Nothing is downloaded unless allowed, no code that came with a model is run, and no pickle is read:
weights are taken from safetensors files only.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from os import PathLike
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftMixedModel, PeftModel, get_peft_model_state_dict
from safetensors import safe_open
from transformers import PreTrainedModel
from transformers.utils import logging as transformers_logging

from forwardcache.errors import (
    AdapterError,
    ForwardCacheError,
    InvalidInputError,
    ModelLoadError,
    UnsupportedModelError,
)
from forwardcache.hf.text.item import blamed_on_item
from forwardcache.hf.text.tokenizer_choice import choose_tokenizer

_log = logging.getLogger("forwardcache")

_ADAPTER_NAME = "default"
_ADAPTER_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"


def load_model(
    path: str,
    *,
    device: str,
    dtype: str | torch.dtype,
    allow_download: bool,
    attn_implementation: str | None = None,
) -> Any:
    """The model in ``path``, in evaluation mode.

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
    with _clear(f"can't load a model from {path}"), _without_bars():
        config = transformers.AutoConfig.from_pretrained(path, **options)
        auto_class = _auto_class(path, config)
        _check_runs_nothing(path, config)
        if attn_implementation is not None:
            options["attn_implementation"] = _attention(attn_implementation)
        loaded: Any = auto_class.from_pretrained(
            path, dtype=_dtype(dtype), use_safetensors=True, output_loading_info=True, **options
        )
        model, report = loaded
        _check_complete(path, report)
        return model.to(target).eval()


def load_tokenizer(
    path: str,
    adapter: str | None,
    *,
    tokenizer: str | PathLike[str] | None,
    add_bos_token: bool | None,
    allow_download: bool,
) -> Any:
    """The tokenizer for a model with an adapter: see ``choose_tokenizer``.

    Raises:
        ModelLoadError: its files are missing or broken.
        InvalidInputError: there is none such.
    """
    if not isinstance(tokenizer, str | PathLike | None):
        kind = type(tokenizer).__name__
        raise InvalidInputError(f'tokenizer must be "base", "adapter" or a folder, got {kind}')
    wanted = None if tokenizer is None else str(tokenizer)
    where = {None: path, "base": path, "adapter": adapter}.get(wanted, wanted)
    with _clear(f"can't load a tokenizer from {where}"), _without_bars():
        return choose_tokenizer(
            path,
            adapter,
            wanted,
            add_bos_token=add_bos_token,
            allow_download=allow_download,
        )


def put_adapter(model: Any, path: str) -> PeftModel:
    """The model with the adapter in the folder ``path``, in evaluation mode.

    Raises:
        AdapterError: the folder holds no adapter, or one of another model.
    """
    folder = Path(path)
    if not (folder / _ADAPTER_CONFIG).is_file() or not (folder / _WEIGHTS).is_file():
        raise AdapterError(f"{path} holds no adapter ({_ADAPTER_CONFIG} and {_WEIGHTS})")
    _check_keeps_to_itself(folder)
    unclear = f"can't put the adapter {path} on this model"
    with _clear(unclear, AdapterError), _without_bars(), _without_notes_to_peft():
        adapted = PeftModel.from_pretrained(model, path, adapter_name=_ADAPTER_NAME)
        _check_fits(path, adapted)
        _tell_of_another_base(folder, model)
        return adapted.eval()


def _tell_of_another_base(folder: Path, model: Any) -> None:
    """Says, by logging, that an adapter was trained on a model of another name."""
    trained_on = json.loads((folder / _ADAPTER_CONFIG).read_bytes()).get("base_model_name_or_path")
    here = str(getattr(getattr(model, "config", None), "_name_or_path", "") or "")
    if not isinstance(trained_on, str) or not trained_on or not here:
        return
    if _last_name(trained_on) not in {_last_name(name) for name in (here, *_noted_name(here))}:
        _log.warning(
            "the adapter %s was trained on %s, and is put on %s: is that the same model?",
            *(folder, trained_on, here),
        )


def _noted_name(path: str) -> list[str]:
    """The name that a folder's configuration has for its model, if any."""
    try:
        name = json.loads((Path(path) / "config.json").read_bytes()).get("_name_or_path")
    except (OSError, ValueError, AttributeError, RecursionError):
        return []
    return [name] if isinstance(name, str) and name else []


def _last_name(name: str) -> str:
    """What names the model: of a path or a hub name the end, of the hub's own cache the folder."""
    parts = [part for part in name.replace("\\", "/").split("/") if part]
    cached = [part for part in parts if part.startswith("models--")]
    return (cached[-1].split("--")[-1] if cached else parts[-1] if parts else "").casefold()


def causal_lm_of(model: Any) -> PreTrainedModel:
    """The model of transformers in ``model``, with or without PEFT around it.

    Raises:
        UnsupportedModelError: there is none.
    """
    inner = model.get_base_model() if isinstance(model, PeftModel | PeftMixedModel) else model
    if not isinstance(inner, PreTrainedModel):
        raise UnsupportedModelError(
            f"expected a causal language model of transformers, got {type(inner).__name__}"
        )
    return inner


def with_adapter(model: Any, adapter: str) -> Any:
    """``model`` with the adapter of that name active, or with that folder's put on it.

    Raises:
        AdapterError: the model has other adapters, or the folder's can't be put on it.
    """
    names = list(getattr(model, "peft_config", {}))
    if adapter in names:
        model.set_adapter(adapter)
        return model
    if names:
        raise AdapterError(
            f"the model has the adapters {', '.join(names)}, not {adapter!r}; "
            "put another one on it with its own load_adapter"
        )
    return put_adapter(model, adapter)


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


def _check_keeps_to_itself(folder: Path) -> None:
    """PEFT does more than load weights for some configurations, and those may be a stranger's."""
    try:
        config = json.loads((folder / _ADAPTER_CONFIG).read_bytes())
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{folder / _ADAPTER_CONFIG} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{folder / _ADAPTER_CONFIG} holds no settings")
    if config.get("peft_type") == "XLORA":
        raise AdapterError(f"the adapter {folder} loads further ones from elsewhere (XLORA)")
    for name in ("megatron_config", "prompt_tuning_init_state_dict_path"):
        if config.get(name) is not None:
            raise AdapterError(
                f"the adapter {folder} has {name}, which reads code or files elsewhere"
            )


def _check_complete(path: str, report: dict[str, Any]) -> None:
    # A weight that isn't in the file would be random, and the scores nonsense.
    missing = sorted({str(key) for key in report["missing_keys"]})
    if missing:
        raise ModelLoadError(f"{path} lacks {len(missing)} weights, for instance {missing[0]}")


def _check_fits(path: str, adapted: PeftModel) -> None:
    """PEFT ignores weights for layers that the model doesn't have."""
    own = get_peft_model_state_dict(
        adapted, adapter_name=_ADAPTER_NAME, save_embedding_layers=False
    )
    with safe_open(Path(path) / _WEIGHTS, framework="pt") as file:
        given = set(file.keys())
    only_given = sorted(key for key in given - set(own) if "lora_" in key)
    only_own = sorted(set(own) - given)
    if only_given or only_own:
        first = (only_given or only_own)[0]
        raise AdapterError(
            f"the adapter {path} belongs to another model: {len(only_given)} of its weights have "
            f"no place in this one and {len(only_own)} are missing, for instance {first}"
        )


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
        raise ModelLoadError(f"device {device!r} can't be used: {_first_line(error)}") from None
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


def _clear(
    doing: str, kind: type[ForwardCacheError] = ModelLoadError
) -> AbstractContextManager[None]:
    """Turns whatever the libraries raise at broken files, from KeyError to a panic, into one line.

    Memory that runs out and an interrupt are not about the files and pass through.
    """
    return blamed_on_item(doing, words=_first_line, kind=kind)


def _first_line(error: BaseException) -> str:
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
def _without_bars() -> Iterator[None]:
    shown = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            transformers_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


@contextmanager
def _without_notes_to_peft() -> Iterator[None]:
    # PEFT asks for what transformers calls by another name by now; its users can't do anything.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
