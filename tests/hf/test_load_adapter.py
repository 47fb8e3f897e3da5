"""Claims: an adapter's folder gives what PEFT makes of it, and base stays the base model or says
why it can't; what can't be read, or was made for another model, is one clear error.
"""

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import LlamaForCausalLM

from forwardcache.errors import AdapterError, UnsupportedModelError
from forwardcache.hf import HFBackend
from tests.hf import tiny

PROMPT = "the quick brown fox"
WEIGHTS = "adapter_model.safetensors"


def saved(model: Any, folder: Path, tokenizer: Any) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def both(folders: dict[str, Path], tmp_path: Path) -> Path:
    """A folder that holds a model and an adapter of it."""
    shutil.copytree(folders["model"], tmp_path / "both")
    return Path(shutil.copytree(folders["adapter"], tmp_path / "both", dirs_exist_ok=True))


@pytest.mark.parametrize("named", [False, True])
def test_an_adapter_beside_the_model_is_that_models_adapter(
    named: bool, both: Path, tokenizer: Any
) -> None:
    loaded = HFBackend.load(both, f"{both}/." if named else None)
    assert tiny.agrees(
        loaded.next_token_dist(PROMPT), tiny.with_lora(tiny.llama()), tokenizer(PROMPT).input_ids
    )
    with loaded.as_base() as base:
        assert tiny.agrees(base.next_token_dist(PROMPT), tiny.llama(), tokenizer(PROMPT).input_ids)


def test_another_adapter_than_the_one_beside_the_model_is_refused(
    both: Path, folders: dict[str, Path]
) -> None:
    with pytest.raises(AdapterError, match="holds an adapter beside the model"):
        HFBackend.load(both, folders["adapter"])


def test_a_pickle_beside_the_model_is_not_read(both: Path) -> None:
    torch.save(load_file(both / WEIGHTS), both / "adapter_model.bin")
    (both / WEIGHTS).unlink()
    with pytest.raises(AdapterError, match="nothing but safetensors is read"):
        HFBackend.load(both)


def test_a_pickle_is_told_with_what_makes_safetensors_of_it(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    tiny.with_lora(tiny.llama()).save_pretrained(tmp_path, safe_serialization=False)
    with pytest.raises(AdapterError, match=r"adapter_model\.bin only.*safetensors.*save it again"):
        HFBackend.load(folders["model"], tmp_path)


@pytest.mark.parametrize("began", ["pissa_niter_4", "corda", "lora_ga"])
def test_an_adapter_to_weights_that_are_lost_is_refused(
    began: str, folders: dict[str, Path], tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(folders["adapter"], tmp_path / "adapter"))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps(config | {"init_lora_weights": began}))
    with pytest.raises(AdapterError, match=f"{began}.*not stored with its base; convert it"):
        HFBackend.load(folders["model"], folder)


@pytest.mark.parametrize("began", ["pissa", "olora"])
def test_an_adapter_that_peft_rebuilds_the_base_of_is_taken(
    began: str, folders: dict[str, Path], tokenizer: Any, tmp_path: Path
) -> None:
    adapted = tiny.with_lora(tiny.llama(), init_lora_weights=began)
    adapted.save_pretrained(tmp_path)
    loaded = HFBackend.load(folders["model"], tmp_path)
    assert tiny.agrees(loaded.next_token_dist(PROMPT), adapted, tokenizer(PROMPT).input_ids)


GROWN: list[dict[str, Any]] = [
    {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]},
    {"target_modules": ["q_proj"]},
    {"target_modules": ["embed_tokens"]},
    {"target_modules": ["lm_head"]},
]


@pytest.mark.parametrize("options", GROWN)
def test_a_vocabulary_that_grew_is_told_with_what_to_do(
    options: Any, folders: dict[str, Path], tokenizer: Any, tmp_path: Path
) -> None:
    model = tiny.llama()
    model.resize_token_embeddings(tiny.VOCAB + 4)
    tiny.with_lora(copy.deepcopy(model), **options).save_pretrained(
        tmp_path, save_embedding_layers="modules_to_save" not in options
    )
    with pytest.raises(AdapterError, match=r"resize_token_embeddings\(324\)"):
        HFBackend.load(folders["model"], tmp_path)
    assert HFBackend(model, tokenizer, adapter=tmp_path).next_token_dist(PROMPT).is_finite


