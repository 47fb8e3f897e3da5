"""Claims: what a forward itself does to a model is no change of it, and what decides values is,
wherever it lies: in a tensor's attributes, in packed weights, in a scaling that is a tensor.
"""

import copy
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from peft.utils.hotswap import prepare_model_for_compiled_hotswap
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import HFBackend
from forwardcache.hf.model.identity import ModelIdentity
from tests.hf import tiny
from tests.hf.adapter_cases import CASES
from tests.hf.conftest import MakeBackend

PROMPT = "the quick brown fox"
POLICIES: list[dict[str, Any]] = [
    {"identity": "versions"},
    {"identity": "strict"},
    {"identity": "label", "identity_label": "one"},
]


def forwards_of(backend: HFBackend, work: Callable[[], Any]) -> int:
    before = backend.stats.forward_passes
    work()
    return backend.stats.forward_passes - before


@pytest.mark.parametrize("options", POLICIES, ids=lambda each: str(each["identity"]))
@pytest.mark.parametrize("name", ["LoRA, experts' first projection", "LoRA, experts"])
def test_a_parameter_that_peft_puts_back_after_each_forward_is_the_same(
    name: str, options: dict[str, Any], tokenizer: Any, tmp_path: Path
) -> None:
    model = CASES[name].make()
    backend = HFBackend(model, tokenizer, store=tmp_path / "values.db", **options)
    for view in (backend.as_finetuned, lambda: backend.as_scaled_adapter(0.5), backend.as_base):
        with view() as scoring:
            seen = [forwards_of(backend, lambda: scoring.next_token_dist(PROMPT)) for _ in "123"]
        assert seen == [1, 0, 0]
    assert backend.store.kept == 3
    if options["identity"] != "label":
        old = backend.next_token_dist(PROMPT)
        with torch.no_grad():
            experts(model).mul_(1.5)
        assert backend.next_token_dist(PROMPT) != old


def experts(model: Any) -> Any:
    """The weights of one layer's experts."""
    return next(each for name, each in model.named_parameters() if "gate_up_proj" in name)


def longrope(tokenizer: Any) -> HFBackend:
    torch.manual_seed(6)
    config = LlamaConfig(
        vocab_size=tiny.VOCAB,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=tiny.CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
        rope_parameters={
            "rope_type": "longrope",
            "rope_theta": 10000.0,
            "original_max_position_embeddings": 12,
            "short_factor": [1.0] * 4,
            "long_factor": [4.0] * 4,
        },
    )
    return HFBackend(tiny.sharpened(LlamaForCausalLM(config)).eval(), tokenizer)


def test_frequencies_that_a_forward_sets_for_itself_are_no_change(tokenizer: Any) -> None:
    backend = longrope(tokenizer)
    backend.model.requires_grad_(False)
    short, long = "the dog", "the quick brown fox jumps over the lazy dog and again, the dog"
    assert len(tokenizer(long)["input_ids"]) > 12 > len(tokenizer(short)["input_ids"])
    seen = [
        forwards_of(backend, partial(backend.next_token_dist, prompt))
        for prompt in (short, long, short, long)
    ]
    assert seen == [1, 1, 0, 0]
    for prompt in (short, long):
        truth = tiny.logprobs_after(backend.model, tokenizer(prompt)["input_ids"])[-1]
        found = backend.next_token_dist(prompt)
        assert abs(float(found.logprobs[0]) - float(truth.max())) < 1e-5
    old = backend.next_token_dist(short)
    backend.model.model.rotary_emb.original_inv_freq.mul_(0.5)
    assert backend.next_token_dist(short) != old


def packed(scale: float) -> Any:
    model = tiny.llama()
    with torch.no_grad():
        model.lm_head.weight.mul_(scale)
    return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)


@pytest.mark.filterwarnings("ignore")
def test_packed_weights_are_in_the_key_and_a_packed_head_is_scored(
    tokenizer: Any, tmp_path: Path
) -> None:
    store = tmp_path / "values.db"
    values = []
    for scale in (1.0, 3.0, 1.0):
        backend = HFBackend(packed(scale), tokenizer, store=store)
        values.append(backend.next_token_dist(PROMPT, top_k=5))
        truth = tiny.logprobs_after(backend.model, tokenizer(PROMPT)["input_ids"])[-1]
        # Activations are rounded by the range of whatever shares the head's call.
        assert abs(float(values[-1].logprobs[0]) - float(truth.max())) < 0.05
        hits = backend.store.hits
        head = backend.model.lm_head
        head.set_weight_bias(packed(5.0).lm_head.weight(), None)
        assert backend.next_token_dist(PROMPT, top_k=5) != values[-1]
        backend.close()
    assert values[0] != values[1]
    assert values[0] == values[2]
    assert hits == 1


def test_a_tensor_on_a_parameter_is_in_the_key(tokenizer: Any) -> None:
    model = tiny.llama()
    weight: Any = model.lm_head.weight
    weight.row_scales = torch.ones(4)
    weight.state = type("State", (), {})()
    weight.state.inner = {"absmax": torch.ones(3)}
    identity = ModelIdentity(model.requires_grad_(False))
    known = {_all_keys(identity, tokenizer)}
    weight.row_scales[1] = 2.0
    known.add(_all_keys(identity, tokenizer))
    weight.state.inner["absmax"][2] = 2.0
    known.add(_all_keys(identity, tokenizer))
    weight.row_scales = torch.zeros(4)
    known.add(_all_keys(identity, tokenizer))
    for keys in zip(*known, strict=True):
        assert len(set(keys)) == 4


