"""Claims: after any change that torch can see nothing older is served; our switching is none.

Not seen, and not claimed: writes through ``.data``, numpy, or another process.
"""

import gc
import weakref
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn

from forwardcache.hf import HFBackend
from forwardcache.hf.batch.forward import ForwardRunner
from forwardcache.hf.model.optimizer_steps import OptimizerSteps
from forwardcache.hf.model.watch import ModelWatch
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.tolerance import TOLERANCE

PROMPT = "the quick brown fox"
CONFIG = LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False)


def lora_parameter(backend: HFBackend) -> Any:
    return next(each for name, each in backend.model.named_parameters() if "lora_B" in name)


def edit_in_place(backend: HFBackend) -> None:
    with torch.no_grad():
        lora_parameter(backend).mul_(3.0)


def edit_base(backend: HFBackend) -> None:
    with torch.no_grad():
        backend.model.base_model.model.lm_head.weight.add_(0.3)


def edit_buffer(backend: HFBackend) -> None:
    backend.model.base_model.model.model.rotary_emb.inv_freq.mul_(0.5)


def replace_parameter(backend: HFBackend) -> None:
    head = backend.model.base_model.model.lm_head
    head.weight = nn.Parameter(head.weight.detach() * 1.5)


def point_elsewhere(backend: HFBackend) -> None:
    parameter = lora_parameter(backend)
    parameter.data = parameter.data * 2.0


def add_and_set_adapter(backend: HFBackend) -> None:
    backend.model.add_adapter("second", CONFIG)
    backend.model.set_adapter("second")


def set_scaling(backend: HFBackend) -> None:
    for layer in tiny.lora_layers(backend.model):
        layer.scaling["default"] *= 1.5


def merge(backend: HFBackend) -> None:
    edit_in_place(backend)
    backend.model.merge_adapter()


def delete_layer(backend: HFBackend) -> None:
    del backend.model.base_model.model.model.layers[1]


def replace_activation(backend: HFBackend) -> None:
    for layer in backend.model.base_model.model.model.layers:
        # Kept alive: that an object died is noticed by other means.
        layer.mlp.__dict__["kept"] = layer.mlp.act_fn
        layer.mlp.act_fn = nn.ReLU()


def hook(backend: HFBackend) -> None:
    head = backend.model.base_model.model.lm_head
    head.register_forward_hook(lambda _m, _i, output: output * 2.0)


def step_with(make: Callable[[list[Any]], torch.optim.Optimizer]) -> Callable[[HFBackend], None]:
    def step(backend: HFBackend) -> None:
        optimizer = make([each for each in backend.model.parameters() if each.requires_grad])
        backend.model(input_ids=torch.tensor([[1, 2, 3]])).logits.pow(2).mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    return step


