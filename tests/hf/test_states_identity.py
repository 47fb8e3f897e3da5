"""Claims: kept hidden states are found again exactly as long as the body is the same, and what is
computed of them is always the present head's. A change of any tensor of the body gives other
states, one of the head the same states and other values, under every policy and in a store; a tied
embedding is the body's, and so is an adapter on the final norm or on a tied embedding; an adapter
on the head leaves base's states to every view of it; two tokenizers share states of equal tokens.
"""

import copy
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from operator import methodcaller
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from forwardcache.errors import UnsupportedModelError
from forwardcache.hf import HFBackend
from forwardcache.hf.model.body import parts_of
from tests.hf import tiny
from tests.hf.conftest import MakeBackend
from tests.tolerance import hold_to_tolerance

PROMPTS = list(tiny.PROMPTS[:3])
COUNT = len(PROMPTS)


def rolled(backend: HFBackend) -> Any:
    return backend.rolling_logprob_batch(PROMPTS)


def tied() -> Any:
    model = tiny.llama()
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    return model


def with_head_bias() -> Any:
    model = tiny.llama()
    model.lm_head.bias = nn.Parameter(torch.randn(tiny.VOCAB))
    return model


def changed(tensor: torch.Tensor) -> None:
    with torch.no_grad():
        tensor.view(-1)[7] += 1.0 + abs(tensor.view(-1)[7])


