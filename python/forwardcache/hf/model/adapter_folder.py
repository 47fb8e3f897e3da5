"""From an adapter's folder to the adapter on a model, or one clear error.

What fits is decided by PEFT's own loading: it renames what older versions stored, so names in the
file say little. Tensors of the file with no place, or places with no tensor, are another model's.
"""

from __future__ import annotations

import json
import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any

from transformers.utils.peft_utils import find_adapter_config_file

from forwardcache.errors import AdapterError
from forwardcache.hf.model.adapter import changes_base
from forwardcache.hf.model.adapter_parts import adapter_configs
from forwardcache.hf.model.overwritten import Loaded, note_overwritten, watched
from forwardcache.hf.model.reading import clear, without_bars

if TYPE_CHECKING:
    from peft import PeftModel

_log = logging.getLogger("forwardcache")

ADAPTER_NAME = "default"
"""What PEFT calls an adapter that was put on here."""

ADAPTER_CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_PICKLE = "adapter_model.bin"

# PEFT draws, or takes from data, what these subtract from the base weights: a folder with no more
# than A and B doesn't say what that was.
_LOST_BASE = ("pissa_niter_", "corda", "lora_ga")


def chosen_adapter(
    path: str, adapter: str | PathLike[str] | None, *, allow_download: bool
) -> str | None:
    """The adapter for the model in ``path``: the one that is asked for, or the folder's own.

    Args:
        path: Folder of the model, or its name on the hub.
        adapter: Folder that is asked for.
        allow_download: Whether the hub may be asked.

    Raises:
        AdapterError: the folder has an adapter of its own, and another one is asked for.
    """
    config = None
    if allow_download or Path(path).is_dir():
        with clear(f"can't look for an adapter in {path}", AdapterError):
            config = find_adapter_config_file(path, local_files_only=not allow_download)
    if config is None:
        return None if adapter is None else str(adapter)
    own = Path(config).parent
    if adapter is not None and Path(adapter).resolve() not in (own.resolve(), Path(path).resolve()):
        raise AdapterError(
            f"{path} holds an adapter beside the model, so {adapter} can't be put on it: leave "
            f"that one out, or give a folder of the model without {ADAPTER_CONFIG}"
        )
    return str(own)


def check_holds_none(path: str, names: Sequence[str], *, allow_download: bool) -> None:
    """Refuses a folder of a model with an adapter beside it, where others have names.

    Raises:
        AdapterError: it has one.
    """
    if chosen_adapter(path, None, allow_download=allow_download) is not None:
        raise AdapterError(
            f"{path} holds an adapter beside the model, so {', '.join(names)} can't be put on it: "
            f"give a folder of the model without {ADAPTER_CONFIG}"
        )


def put_adapter(
    model: Any, path: str, *, keeps_base: bool = False, tells: bool = True
) -> PeftModel:
    """The model with the adapter in the folder ``path``, in evaluation mode.

    Args:
        model: A model without an adapter.
        path: The folder.
        keeps_base: Whether an adapter is refused that would change the base model's own weights.
        tells: Whether it is logged that the adapter was trained on a model of another name.

    Raises:
        AdapterError: the folder holds no adapter, one of another model, or one whose base weights
            it doesn't tell.
    """
    from peft import PeftModel

    folder = Path(path)
    _check_holds_adapter(folder)
    settings = _settings(folder)
    _check_keeps_to_itself(folder, settings)
    _check_tells_base(folder, settings)
    if keeps_base:
        _check_keeps_base(folder, settings)
    unclear = f"can't put the adapter {path} on this model"
    quietly = without_bars(), _without_notes_to_peft()
    watching = watched(model, path, keeps_base=keeps_base)
    with clear(unclear, AdapterError), quietly[0], quietly[1], watching as loaded:
        adapted = PeftModel.from_pretrained(model, path, adapter_name=ADAPTER_NAME)
    _check_fits(path, loaded)
    note_overwritten(model, loaded)
    if tells:
        _tell_of_another_base(settings, folder, model)
    return adapted.eval()


