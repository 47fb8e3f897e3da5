"""Claims: LoRA on each expert, as it was stored when experts were modules of their own, is what
PEFT makes of it; and where experts or layers are missing or too many, it is another model's.
"""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import MixtralConfig, MixtralForCausalLM, Qwen3MoeConfig, Qwen3MoeForCausalLM

from forwardcache.errors import AdapterError
from forwardcache.hf import HFBackend
from tests.hf import tiny

PROMPT = "the quick brown fox"
HIDDEN, INNER, RANK = 32, 24, 2
SHAPE: dict[str, Any] = {
    "vocab_size": tiny.VOCAB,
    "hidden_size": HIDDEN,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": tiny.CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 1,
}
# What holds the experts, and what their gate, up and down were called.
NAMES = {
    "mixtral": ("block_sparse_moe", ("w1", "w3", "w2")),
    "qwen": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}

Tensors = dict[str, torch.Tensor]


def experts_of(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "mixtral":
        config: Any = MixtralConfig(**SHAPE, intermediate_size=INNER, num_local_experts=4)
        model: Any = MixtralForCausalLM(config)
    else:
        inner: dict[str, Any] = {
            "intermediate_size": 48,
            "moe_intermediate_size": INNER,
            "head_dim": 8,
        }
        config = Qwen3MoeConfig(**SHAPE, **inner, num_experts=4, num_experts_per_tok=2)
        model = Qwen3MoeForCausalLM(config)
    with torch.no_grad():
        for name, parameter in tiny.sharpened(model).named_parameters():
            if "experts" in name:
                parameter.mul_(8)
    return model.eval()


def stored(kind: str, *, experts: int = 4, layers: int = 2) -> Tensors:
    """A and B of each expert's matrices, by their names of that time."""
    torch.manual_seed(9)
    block, names = NAMES[kind]
    tensors = {}
    for layer in range(layers):
        for expert in range(experts):
            for name in names:
                wide, tall = (INNER, HIDDEN) if name == names[2] else (HIDDEN, INNER)
                at = f"base_model.model.model.layers.{layer}.{block}.experts.{expert}.{name}"
                tensors[f"{at}.lora_A.weight"] = 0.3 * torch.randn(RANK, wide)
                tensors[f"{at}.lora_B.weight"] = 0.3 * torch.randn(tall, RANK)
    return tensors


def by_hand(model: Any, kind: str, tensors: Tensors, scale: float) -> Any:
    """The model with each expert's delta added to its weights."""
    block, names = NAMES[kind]
    model = copy.deepcopy(model)
    for number, layer in enumerate(model.model.layers):
        experts = layer.mlp.experts
        for expert in range(4):
            at = f"base_model.model.model.layers.{number}.{block}.experts.{expert}"
            gate, up, down = (
                scale
                * tensors[f"{at}.{name}.lora_B.weight"]
                @ tensors[f"{at}.{name}.lora_A.weight"]
                for name in names
            )
            with torch.no_grad():
                experts.gate_up_proj[expert].add_(torch.cat([gate, up]))
                experts.down_proj[expert].add_(down)
    return model


@pytest.fixture(params=list(NAMES))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def load(kind: str, tmp_path: Path, tokenizer: Any) -> Callable[[Tensors], HFBackend]:
    experts_of(kind).save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": RANK, "lora_alpha": 2 * RANK, "task_type": "CAUSAL_LM"}
    config["target_modules"] = list(NAMES[kind][1])
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))

    def load(tensors: Tensors) -> HFBackend:
        save_file(tensors, tmp_path / "adapter" / "adapter_model.safetensors")
        return HFBackend.load(tmp_path / "model", tmp_path / "adapter")

    return load


def test_each_experts_delta_is_its_own(kind: str, load: Any, tokenizer: Any) -> None:
    model, tensors = experts_of(kind), stored(kind)
    loaded = load(tensors)
    adapted = by_hand(model, kind, tensors, 2.0)
    assert tiny.agrees(loaded.next_token_dist(PROMPT), adapted, tokenizer(PROMPT).input_ids)
    with loaded.as_base() as base:
        assert tiny.agrees(base.next_token_dist(PROMPT), model, tokenizer(PROMPT).input_ids)
    with loaded.as_scaled_adapter(0.5) as scaled:
        half = by_hand(model, kind, tensors, 1.0)
        assert tiny.agrees(scaled.next_token_dist(PROMPT), half, tokenizer(PROMPT).input_ids)


@pytest.mark.parametrize(
    "other", [{"experts": 6}, {"experts": 3}, {"layers": 3}, {"layers": 1}], ids=str
)
def test_experts_of_another_model_are_refused(other: Any, kind: str, load: Any) -> None:
    with pytest.raises(AdapterError, match=r"another model|size mismatch"):
        load(stored(kind, **other))


@pytest.mark.parametrize("part", ["", "{up}.", "{up}.lora_A"])
def test_a_part_of_an_expert_that_is_missing_is_refused(part: str, kind: str, load: Any) -> None:
    block, names = NAMES[kind]
    gone = f"layers.1.{block}.experts.2.{part.format(up=names[1])}"
    with pytest.raises(AdapterError):
        load({name: each for name, each in stored(kind).items() if gone not in name})


def test_other_names_are_refused(kind: str, load: Any) -> None:
    renamed = {name.replace("layers", "blocks"): each for name, each in stored(kind).items()}
    with pytest.raises(AdapterError, match="another model"):
        load(renamed)