def test_a_wider_models_head_is_no_vocabulary_that_grew(
    folders: dict[str, Path], tmp_path: Path
) -> None:
    other = tiny.with_lora(tiny.llama(hidden=64), target_modules=["lm_head"])
    other.save_pretrained(tmp_path)
    with pytest.raises(AdapterError, match="size mismatch"):
        HFBackend.load(folders["model"], tmp_path)


def tied() -> Any:
    torch.manual_seed(1)
    config = copy.deepcopy(tiny.llama().config)
    config.tie_word_embeddings = True
    return tiny.sharpened(LlamaForCausalLM(config)).eval()


STORED: list[list[str]] = [["q_proj"], ["q_proj", "embed_tokens"], ["q_proj", "lm_head"]]


@pytest.mark.parametrize("targets", STORED)
@pytest.mark.parametrize("make", [tiny.llama, tied])
def test_tensors_of_another_base_in_the_file_are_no_base_view(
    make: Any, targets: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    base, trainers = make(), make()
    with torch.no_grad():
        trainers.get_input_embeddings().weight.mul_(1.3)
        trainers.get_output_embeddings().weight.mul_(1.1)
    saved(base, tmp_path / "model", tokenizer)
    adapted = tiny.with_lora(trainers, target_modules=targets)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    loaded = HFBackend.load(tmp_path / "model", tmp_path / "adapter")
    pefts = PeftModel.from_pretrained(copy.deepcopy(base), tmp_path / "adapter").eval()
    assert tiny.agrees(loaded.next_token_dist(PROMPT), pefts, tokenizer(PROMPT).input_ids)
    for model in (loaded.model, copy.deepcopy(loaded.model)):
        backend = HFBackend(model, tokenizer)
        views = (backend.as_base, lambda b=backend: b.as_scaled_adapter(0.5))
        for view in (*views, lambda b=backend: b.as_null_adapter(1)):
            with pytest.raises(UnsupportedModelError, match=r"weight.* of another base model"):
                view().__enter__()


@pytest.mark.parametrize("targets", STORED)
@pytest.mark.parametrize("make", [tiny.llama, tied])
def test_tensors_of_the_same_base_in_the_file_leave_all_views(
    make: Any, targets: list[str], tokenizer: Any, tmp_path: Path
) -> None:
    base = make()
    saved(base, tmp_path / "model", tokenizer)
    adapted = tiny.with_lora(copy.deepcopy(base), target_modules=targets)
    adapted.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    loaded = HFBackend.load(tmp_path / "model", tmp_path / "adapter")
    assert tiny.agrees(loaded.next_token_dist(PROMPT), adapted, tokenizer(PROMPT).input_ids)
    with loaded.as_base() as view:
        assert tiny.agrees(view.next_token_dist(PROMPT), base, tokenizer(PROMPT).input_ids)
    with loaded.as_scaled_adapter(0.5) as scaled:
        assert scaled.next_token_dist(PROMPT).is_finite


def test_a_tensor_without_a_place_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["adapter"], tmp_path / "adapter"))
    tensors = load_file(folder / WEIGHTS)
    stray = "base_model.model.score.weight"
    save_file(tensors | {stray: torch.zeros(2, 32)}, folder / WEIGHTS)
    with pytest.raises(AdapterError, match=f"1 of its weights have no place.*{stray}"):
        HFBackend.load(folders["model"], folder)


def test_a_tensor_that_is_missing_is_refused(folders: dict[str, Path], tmp_path: Path) -> None:
    folder = Path(shutil.copytree(folders["adapter"], tmp_path / "adapter"))
    tensors = load_file(folder / WEIGHTS)
    tensors.pop(min(tensors))
    save_file(tensors, folder / WEIGHTS)
    with pytest.raises(AdapterError, match="1 are missing"):
        HFBackend.load(folders["model"], folder)


def test_whoever_loads_leaves_no_hook_behind(folders: dict[str, Path], tokenizer: Any) -> None:
    loaded = HFBackend.load(folders["model"], folders["adapter"])
    assert not any(module._load_state_dict_pre_hooks for module in loaded.model.modules())
    by_hand = get_peft_model(tiny.llama(), LoraConfig(target_modules=["q_proj"]))
    assert HFBackend(by_hand, tokenizer).as_base()
