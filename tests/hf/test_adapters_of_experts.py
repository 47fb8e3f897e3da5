"""Claims: adapters that PEFT puts around base parameters (experts in one, routers) stand side by
side as others do. Each forward replaces those parameters by a newer version, which is no change
of the base model, whose keys know nothing of the adapter: what was asked before is a hit, views are
compared, a write to such a parameter is seen.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.hf.adapter_cases import mixtral
from tests.tolerance import TOLERANCE

PROMPTS = list(tiny.PROMPTS[:3])
EXPERTS = ["experts.gate_up_proj", "experts.down_proj"]
CONFIGS: dict[str, dict[str, Any]] = {
    "experts": {"target_modules": [], "target_parameters": EXPERTS},
    "router": {"target_modules": ["gate"]},
    "plain": {"target_modules": ["q_proj"]},
}


def drawn(model: Any, name: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for path, parameter in model.named_parameters():
            if "lora_" in path and f".{name}" in path:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.3)


# PEFT puts no two adapters of different parameters on one model.
BESIDE = ("experts", "plain")


def on_model() -> Any:
    names = list(BESIDE)
    made: Any = get_peft_model(mixtral(), LoraConfig(r=4, **CONFIGS[names[0]]), names[0])
    for name in names[1:]:
        made.add_adapter(name, LoraConfig(r=4, **CONFIGS[name]))
    for seed, name in enumerate(names):
        drawn(made, name, seed)
    return made.eval().requires_grad_(False)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("experts")
    for seed, (name, config) in enumerate(CONFIGS.items()):
        adapted: Any = get_peft_model(mixtral(), LoraConfig(r=4, **config))
        drawn(adapted, "default", seed)
        adapted.save_pretrained(root / name)
    return {name: root / name for name in CONFIGS}


def made(kind: str, folders: dict[str, Path], **options: Any) -> HFBackend:
    model = on_model() if kind == "on the model" else mixtral().requires_grad_(False)
    adapter: Any = list(BESIDE) if kind == "on the model" else folders
    return HFBackend(model, tiny.tokenizer(), adapter=adapter, **options)


def oracle(backend: HFBackend, folders: dict[str, Path], name: str) -> Any:
    model: Any = copy.deepcopy(backend.model)
    if not isinstance(model, PeftModel):
        return PeftModel.from_pretrained(model, folders[name]).eval()
    model.set_adapter(name)
    return model.eval()


@pytest.mark.parametrize(
    ("kind", "policy", "keep"),
    [
        ("in folders", "versions", "values"),
        ("in folders", "versions", "states"),
        ("in folders", "strict", "values"),
        ("on the model", "versions", "states"),
    ],
)
def test_what_was_asked_before_is_a_hit_and_a_write_is_seen(
    kind: str, policy: Any, keep: Any, folders: dict[str, Path]
) -> None:
    backend = made(kind, folders, identity=policy, keep=keep)

    def ask() -> None:
        for name in backend.adapters:
            with backend.as_finetuned(name) as view:
                values = view.next_token_dist_batch(PROMPTS, top_k=tiny.VOCAB)
            model = oracle(backend, folders, name)
            for prompt, value in zip(PROMPTS, values, strict=True):
                assert tiny.agrees(value, model, backend.tokenizer(prompt)["input_ids"])

    every = len(PROMPTS) * len(backend.adapters)
    ask()
    assert (backend.stats.forward_passes, backend.stats.cache_hits) == (every, 0)
    ask()
    assert (backend.stats.forward_passes, backend.stats.cache_hits) == (every, every)
    views = [backend.as_finetuned(name) for name in backend.adapters]
    found = backend.compare(PROMPTS[:1], views)
    assert min(one.kl.mean() for [one] in found.values()) > TOLERANCE
    before = backend.stats.forward_passes
    experts = next(p for n, p in backend.model.named_parameters() if "gate_up_proj" in n)
    with torch.no_grad():
        experts[0].mul_(1.5)
    ask()
    assert backend.stats.forward_passes == before + every