class Keeping(nn.Linear):
    """A head with something of its own that it saves, in an object that nobody else looks into."""

    def __init__(self, kept: Any) -> None:
        super().__init__(32, tiny.VOCAB, bias=False)
        self.kept = [lambda: kept]

    def get_extra_state(self) -> Any:
        return self.kept[0]()

    def set_extra_state(self, state: Any) -> None:
        self.kept = [lambda: state]


def _all_keys(identity: ModelIdentity, tokenizer: Any) -> tuple[bytes | None, ...]:
    lasting = identity.lasting_key(tokenizer, without_adapter=False)
    return identity.state(tokenizer).key, lasting


@pytest.mark.parametrize("policy", ["versions", "strict"])
def test_what_a_module_saves_of_its_own_is_in_the_key(policy: Any, tokenizer: Any) -> None:
    model = tiny.llama()
    kept: dict[str, Any] = {"codes": torch.arange(5), "bits": 4, "name": "a"}
    model.lm_head = Keeping(kept)
    identity = ModelIdentity(model.requires_grad_(False).eval(), policy)
    known = [_all_keys(identity, tokenizer)]
    assert known[0] == _all_keys(identity, tokenizer)
    kept["codes"][2] = 9
    known.append(_all_keys(identity, tokenizer))
    kept["bits"] = 8
    # The structure is looked at again for something else, as after any other change.
    known.append(_all_keys(identity, tokenizer))
    assert len({here for here, _ in known}) == 3
    identity = ModelIdentity(model, policy)
    assert _all_keys(identity, tokenizer)[1] == known[2][1] not in (known[0][1], None)


def test_what_cannot_be_read_has_no_key_that_lasts_and_the_store_says_so_once(
    tokenizer: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny.llama()
    model.lm_head = Keeping(object())
    with caplog.at_level(logging.WARNING, "forwardcache"):
        backend = HFBackend(model.eval(), tokenizer, store=tmp_path / "values.db")
        for prompt in tiny.PROMPTS[:3]:
            backend.next_token_dist(prompt)
    assert backend.store.kept == 0
    told = [each.getMessage() for each in caplog.records if "the store is not used" in each.msg]
    assert len(told) == 1
    assert "can't be read" in told[0]


def hook(backend: HFBackend) -> None:
    backend.model.model.layers[1].register_forward_hook(lambda *_: None)


def announce(backend: HFBackend) -> None:
    backend.weights_changed()


@pytest.mark.parametrize(
    ("change", "reason"), [(hook, "hooks run on model.layers.1"), (announce, "weights_changed")]
)
def test_a_store_that_can_not_be_used_says_why(
    change: Any,
    reason: str,
    make_backend: MakeBackend,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backend = make_backend("llama", copied=True, store=tmp_path / "values.db")
    with caplog.at_level(logging.WARNING, "forwardcache"):
        backend.next_token_dist(PROMPT)
        assert not caplog.records
        change(backend)
        backend.next_token_dist("a")
        backend.next_token_dist("hello world")
    assert [reason in each.getMessage() for each in caplog.records] == [True]


def test_hooks_that_hand_out_inner_states_are_no_change(
    make_backend: MakeBackend, tmp_path: Path
) -> None:
    backend = make_backend("llama", copied=True, store=tmp_path / "values.db")
    first = backend.next_token_dist(PROMPT)
    key = backend.identity()
    backend.model(input_ids=torch.tensor([[1, 2]]), output_hidden_states=True)
    assert any(each._forward_hooks for each in backend.model.modules())
    assert backend.identity() == key
    assert backend.next_token_dist(PROMPT) is first
    other = HFBackend(backend.model, backend.tokenizer, store=tmp_path / "values.db")
    assert other.next_token_dist(PROMPT) == first
    assert other.store.hits == 1
    other.close()
    # One of the user's own beside them is seen.
    backend.model.lm_head.register_forward_hook(lambda _m, _i, output: output * 2.0)
    assert backend.next_token_dist(PROMPT) != first


def test_a_scaling_that_is_a_tensor_is_seen_when_it_is_filled(tokenizer: Any) -> None:
    model = tiny.with_lora(tiny.llama())
    prepare_model_for_compiled_hotswap(model, config=model.peft_config)
    backend = HFBackend(model, tokenizer)
    old = backend.next_token_dist(PROMPT)
    for layer in tiny.lora_layers(model):
        assert isinstance(layer.scaling["default"], torch.Tensor)
        layer.scaling["default"].fill_(0.25)
    new = backend.next_token_dist(PROMPT)
    assert new != old
    truth = tiny.logprobs_after(model, tokenizer(PROMPT)["input_ids"])[-1]
    assert abs(float(new.logprobs[0]) - float(truth.max())) < 1e-5


def test_as_the_model_stands_is_base_where_its_adapter_is_turned_off(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(copied=True)
    ft = backend.next_token_dist(PROMPT)
    with backend.as_base() as view:
        base = view.next_token_dist(PROMPT)
    with backend.model.disable_adapter():
        assert backend.next_token_dist(PROMPT) is base
        with backend.as_finetuned() as view:
            assert view.next_token_dist(PROMPT) is ft
    assert backend.next_token_dist(PROMPT) is ft
    tiny.lora_layers(backend.model)[0].enable_adapters(False)
    with pytest.raises(UnsupportedModelError, match="some of the adapter's layers"):
        backend.next_token_dist(PROMPT)
    assert backend.stats.forward_passes == 2


def test_a_copy_has_the_state_of_its_original(tokenizer: Any) -> None:
    case = CASES["LoRA, experts' first projection"]
    model = case.make()
    # PEFT puts the parameter back behind the others.
    tiny.logprobs_after(model, [1, 2, 3])
    keys = [
        ModelIdentity(each, "strict").lasting_key(tokenizer, without_adapter=False)
        for each in (model, copy.deepcopy(model), case.make())
    ]
    assert len(set(keys)) == 1
