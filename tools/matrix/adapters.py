"""Checks of adapters: LoRA on a model of the matrix, and every case of ``tests.hf.adapter_cases``.

Each view is held to plain forwards: ``base`` to an untouched copy of the base model, ``ft`` to
PEFT's own model, a scaled adapter to the base weights with its share of the change added by hand,
a null adapter to a copy with the noise that its seed gives.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer

from forwardcache.errors import AdapterError, UnsupportedModelError
from forwardcache.hf import HFBackend, HFView
from tests.hf import tiny
from tests.hf.adapter_cases import CASES
from tests.hf.adapter_cases import Case as AdapterCase
from tools.matrix.oracle import Oracle
from tools.matrix.scoring import PAIRS, PROMPTS, TEXTS, Scored, text
from tools.matrix.verdict import Finding, Verdict, first_line

LAMBDA = 0.5
SEED = 7
# Several lengths, some of them twice, and such as share their beginning.
_PROMPTS = [PROMPTS[1], PROMPTS[4], PROMPTS[8], *PROMPTS[11:14]]


def lora_views(model: Any, oracle: Oracle, tokenizer: Any) -> Finding:
    """LoRA on all linear layers of a model: its base and its fine-tuned view.

    Args:
        model: A plain model; it is left as it is.
        oracle: Its plain forwards.
        tokenizer: How text is read.
    """
    finding = Finding()
    try:
        adapted = _adapted(copy.deepcopy(model))
        with torch.no_grad():
            adapted(input_ids=torch.arange(5, 17)[None])
    except Exception as error:
        finding.add("none", f"PEFT has no such adapter: {type(error).__name__}")
        return finding
    before = {name: each.clone() for name, each in adapted.state_dict().items()}
    held = {
        "base": Scored(oracle, tokenizer),
        "ft": Scored(Oracle(copy.deepcopy(adapted)), tokenizer),
    }

    def backend() -> float:
        found = HFBackend(adapted, tokenizer)
        for name, view in (("base", found.as_base()), ("ft", found.as_finetuned())):
            with view:
                _check_view(finding, f"view {name}", view, held[name])
        return 0.0

    finding.check("HFBackend", backend)
    changed = [name for name, each in adapted.state_dict().items() if not _same(each, before[name])]
    if changed:
        finding.add("WRONG", f"changed after the views: {changed[0]}")
    return finding


def _same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def _adapted(model: Any) -> Any:
    torch.manual_seed(3)
    adapted = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, target_modules="all-linear"))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.15)
    return adapted.eval().requires_grad_(False)


def _check_view(finding: Finding, what: str, view: HFView, held: Scored) -> None:
    size = tiny.VOCAB
    pairs, texts = PAIRS[3:9], TEXTS[2:4]
    finding.check(
        f"{what}, next_token_dist",
        lambda: held.dists(_PROMPTS, view.next_token_dist_batch(_PROMPTS, top_k=size)),
    )
    finding.check(
        f"{what}, logprob_of",
        lambda: held.completions(pairs, view.logprob_of_batch(pairs)),
    )
    finding.check(
        f"{what}, rolling_logprob",
        lambda: held.rolled(texts, [view.rolling_logprob(each) for each in texts]),
    )


def examined(name: str, tokenizer: Any) -> Verdict:
    """The verdict on a case of the adapters' table: a part for each kind of view."""
    case = CASES[name]
    verdict = Verdict(name, "adapter")
    torch.manual_seed(0)
    try:
        model = case.make()
    except Exception as error:
        verdict.not_built = f"{type(error).__name__}: {first_line(error)}"
        return verdict
    kinds: dict[str, tuple[Callable[[HFBackend], HFView], Callable[[], Any]]] = {
        "base": (lambda backend: backend.as_base(), case.base),
        "ft": (lambda backend: backend.as_finetuned(), case.make),
        "scaled": (lambda backend: backend.as_scaled_adapter(LAMBDA), lambda: _scaled(case)),
        "null": (lambda backend: backend.as_null_adapter(SEED), lambda: _null(case)),
    }
    for kind, (view, truth) in kinds.items():
        finding = verdict.parts[kind] = Finding()
        _hold(finding, model, tokenizer, view, truth)
        if finding.outcome == "refused" and kind in case.exact:
            verdict.notes.append(f"{kind} could be exact")
    return verdict


def _hold(
    finding: Finding,
    model: Any,
    tokenizer: Any,
    view_of: Callable[[HFBackend], HFView],
    truth: Callable[[], Any],
) -> None:
    def values() -> float:
        try:
            view = view_of(HFBackend(model, tokenizer))
            with view:
                # A view that can't be had says so here, before there is anything to hold it to.
                view.next_token_dist(text(6))
                held = Scored(Oracle(truth()), tokenizer)
                _check_view(finding, f"view {view.view_id}", view, held)
        except AdapterError as refused:
            raise UnsupportedModelError(str(refused)) from refused
        return 0.0

    finding.check("the view", values)


def _scaled(case: AdapterCase) -> Any:
    """The case's model with the change of its adapter added to the base weights, as much of it."""
    model = case.make()
    layers: list[Any] = [each for each in model.modules() if isinstance(each, LoraLayer)]
    if not all(_can_add(each) for each in layers) or _share_memory(layers):
        # Then the layers' own factor says the same.
        for layer in layers:
            layer.scaling = {name: LAMBDA * factor for name, factor in layer.scaling.items()}
        return model
    with torch.no_grad():
        for layer in layers:
            base = layer.get_base_layer()
            for name in layer.active_adapters:
                if name in layer.scaling:
                    base.weight.add_(layer.get_delta_weight(name), alpha=LAMBDA)
                    layer.scaling[name] = 0.0
    return model


def _can_add(layer: Any) -> bool:
    """Whether all that the layer does is to add to one weight matrix."""
    base = layer.get_base_layer()
    weight = getattr(base, "weight", None)
    has_bias = any(layer.lora_bias.values())
    return isinstance(weight, torch.nn.Parameter) and weight.ndim == 2 and not has_bias


def _share_memory(layers: list[Any]) -> bool:
    places = [each.get_base_layer().weight.data_ptr() for each in layers]
    return len(set(places)) < len(places)


def _null(case: AdapterCase) -> Any:
    """The case's model with noise in place of every A and B; what is tied gets one noise."""
    model = case.make()
    generator = torch.Generator(device="cpu").manual_seed(SEED)
    seen: set[int] = set()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            is_low_rank = any(f"lora_{part}" in name for part in ("A", "B", "embedding_"))
            if is_low_rank and parameter.data_ptr() not in seen:
                seen.add(parameter.data_ptr())
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.02)
    return model
