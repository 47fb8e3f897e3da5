"""The demo's model in any dtype, with no adapter to speak of, or with the one that it ships."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

import forwardcache
from forwardcache.hf import HFBackend

FOLDER = Path(forwardcache.__file__).parent / "demo"


def prompts(count: int) -> list[str]:
    """Some of the demo's prompts, of both styles."""
    with (FOLDER / "prompts.jsonl").open() as lines:
        every = [json.loads(line)["prompt"] for line in lines]
    return every[:: len(every) // count][:count]


def tokenizer() -> Any:
    return AutoTokenizer.from_pretrained(FOLDER / "model")


def shipped(dtype: str) -> HFBackend:
    """With the demo's own adapter."""
    return HFBackend.load(FOLDER / "model", FOLDER / "adapter", dtype=dtype, device="cpu")


def adapted(dtype: torch.dtype, texts: Sequence[str], *, steps: int) -> Any:
    """The model with an adapter trained for some steps at 1e-5, or with B = 0 for none."""
    model = AutoModelForCausalLM.from_pretrained(FOLDER / "model", dtype=torch.float32)
    torch.manual_seed(0)
    settings: Any = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "k_proj"]}
    with_adapter: Any = get_peft_model(model, LoraConfig(**settings))
    parameters = [each for each in with_adapter.parameters() if each.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=1e-5)
    reads = tokenizer()
    for _ in range(steps):
        for text in texts:
            ids = torch.tensor([reads(text)["input_ids"]])
            with_adapter(input_ids=ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return with_adapter.to(dtype).eval().requires_grad_(False)