def with_adapter(model: Any, adapter: str) -> Any:
    """``model`` with the adapter of that name active, or with that folder's put on it.

    Raises:
        AdapterError: the model has other adapters, or the folder's can't be put on it.
    """
    names = names_on(model)
    if adapter in names:
        model.set_adapter(adapter)
        return model
    if names:
        raise AdapterError(
            f"the model has the adapters {', '.join(names)}, not {adapter!r}; "
            "put another one on it with its own load_adapter"
        )
    return put_adapter(model, adapter)


def names_on(model: Any) -> list[str]:
    """The names of the adapters that a model has, as PEFT has them."""
    return list(adapter_configs(model))


def _check_holds_adapter(folder: Path) -> None:
    lacking = [name for name in (ADAPTER_CONFIG, WEIGHTS) if not (folder / name).is_file()]
    if lacking == [WEIGHTS] and (folder / _PICKLE).is_file():
        raise AdapterError(
            f"{folder} holds its weights in {_PICKLE} only, and nothing but safetensors is read: "
            "where you trust that file, put the adapter on its model with PEFT and save it again "
            f"(PeftModel.save_pretrained writes {WEIGHTS})"
        )
    if lacking:
        raise AdapterError(f"{folder} holds no adapter: it has no {' and no '.join(lacking)}")


def _settings(folder: Path) -> dict[str, Any]:
    """What the adapter's configuration says."""
    try:
        config = json.loads((folder / ADAPTER_CONFIG).read_bytes())
    except (ValueError, RecursionError) as error:
        raise AdapterError(f"{folder / ADAPTER_CONFIG} is no JSON: {error}") from None
    if not isinstance(config, dict):
        raise AdapterError(f"{folder / ADAPTER_CONFIG} holds no settings")
    return config


def _check_keeps_to_itself(folder: Path, config: dict[str, Any]) -> None:
    """PEFT does more than load weights for some configurations, and those may be a stranger's."""
    if config.get("peft_type") == "XLORA":
        raise AdapterError(f"the adapter {folder} loads further ones from elsewhere (XLORA)")
    for name in ("megatron_config", "prompt_tuning_init_state_dict_path"):
        if config.get(name) is not None:
            raise AdapterError(
                f"the adapter {folder} has {name}, which reads code or files elsewhere"
            )


def _check_tells_base(folder: Path, config: dict[str, Any]) -> None:
    """Some adapters are a difference to weights that can't be had again from the base model's."""
    began = config.get("init_lora_weights")
    if isinstance(began, str) and began.lower().startswith(_LOST_BASE):
        raise AdapterError(
            f"the adapter {folder} changed the base weights when it began ({began}), and was not "
            "stored with its base; convert it to plain LoRA when saving "
            "(path_initial_model_for_weight_conversion of PEFT's save_pretrained)"
        )


def _check_keeps_base(folder: Path, config: dict[str, Any]) -> None:
    """Some adapters are a difference to other weights than the base model's, and change those."""
    if reason := changes_base(config):
        raise AdapterError(
            f"the adapter {folder} {reason}, which the others stand on: load it alone, without a "
            "name"
        )


def _check_fits(path: str, loaded: Loaded) -> None:
    """PEFT ignores weights for layers that the model doesn't have."""
    if loaded.unexpected or loaded.missing:
        first = sorted(loaded.unexpected or loaded.missing)[0]
        raise AdapterError(
            f"the adapter {path} belongs to another model: {len(loaded.unexpected)} of its weights "
            f"have no place in this one and {len(loaded.missing)} are missing, for instance {first}"
        )


def _tell_of_another_base(config: dict[str, Any], folder: Path, model: Any) -> None:
    """Says, by logging, that an adapter was trained on a model of another name."""
    trained_on = config.get("base_model_name_or_path")
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


@contextmanager
def _without_notes_to_peft() -> Iterator[None]:
    # PEFT asks for what transformers calls by another name by now; its users can't do anything.
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        yield
