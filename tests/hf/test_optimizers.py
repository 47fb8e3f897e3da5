"""Claims: after a step of any optimizer of torch nothing older is served, also of a fused one.

One step on the adapter, and one on weights of the base model that are frozen again afterwards, so
that the policy is ``versions`` both times.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch.optim import Optimizer

from forwardcache.hf import HFBackend
from tests.hf.conftest import MakeBackend

PROMPT = "the quick brown fox"

FUSED = {"SGD", "Adam", "AdamW", "Adagrad"}
WITHOUT_FOREACH = {"LBFGS", "SparseAdam"}
OPTIONS: dict[str, dict[str, Any]] = {"SGD": {"lr": 0.5}, "Adadelta": {"lr": 50.0}}


def kinds() -> dict[str, Any]:
    """Every optimizer that torch has."""
    return {
        name: kind
        for name, kind in vars(torch.optim).items()
        if isinstance(kind, type) and issubclass(kind, Optimizer) and kind is not Optimizer
    }


def ways() -> Iterator[Any]:
    for name in kinds():
        for way in ("plain", "foreach", "fused"):
            takes = way in kinds()[name].__init__.__code__.co_varnames
            if way == "plain" or takes:
                yield pytest.param(name, way, id=f"{name} {way}")


def made(name: str, way: str, parameters: list[Any]) -> Optimizer:
    options: dict[str, Any] = {"lr": 0.1} | OPTIONS.get(name, {})
    if way != "plain":
        options[way] = True
    elif "foreach" in kinds()[name].__init__.__code__.co_varnames:
        options["foreach"] = False
    optimizer: Optimizer = kinds()[name](parameters, **options)
    return optimizer


def step(backend: HFBackend, name: str, way: str, part: str) -> None:
    parameters = [
        each for label, each in backend.model.named_parameters() if part in label and each.ndim == 2
    ]
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = made(name, way, parameters)

    def loss() -> Any:
        optimizer.zero_grad()
        value = backend.model(input_ids=torch.tensor([[1, 2, 3]])).logits.pow(2).mean()
        value.backward()
        if name == "SparseAdam":
            for parameter in parameters:
                parameter.grad = None if parameter.grad is None else parameter.grad.to_sparse()
        return value

    if name != "LBFGS":
        loss()
    optimizer.step(loss if name == "LBFGS" else None)
    optimizer.zero_grad()
    for parameter in parameters:
        parameter.requires_grad_(part == "lora_")


@pytest.mark.parametrize(("name", "way"), list(ways()))
@pytest.mark.parametrize("part", ["lora_", "mlp.down_proj"])
def test_after_a_step_the_new_weights_are_scored(
    name: str, way: str, part: str, make_backend: MakeBackend
) -> None:
    backend = make_backend(copied=True)
    with backend.as_base() as base:
        base.next_token_dist(PROMPT)
    old = backend.next_token_dist(PROMPT)
    step(backend, name, way, part)
    fresh = HFBackend(backend.model, backend.tokenizer)
    new = backend.next_token_dist(PROMPT)
    assert backend.identity_policy == "versions"
    assert new != old
    assert new == fresh.next_token_dist(PROMPT)
    with backend.as_base() as base:
        found = base.next_token_dist(PROMPT)
    with fresh.as_base() as base:
        assert base.next_token_dist(PROMPT) == found


def test_every_optimizer_that_has_a_fused_form_is_stepped_in_it() -> None:
    stepped = {param.values[0] for param in ways() if param.values[1] == "fused"}
    assert stepped >= FUSED


def test_a_fused_step_alone_would_not_move_a_version(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    weight = next(each for name, each in backend.model.named_parameters() if "lora_B" in name)
    step(backend, "AdamW", "fused", "lora_")
    before = weight._version
    step(backend, "AdamW", "fused", "lora_")
    assert weight._version == before