CHANGES: dict[str, Callable[[HFBackend], None]] = {
    "in-place edit of the adapter": edit_in_place,
    "in-place edit of the base model": edit_base,
    "in-place edit of a buffer": edit_buffer,
    "a parameter replaced": replace_parameter,
    "a parameter pointed at other memory": point_elsewhere,
    "add_adapter and set_adapter": add_and_set_adapter,
    "another scaling": set_scaling,
    "an edit and merge_adapter": merge,
    "a layer deleted": delete_layer,
    "a module without weights replaced": replace_activation,
    "a forward hook": hook,
    "a plain optimizer": step_with(lambda params: torch.optim.SGD(params, lr=0.5)),
    "a foreach optimizer": step_with(
        lambda params: torch.optim.AdamW(params, lr=0.1, foreach=True)
    ),
    "a fused optimizer": step_with(lambda params: torch.optim.AdamW(params, lr=0.1, fused=True)),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_change_the_new_model_is_scored(
    change: Callable[[HFBackend], None], make_backend: MakeBackend, tokenizer: Any
) -> None:
    backend = make_backend(copied=True)
    old = backend.next_token_dist(PROMPT)
    change(backend)
    new = backend.next_token_dist(PROMPT)
    truth = tiny.logprobs_after(backend.model, tokenizer(PROMPT)["input_ids"])[-1]
    torch.testing.assert_close(
        torch.tensor(new.logprobs), truth[torch.tensor(new.token_ids)], atol=TOLERANCE, rtol=0
    )
    assert new != old
    assert backend.next_token_dist(PROMPT) is new


def test_load_adapter_over_the_same_name_is_seen(
    make_backend: MakeBackend, folders: Any, tokenizer: Any
) -> None:
    backend = make_backend(copied=True)
    edit_in_place(backend)
    old = backend.next_token_dist(PROMPT)
    backend.model.load_adapter(folders["adapter"], "default")
    new = backend.next_token_dist(PROMPT)
    truth = tiny.logprobs_after(backend.model, tokenizer(PROMPT)["input_ids"])[-1]
    assert new != old
    assert new.logprobs[0] == pytest.approx(float(truth.max()), abs=TOLERANCE)


@pytest.mark.parametrize("way", ["assigned", "changed in place"])
def test_another_tokenizer_is_seen(way: str, make_backend: MakeBackend) -> None:
    backend = make_backend(tokenizer=tiny.tokenizer())
    old = backend.rolling_logprob(PROMPT)
    if way == "assigned":
        backend.tokenizer = tiny.tokenizer(bos=False)
    else:
        backend.tokenizer.add_tokens(["quick"])
    new = backend.rolling_logprob(PROMPT)
    assert new.token_ids.tolist() != old.token_ids.tolist()
    assert new.token_ids.tolist() == backend.tokenizer(PROMPT)["input_ids"]


def test_our_own_switching_is_no_change(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    first = backend.next_token_dist(PROMPT)
    for view in (
        backend.as_base(),
        backend.as_scaled_adapter(0.5),
        backend.as_null_adapter(1),
    ):
        with view as scoring:
            scoring.rolling_logprob_batch(list(tiny.PROMPTS))
            scoring.generate(PROMPT, max_new_tokens=2)
    backend.preflight_finite_check()
    assert backend.next_token_dist(PROMPT) is first


def test_writes_that_torch_can_not_see_can_be_announced(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    old = backend.next_token_dist(PROMPT)
    lora_parameter(backend).data.numpy()[:] *= 2.0
    backend.weights_changed()
    assert backend.next_token_dist(PROMPT) != old


def test_inference_tensors_are_told_apart_by_their_values(tokenizer: Any) -> None:
    with torch.inference_mode():
        model = tiny.llama()
    backend = HFBackend(model, tokenizer)
    old = backend.next_token_dist(PROMPT)
    assert backend.next_token_dist(PROMPT) is old
    with torch.inference_mode():
        model.lm_head.weight.mul_(2.0)
    assert backend.next_token_dist(PROMPT) != old


def test_a_change_in_the_middle_of_a_forward_is_not_stored(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)
    call = ForwardRunner._call
    left = [1]

    def changing(self: Any, rows: Any, **kept: Any) -> Any:
        output = call(self, rows, **kept)
        if left:
            left.pop()
            edit_in_place(backend)
        return output

    monkeypatch.setattr(ForwardRunner, "_call", changing)
    found = backend.next_token_dist(PROMPT)
    fresh = HFBackend(backend.model, backend.tokenizer).next_token_dist(PROMPT)
    assert found == fresh
    assert len(backend.instrumentation.cache) == 1


def test_a_model_that_never_stands_still_is_scored_and_not_cached(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend(copied=True)
    call = ForwardRunner._call

    def changing(self: Any, rows: Any, **kept: Any) -> Any:
        edit_in_place(backend)
        return call(self, rows, **kept)

    monkeypatch.setattr(ForwardRunner, "_call", changing)
    assert backend.next_token_dist(PROMPT).vocab_size == tiny.VOCAB
    assert len(backend.next_token_dist_batch([PROMPT, "fox"])) == 2
    assert len(backend.instrumentation.cache) == 0


def test_the_optimizer_hook_goes_with_the_last_backend(shared_models: Any, tokenizer: Any) -> None:
    gc.collect()
    before = OptimizerSteps._shared
    watchers = before._watchers if before else 0
    backend = HFBackend(shared_models["llama"], tokenizer)
    assert OptimizerSteps._shared is not None
    assert OptimizerSteps._shared._watchers == watchers + 1
    gone = weakref.ref(backend._scorer.identity)
    del backend
    gc.collect()
    assert gone() is None
    after = OptimizerSteps._shared
    assert (after._watchers if after else 0) == watchers


def test_replaced_weights_are_not_kept_in_memory(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    backend.next_token_dist(PROMPT)
    old = weakref.ref(backend.model.base_model.model.lm_head.weight)
    replace_parameter(backend)
    gc.collect()
    assert old() is None


def test_a_hit_looks_at_the_model_once(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    backend = make_backend()
    with backend.as_finetuned() as view:
        view.next_token_dist(PROMPT)
        looks: list[ModelWatch] = []
        inner = ModelWatch.unchanged

        def counting(watch: ModelWatch) -> Any:
            looks.append(watch)
            return inner(watch)

        monkeypatch.setattr(ModelWatch, "unchanged", counting)
        view.next_token_dist(PROMPT)
    assert len(looks) == 1
