"""Claims: a view tells the norm of what it adds to the weights, where LoRA's A and B are all of it.

The oracle makes the whole product of every layer. Checked: ft, scaled, null and base views; linear
and embedding layers, rsLoRA and alpha patterns; that nothing is changed; DoRA has none.
"""

from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer

from forwardcache.hf import HFBackend
from forwardcache.hf.model.switch import switched
from forwardcache.hf.spec import null
from tests.hf import tiny

ADAPTERS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True, "r": 3},
    {"target_modules": ["q_proj", "embed_tokens", "lm_head"]},
    {
        "target_modules": "all-linear",
        "alpha_pattern": {"q_proj": 32},
        "rank_pattern": {"k_proj": 2},
    },
]


def norm_by_products(model: Any) -> float:
    """The norm of all products together, each made in full."""
    layers: list[Any] = [module for module in model.modules() if isinstance(module, LoraLayer)]
    added = [layer.get_delta_weight("default").double().flatten() for layer in layers]
    return float(torch.cat(added).norm())


def norm_of(view: Any) -> float:
    with view as entered:
        norm = entered.update_norm()
    assert isinstance(norm, float)
    return norm


@pytest.mark.parametrize("options", ADAPTERS, ids=str)
def test_the_norm_is_that_of_the_whole_products(options: dict[str, Any]) -> None:
    model = tiny.with_lora(tiny.llama(), **options)
    before = {name: each.clone() for name, each in model.state_dict().items()}
    backend = HFBackend(model, tiny.tokenizer())
    with torch.no_grad():
        expected = norm_by_products(model)
        with switched(model, null(7, 0.02, 2.0)):
            of_noise = norm_by_products(model)
    assert norm_of(backend.as_finetuned()) == pytest.approx(expected, rel=1e-5)
    assert norm_of(backend.as_scaled_adapter(-0.5)) == pytest.approx(expected / 2, rel=1e-5)
    assert norm_of(backend.as_null_adapter(7, rank_scale=2.0)) == pytest.approx(of_noise, rel=1e-5)
    assert norm_of(backend.as_base()) == norm_of(backend.as_scaled_adapter(0.0)) == 0.0
    assert all(torch.equal(each, before[name]) for name, each in model.state_dict().items())


@pytest.mark.parametrize(
    "options",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"init_lora_weights": "olora"}],
    ids=str,
)
def test_where_a_and_b_are_not_all_there_is_no_norm(options: dict[str, Any]) -> None:
    backend = HFBackend(tiny.with_lora(tiny.llama(), **options), tiny.tokenizer())
    with backend.as_finetuned() as view:
        assert view.update_norm() is None


def test_noise_of_an_adapter_that_is_0_has_a_norm_and_the_adapter_none() -> None:
    model = tiny.with_lora(tiny.llama())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.zero_()
    backend = HFBackend(model, tiny.tokenizer())
    assert norm_of(backend.as_finetuned()) == 0.0
    assert norm_of(backend.as_null_adapter(1)) > 0.0