MODELS: dict[str, Callable[[], Any]] = {
    "llama": tiny.llama,
    "gpt2": tiny.gpt2,
    "tied": tied,
    "head with a bias": with_head_bias,
    "lora": lambda: tiny.with_lora(
        tiny.llama(), target_modules=["q_proj", "lm_head"], modules_to_save=["norm"]
    ),
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("policy", ["versions", "strict"])
def test_any_tensor_of_the_body_gives_other_states_and_any_of_the_head_the_same(
    tokenizer: Any, name: str, policy: Any
) -> None:
    model = MODELS[name]().requires_grad_(False)
    backend = HFBackend(model, tokenizer, identity=policy, keep="states")
    identity, head = backend._scorer.identity, parts_of(model).name
    assert head is not None
    seen = {identity.body(tokenizer).key}
    lasting = {identity.lasting_body_key(tokenizer, without_adapter=False)}
    counts = {True: 0, False: 0}
    places = [
        (f".{path}.{key}", tensor)
        for path, module in model.named_modules()
        for key, tensor in [*module._parameters.items(), *module._buffers.items()]
        if tensor is not None and tensor.is_floating_point() and tensor.numel() > 7
    ]
    owned = {id(tensor) for path, tensor in places if not path.startswith(f"{head}.")}
    for tensor in {id(tensor): tensor for _, tensor in places}.values():
        state, before = identity.state(tokenizer), len(seen)
        is_body = id(tensor) in owned
        changed(tensor)
        assert identity.state(tokenizer).key != state.key
        seen.add(identity.body(tokenizer).key)
        lasting.add(identity.lasting_body_key(tokenizer, without_adapter=False))
        assert len(seen) == len(lasting) == before + is_body
        counts[is_body] += 1
    assert counts[True] > 5
    assert counts[False] == {"tied": 0, "gpt2": 0, "head with a bias": 2, "lora": 3}.get(name, 1)


@pytest.mark.parametrize("policy", ["versions", "strict"])
@pytest.mark.parametrize("stored", [False, True])
def test_after_a_change_of_the_head_kept_states_give_its_new_values(
    tokenizer: Any, tmp_path: Path, policy: Any, stored: bool
) -> None:
    model = tiny.llama().requires_grad_(False)
    options = {"identity": policy, "store": tmp_path / "states.db" if stored else None}
    backend = HFBackend(model, tokenizer, keep="states", **options)
    first = rolled(backend)
    changed(model.lm_head.weight)
    second = rolled(backend)
    assert backend.stats.forward_passes == COUNT
    hold_to_tolerance(second, rolled(HFBackend(model, tokenizer)))
    assert second != first
    changed(model.model.layers[1].mlp.up_proj.weight)
    hold_to_tolerance(rolled(backend), rolled(HFBackend(model, tokenizer)))
    assert backend.stats.forward_passes == 2 * COUNT
    if stored:
        backend.close()
        with HFBackend(model, tokenizer, keep="states", store=tmp_path / "states.db") as other:
            changed(model.lm_head.weight)
            hold_to_tolerance(rolled(other), rolled(HFBackend(model, tokenizer)))
            assert other.stats.forward_passes == 0


CHANGES_OF_THE_HEAD: dict[str, Callable[[Any], Any]] = {
    "another parameter": lambda lm: setattr(
        lm.lm_head, "weight", nn.Parameter(lm.lm_head.weight * 1.2, requires_grad=False)
    ),
    "another module": lambda lm: lm.set_output_embeddings(
        nn.Linear(32, tiny.VOCAB, bias=True).eval().requires_grad_(False)
    ),
}


@pytest.mark.parametrize("change", CHANGES_OF_THE_HEAD)
def test_a_head_that_is_replaced_leaves_the_states(tokenizer: Any, change: str) -> None:
    model = tiny.llama().requires_grad_(False)
    backend = HFBackend(model, tokenizer, keep="states")
    rolled(backend)
    CHANGES_OF_THE_HEAD[change](model)
    hold_to_tolerance(rolled(backend), rolled(HFBackend(model, tokenizer)))
    assert backend.stats.forward_passes == COUNT


CHANGES_OF_THE_BODY: dict[str, Callable[[Any], Any]] = {
    "a hook on the head": lambda lm: lm.lm_head.register_forward_hook(
        lambda _module, _inputs, output: output * 2.0
    ),
    "a hook in the body": lambda lm: lm.model.norm.register_forward_hook(
        lambda _module, _inputs, output: output * 2.0
    ),
    "weights tied": lambda lm: setattr(lm.lm_head, "weight", lm.model.embed_tokens.weight),
    "a setting": lambda lm: setattr(lm.config, "rms_norm_eps", 0.5),
    "a module in the body": lambda lm: setattr(
        lm.model, "norm", type(lm.model.norm)(32).requires_grad_(False)
    ),
}


@pytest.mark.parametrize("change", CHANGES_OF_THE_BODY)
def test_nothing_older_is_served_after_other_changes(tokenizer: Any, change: str) -> None:
    model = tiny.llama().requires_grad_(False)
    backend = HFBackend(model, tokenizer, keep="states")
    rolled(backend)
    CHANGES_OF_THE_BODY[change](model)
    hold_to_tolerance(rolled(backend), rolled(HFBackend(model, tokenizer)))


def test_weights_changed_forgets_states_too(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", keep="states")
    rolled(backend)
    backend.weights_changed()
    rolled(backend)
    assert backend.stats.forward_passes == 2 * COUNT


def test_a_hook_that_changes_what_the_head_reads_is_refused(tokenizer: Any) -> None:
    model = tiny.llama().requires_grad_(False)
    backend = HFBackend(model, tokenizer, keep="states")
    rolled(backend)
    model.lm_head.register_forward_pre_hook(lambda _, inputs: (inputs[0] * 2.0,))
    with pytest.raises(UnsupportedModelError, match="no plain product"):
        rolled(backend)


def test_a_label_names_body_and_head(tokenizer: Any) -> None:
    model = tiny.llama().requires_grad_(False)
    options: Any = {"identity": "label", "identity_label": "a"}
    backend = HFBackend(model, tokenizer, keep="states", **options)
    rolled(backend)
    changed(model.lm_head.weight)
    hold_to_tolerance(rolled(backend), rolled(HFBackend(model, tokenizer)))
    assert backend.stats.forward_passes == COUNT


@pytest.mark.parametrize("stored", [False, True])
def test_an_adapter_on_the_head_has_bases_states(
    tokenizer: Any, tmp_path: Path, stored: bool
) -> None:
    model = _adapted(tiny.llama(), target_modules=["lm_head"])
    store = tmp_path / "states.db" if stored else None
    backend, plain = (
        HFBackend(model, tokenizer, keep="states", store=store),
        HFBackend(model, tokenizer),
    )
    _agree(backend, plain, HFBackend.as_base)
    _agree(backend, plain, HFBackend.as_finetuned)
    _agree(backend, plain, lambda each: each.as_scaled_adapter(0.5))
    _agree(backend, plain, lambda each: each.as_null_adapter(7))
    assert backend.stats.forward_passes == COUNT
    found, expected = (each.compare(PROMPTS, ["ft"])["ft"] for each in (backend, plain))
    for one, other in zip(found, expected, strict=True):
        assert one.kl.max() > 1e-3
        np.testing.assert_allclose(one.kl, other.kl, atol=1e-5)
    for name, parameter in model.named_parameters():
        if "lora_A" in name:
            changed(parameter.data)
    _agree(backend, plain, lambda each: each.as_finetuned())
    assert backend.stats.forward_passes == COUNT


BELOW_THE_HEAD: dict[str, dict[str, Any]] = {
    "the final norm": {"target_modules": ["lm_head"], "modules_to_save": ["norm"]},
    "a layer and the head": {"target_modules": ["v_proj", "lm_head"]},
    "the embedding": {"target_modules": ["embed_tokens"]},
    "trained tokens": {"target_modules": ["lm_head"], "trainable_token_indices": [259, 301]},
}


@pytest.mark.parametrize("options", BELOW_THE_HEAD.values(), ids=BELOW_THE_HEAD)
@pytest.mark.parametrize("is_tied", [False, True])
def test_an_adapter_below_the_head_has_states_of_its_own(
    tokenizer: Any, options: dict[str, Any], is_tied: bool
) -> None:
    model = _adapted(tied() if is_tied else tiny.llama(), **options)
    backend, plain = HFBackend(model, tokenizer, keep="states"), HFBackend(model, tokenizer)
    _agree(backend, plain, HFBackend.as_base)
    _agree(backend, plain, HFBackend.as_finetuned)
    assert backend.stats.forward_passes == 2 * COUNT


def test_noise_on_head_and_body_is_never_that_of_another_adapter(tokenizer: Any) -> None:
    model = _adapted(tiny.llama(), target_modules=["q_proj", "lm_head"])
    backend, plain = HFBackend(model, tokenizer, keep="states"), HFBackend(model, tokenizer)
    for _ in range(2):
        _agree(backend, plain, lambda each: each.as_null_adapter(7))
        _agree(backend, plain, lambda each: each.as_scaled_adapter(0.5))
    assert backend.stats.forward_passes == 2 * COUNT


def _adapted(model: Any, **options: Any) -> Any:
    found = tiny.with_lora(model, **options)
    with torch.no_grad():
        for name, parameter in found.named_parameters():
            if "modules_to_save" in name or "trainable_tokens_delta" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return found.requires_grad_(False)


def _agree(backend: HFBackend, plain: HFBackend, view: Callable[[HFBackend], Any]) -> None:
    with view(plain) as entered:
        expected = rolled(entered)
    with view(backend) as entered:
        hold_to_tolerance(rolled(entered), expected)


def test_prompt_text_and_pair_of_the_same_tokens_share_states(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", keep="states")
    text = PROMPTS[0]
    backend.next_token_dist(text)
    backend.rolling_logprob(text)
    backend.logprob_of(text[:9], text[9:])
    ids = backend.tokenizer(text)["input_ids"]
    backend.continuation_logprob(ids[:2], ids[2:])
    assert backend.stats.forward_passes == 1


def test_two_tokenizers_share_the_states_of_equal_tokens(make_backend: MakeBackend) -> None:
    backend = make_backend("llama", copied=True, keep="states")
    found = rolled(backend)
    backend.tokenizer = tiny.tokenizer(bos=False)
    ids = [tuple(each.token_ids.tolist()) for each in found]
    sums = backend.continuation_logprob_batch([(each[:1], each[1:]) for each in ids])
    assert backend.stats.forward_passes == COUNT
    np.testing.assert_allclose(
        [each.logprob for each in sums], [each.total_logprob for each in found], atol=1e-3
    )


def test_a_model_that_changes_in_the_middle_of_a_question_is_asked_again(tokenizer: Any) -> None:
    model = tiny.llama().requires_grad_(False)
    backend = HFBackend(model, tokenizer, keep="states")
    kept, times = backend._scorer.kept, list[int]()
    looked_up = kept._looked_up

    def then_changed(*arguments: Any, **options: Any) -> Any:
        found = looked_up(*arguments, **options)
        if len(times) < 2:
            times.append(1)
            changed(model.model.norm.weight)
        return found

    kept._looked_up = then_changed  # type: ignore[method-assign]
    hold_to_tolerance(rolled(backend), rolled(HFBackend(model, tokenizer)))


def test_threads_that_ask_different_questions_run_each_text_once(
    make_backend: MakeBackend,
) -> None:
    backend, plain = make_backend("llama", keep="states"), make_backend("llama")
    asked: list[Callable[[HFBackend], Any]] = [
        rolled,
        lambda each: each.next_token_dist_batch(PROMPTS),
        lambda each: each.next_token_dist_batch(PROMPTS, top_k=3),
        lambda each: each.states_batch(PROMPTS),
    ]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda ask: ask(backend), asked * 3))
    assert backend.stats.forward_passes == COUNT
    for values, ask in zip(found, asked * 3, strict=True):
        hold_to_tolerance(values, ask(plain))


def test_a_head_that_is_also_elsewhere_is_taken_for_the_bodys(tokenizer: Any) -> None:
    model = tiny.llama().requires_grad_(False)
    assert parts_of(model).name == ".lm_head"
    model.model.same = model.lm_head
    assert parts_of(model).name is None
    other = copy.deepcopy(model)
    backend = HFBackend(other, tokenizer, keep="states")
    rolled(backend)
    changed(other.lm_head.weight)
    rolled(backend)
    assert backend.stats.forward_passes == 2 * COUNT


@pytest.fixture(scope="module")
def run_folders(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    """A model's folder, and adapters of it: on the head, on a layer, on both."""
    root = tmp_path_factory.mktemp("runs")
    tiny.llama().save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    for name, modules in ADAPTERS.items():
        tiny.with_lora(tiny.llama(), target_modules=modules).save_pretrained(root / name)
    return root


ADAPTERS = {"head": ["lm_head"], "layer": ["q_proj"], "both": ["q_proj", "lm_head"]}


def test_adapters_with_names_have_states_by_what_they_hold_in_the_body(
    run_folders: Path, tmp_path: Path
) -> None:
    named = {name: run_folders / name for name in ADAPTERS}
    options: dict[str, Any] = {"device": "cpu", "max_adapters": 1}
    plain = HFBackend.load(run_folders / "model", named, **options)
    options |= {"keep": "states", "store": tmp_path / "states.db"}
    for forwards in (3 * COUNT, 0):
        with HFBackend.load(run_folders / "model", named, **options) as backend:
            _agree(backend, plain, HFBackend.as_base)
            for name in [*ADAPTERS, "head"]:
                _agree(backend, plain, methodcaller("as_finetuned", name))
            assert backend.stats.forward_passes == forwards
            views = [f"ft:{name}" for name in ADAPTERS]
            found, expected = (each.compare(PROMPTS, views) for each in (backend, plain))
            for view in views:
                for one, other in zip(found[view], expected[view], strict=True):
                    np.testing.assert_allclose(one.kl, other.kl, atol=1e-5)
            assert backend.stats.forward_passes == forwards
            _agree(backend, plain, lambda each: each.as_scaled_adapter(0.5, adapter="head"))
            assert backend.stats.forward_passes == forwards
            for name in ("both", "layer"):
                _agree(backend, plain, methodcaller("as_null_adapter", 7, adapter=name))
            assert backend.stats.forward_passes == (forwards and forwards + 2 * COUNT)
