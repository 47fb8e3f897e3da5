"""Claims: a folder with a model or an adapter of a stranger runs no code of its own, reads nothing
elsewhere, and is refused in one line where it asks for that.
"""

from __future__ import annotations

import json
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from forwardcache.errors import AdapterError, ForwardCacheError, UnsupportedModelError
from forwardcache.hf import HFBackend
from tests.hf import tiny


class Trap:
    """Leaves a mark when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return Path.touch, (self.mark,)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model and a folder with an adapter."""
    root = tmp_path_factory.mktemp("saved")
    model = tiny.with_lora(tiny.llama())
    model.save_pretrained(root / "adapter")
    model.unload().save_pretrained(root / "model")
    tiny.tokenizer().save_pretrained(root / "model")
    return root


@pytest.fixture
def copied(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "copied"))


def change(file: Path, **settings: Any) -> None:
    config = json.loads(file.read_text("utf-8"))
    file.write_text(json.dumps(config | settings), "utf-8")


@pytest.mark.parametrize(
    "settings",
    [
        {"peft_type": "XLORA", "adapters": {"0": "somebody/adapter"}, "hidden_size": 8},
        {"megatron_config": {"a": 1}, "megatron_core": "antigravity"},
        {"prompt_tuning_init_state_dict_path": "/elsewhere/state.bin"},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_an_adapter_that_reaches_elsewhere_is_refused(
    copied: Path, settings: dict[str, Any]
) -> None:
    change(copied / "adapter" / "adapter_config.json", **settings)
    with pytest.raises(AdapterError) as caught:
        HFBackend.load(copied / "model", copied / "adapter", device="cpu")
    assert "elsewhere" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["{not json", "[]", "[" * 100_000], ids=["broken", "list", "deep"])
def test_settings_that_are_none_are_refused(copied: Path, text: str) -> None:
    (copied / "adapter" / "adapter_config.json").write_text(text)
    with pytest.raises(AdapterError, match=r"adapter_config\.json"):
        HFBackend.load(copied / "model", copied / "adapter", device="cpu")


@pytest.mark.parametrize("folder", ["model", "adapter"])
def test_weights_in_a_pickle_are_not_read(copied: Path, tmp_path: Path, folder: str) -> None:
    mark = tmp_path / "mark"
    safe, unsafe = {
        "model": ("model.safetensors", "pytorch_model.bin"),
        "adapter": ("adapter_model.safetensors", "adapter_model.bin"),
    }[folder]
    (copied / folder / safe).unlink()
    torch.save({"weight": Trap(mark)}, copied / folder / unsafe)
    with pytest.raises(ForwardCacheError):
        HFBackend.load(copied / "model", copied / "adapter", device="cpu")
    assert not mark.exists()
    pickle.loads(pickle.dumps(Trap(mark)))  # noqa: S301
    assert mark.exists(), "the trap works"


def test_code_that_comes_with_a_model_is_not_run(copied: Path, tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    model = copied / "model"
    (model / "modeling_trap.py").write_text(
        f"from pathlib import Path\nPath({str(mark)!r}).touch()\n"
    )
    autos = ("AutoConfig", "AutoModelForCausalLM")
    auto_map = {auto: f"modeling_trap.Trap{auto}" for auto in autos}
    change(model / "config.json", auto_map=auto_map, model_type="trap")
    change(model / "tokenizer_config.json", auto_map={"AutoTokenizer": ["modeling_trap.T", None]})
    with pytest.raises(ForwardCacheError):
        HFBackend.load(model, device="cpu")
    assert not mark.exists()


@pytest.mark.parametrize("name", ["attn_implementation", "_attn_implementation"])
def test_a_kernel_that_a_model_names_is_not_fetched(copied: Path, name: str) -> None:
    change(copied / "model" / "config.json", **{name: "somebody/kernel"})
    with pytest.raises(UnsupportedModelError, match=r"code from elsewhere: \w+ is somebody/kernel"):
        HFBackend.load(copied / "model", device="cpu")
