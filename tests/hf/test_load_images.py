"""Claims: a folder with a model of images and text gives one that is asked about text, with the
folder's tokenizer and chat template, its adapters too; what gives no tokens is one clear error.
"""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import HFBackend
from tests.hf import tiny

PROMPT = "the quick brown fox"
TEXT: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": tiny.CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
SEES: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}


def llava() -> Any:
    return transformers.LlavaConfig(
        text_config=transformers.LlamaConfig(**TEXT),
        vision_config=transformers.CLIPVisionConfig(**SEES, projection_dim=16),
        image_token_index=5,
    )


def mistral3() -> Any:
    return transformers.Mistral3Config(
        text_config=transformers.MistralConfig(**TEXT, head_dim=8),
        vision_config=transformers.PixtralVisionConfig(**SEES),
        image_token_index=5,
    )


def qwen() -> Any:
    rope = {"rope_type": "default", "mrope_section": [1, 1, 2], "rope_theta": 1e4}
    depth = {"depth": 1, "num_heads": 2, "out_hidden_size": 32, "fullatt_block_indexes": [0]}
    return transformers.Qwen2_5_VLConfig(
        text_config=TEXT | {"rope_parameters": rope},
        vision_config=depth | {"hidden_size": 16, "intermediate_size": 32},
    )


@pytest.fixture(params=[llava, mistral3, qwen])
def model(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(0)
    made = transformers.AutoModelForImageTextToText.from_config(request.param())
    return tiny.sharpened(made).eval()


@pytest.fixture
def folder(model: Any, tokenizer: Any, tmp_path: Path) -> Path:
    model.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_model_of_images_and_text_is_asked_about_text(
    model: Any, folder: Path, tokenizer: Any
) -> None:
    loaded = HFBackend.load(folder)
    assert type(loaded.model) is type(model)
    assert tiny.agrees(loaded.next_token_dist(PROMPT), model, tokenizer(PROMPT).input_ids)


def test_its_adapter_is_put_on(model: Any, folder: Path, tokenizer: Any, tmp_path: Path) -> None:
    adapted = tiny.with_lora(copy.deepcopy(model))
    adapted.save_pretrained(tmp_path / "adapter")
    loaded = HFBackend.load(folder, tmp_path / "adapter")
    assert tiny.agrees(loaded.next_token_dist(PROMPT), adapted, tokenizer(PROMPT).input_ids)
    with loaded.as_base() as base:
        assert tiny.agrees(base.next_token_dist(PROMPT), model, tokenizer(PROMPT).input_ids)


def test_a_store_finds_its_values_again_and_no_others(folder: Path, tmp_path: Path) -> None:
    store = tmp_path / "values.db"
    for kept in (1, 0):
        with HFBackend.load(folder, store=store) as loaded:
            loaded.next_token_dist(PROMPT)
            assert loaded.store.kept == kept
    with HFBackend.load(folder, store=store) as loaded:
        loaded.model.get_input_embeddings().weight.data.mul_(1.5)
        loaded.weights_changed()
        loaded.next_token_dist(PROMPT)
        assert loaded.store.hits == 0


def test_the_chat_template_of_an_older_processor_is_read(folder: Path) -> None:
    written = json.dumps({"chat_template": "U:{{ messages[0]['content'] }}|A:"})
    (folder / "chat_template.json").write_text(written)
    asked = HFBackend.load(folder, chat_template=True)
    plain = HFBackend.load(folder, add_special_tokens=False)
    assert asked.next_token_dist("hi") == plain.next_token_dist("U:hi|A:")


@pytest.mark.parametrize("kind", ["clip", "vit"])
def test_a_model_that_gives_no_tokens_is_one_clear_error(kind: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(UnsupportedModelError, match=f"next tokens of text.*{kind}") as caught:
        HFBackend.load(tmp_path)
    assert "\n" not in str(caught.value)
