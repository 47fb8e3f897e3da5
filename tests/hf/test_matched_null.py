"""Claims: a matched null is noise that has the trained adapter's norm in each module.

The oracle makes every product in full, in float64: of each module, of each expert, of each token's
column. Checked: float32, bfloat16 and float16; linear, Conv1D, embedding and convolution layers,
rsLoRA, patterns, experts, tied weights, B = 0; one root mean square; that seeds, scales and other
weights get other noise and the same ones the same, also from the store; that the model is bit for
bit as before; what is refused, with the reason. Not checked: quantised layers.
"""

from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora.layer import Embedding, ParamWrapper
from torch import nn

from forwardcache.errors import AdapterError, UnsupportedModelError, ViewParameterError
from forwardcache.hf import HFBackend
from forwardcache.hf.model.adapter import traits_of
from forwardcache.hf.model.matched import Match
from forwardcache.hf.model.switch import switched
from forwardcache.hf.spec import ViewSpec, matched_null, named
from tests.hf import tiny
from tests.hf.adapter_cases import CASES, tied_llama
from tests.hf.conftest import MakeBackend
from tests.tolerance import hold_to_tolerance

PROMPT = "the quick brown fox"
PRECISIONS = (torch.float32, torch.bfloat16, torch.float16)


def only_one_token() -> Any:
    model = tiny.with_lora(tiny.llama(), r=1, target_modules=["embed_tokens"])
    with torch.no_grad():
        model.get_input_embeddings().lora_embedding_A["default"][:, 1:] = 0.0
    return model


LAYOUTS: dict[str, Callable[[], Any]] = {
    "linear": lambda: tiny.with_lora(tiny.llama(), target_modules="all-linear"),
    "rank 1": lambda: tiny.with_lora(tiny.llama(), r=1),
    "Conv1D": lambda: tiny.with_lora(tiny.gpt2(), target_modules=["c_attn", "c_proj"]),
    "rsLoRA": lambda: tiny.with_lora(tiny.llama(), use_rslora=True, r=3),
    "patterns": lambda: tiny.with_lora(
        tiny.llama(), rank_pattern={"q_proj": 2}, alpha_pattern={"v_proj": 32}
    ),
    "embedding": lambda: tiny.with_lora(tiny.llama(), target_modules=["embed_tokens", "q_proj"]),
    "one token": only_one_token,
    "head": lambda: tiny.with_lora(tiny.llama(), target_modules=["lm_head", "embed_tokens"]),
    "tied": lambda: tiny.with_lora(
        tied_llama(), target_modules=["embed_tokens", "lm_head"], ensure_weight_tying=True
    ),
    "experts": CASES["LoRA, experts"].make,
    "weighted": CASES["LoRA, weighted"].make,
}


def held_layers(model: Any) -> Iterator[tuple[Any, str]]:
    for layer in tiny.lora_layers(model):
        for name in layer.active_adapters:
            if name in layer.lora_A or name in layer.lora_embedding_A:
                yield layer, name


def factors(layer: Any, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if isinstance(layer, Embedding):
        return layer.lora_embedding_A[name].double(), layer.lora_embedding_B[name].double()
    return layer.lora_A[name].weight.double(), layer.lora_B[name].weight.double()


def products(model: Any) -> list[torch.Tensor]:
    """What each layer adds, made in full; of experts one product each."""
    found = []
    with torch.no_grad():
        for layer, name in held_layers(model):
            down, up = factors(layer, name)
            if not isinstance(layer, ParamWrapper):
                found.append(layer.scaling[name] * up.flatten(1) @ down.flatten(1))
                continue
            experts = layer.num_experts
            for expert in range(experts):
                rank = len(down) // experts
                of_expert = down[expert * rank : (expert + 1) * rank]
                found.append(layer.scaling[name] * up[:, expert::experts] @ of_expert)
    return found


def sizes(model: Any) -> list[tuple[float, float]]:
    """The root mean squares of A and B of each layer."""
    pairs = [factors(layer, name) for layer, name in held_layers(model)]
    return [(root_mean_square(a), root_mean_square(b)) for a, b in pairs]


def root_mean_square(factor: torch.Tensor) -> float:
    return float(factor.detach().square().mean().sqrt())


def bits(model: nn.Module) -> dict[str, tuple[bytes, int]]:
    """What every parameter holds, and where."""
    return {
        name: (each.detach().double().numpy().tobytes(), each.data_ptr())
        for name, each in model.named_parameters()
    }


def norms(model: Any) -> list[float]:
    return [float(product.norm()) for product in products(model)]


def score(backend: HFBackend, seed: int = 7, **options: Any) -> Any:
    with backend.as_null_adapter(seed, matched=True, **options) as view:
        return view.next_token_dist(PROMPT, top_k=tiny.VOCAB)


@pytest.mark.parametrize("dtype", PRECISIONS, ids=str)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_each_module_has_the_trained_norm_and_one_root_mean_square(
    layout: Callable[[], Any], dtype: torch.dtype
) -> None:
    model = layout().to(dtype)
    trained, whole = norms(model), products(model)
    before = bits(model)
    for seed in (7, 8):
        with switched(model, matched_null(seed)):
            assert norms(model) == pytest.approx(trained, rel=1e-3)
            assert all(b == pytest.approx(a, rel=0.01) for a, b in sizes(model))
            drawn = products(model)
        assert all(abs(cosine(a, b)) < 0.9 for a, b in zip(drawn, whole, strict=True))
    assert bits(model) == before


def cosine(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one * other).sum() / (one.norm() * other.norm()))


@pytest.mark.parametrize(
    ("dtype", "farthest"), [(torch.float32, 1e-5), (torch.float16, 1e-3), (torch.bfloat16, 8e-3)]
)
def test_an_embedding_keeps_the_norm_of_each_token(dtype: torch.dtype, farthest: float) -> None:
    model = LAYOUTS["embedding"]().to(dtype)
    with torch.no_grad():
        model.get_input_embeddings().lora_embedding_A["default"][:, 40:80] = 0.0

    def columns() -> torch.Tensor:
        layer, name = next(held_layers(model))
        down, up = factors(layer, name)
        return torch.as_tensor((layer.scaling[name] * up @ down).detach().norm(dim=0))

    trained = columns()
    with switched(model, matched_null(7)):
        found = columns()
    assert found[40:80].eq(0).all()
    assert trained[40:80].eq(0).all()
    known = trained > 0
    off = (found - trained)[known].abs() / trained[known]
    assert off.max() < farthest
    assert off.mean() < farthest / 4


def test_tied_parts_are_drawn_once() -> None:
    model = LAYOUTS["tied"]()
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    with switched(model, matched_null(7)):
        a, b = (getattr(head, name)["default"].weight for name in ("lora_A", "lora_B"))
        assert torch.equal(embedding.lora_embedding_A["default"].T, b)
        assert torch.equal(embedding.lora_embedding_B["default"].T, a)
        assert embedding.lora_embedding_A["default"].data_ptr() == b.data_ptr()


def test_an_adapter_with_b_0_has_a_null_of_0() -> None:
    model = tiny.with_lora(tiny.llama(), target_modules=["q_proj", "embed_tokens"])
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name or "lora_embedding_B" in name:
                parameter.zero_()
    backend = HFBackend(model, tiny.tokenizer())
    with switched(model, matched_null(7)):
        assert all(not parameter.any() for parameter in lora_parameters(model))
    with backend.as_base() as base:
        expected = base.next_token_dist(PROMPT, top_k=tiny.VOCAB)
    hold_to_tolerance([score(backend)], [expected])


def lora_parameters(model: nn.Module) -> list[nn.Parameter]:
    return [each for name, each in model.named_parameters() if "lora_" in name]


def test_convolutions_are_matched_and_those_in_groups_refused() -> None:
    def of(**options: Any) -> Any:
        class Net(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.wide = nn.Conv2d(8, 12, 3, padding=1, **options)
                self.long = nn.Conv1d(8, 12, 3)

        adapted = get_peft_model(Net(), LoraConfig(r=4, target_modules=["wide", "long"]))
        with torch.no_grad():
            for parameter in lora_parameters(adapted):
                parameter.normal_(std=0.3)
        return adapted.eval()

    model = of()
    trained = norms(model)
    with switched(model, matched_null(7)):
        assert norms(model) == pytest.approx(trained, rel=1e-5)
    with pytest.raises(UnsupportedModelError, match="convolution in groups"):
        traits_of(of(groups=2)).check(matched_null(7))


def test_update_norm_of_a_matched_null_is_the_adapters() -> None:
    for layout in ("linear", "embedding", "experts"):
        backend = HFBackend(LAYOUTS[layout](), tiny.tokenizer())
        with backend.as_finetuned() as view:
            trained = view.update_norm() or 0.0
        assert trained == pytest.approx(float(torch.tensor(norms(backend.model)).norm()), rel=1e-5)
        with backend.as_null_adapter(7, matched=True) as view:
            assert view.update_norm() == pytest.approx(trained, rel=1e-5)
        with backend.as_null_adapter(7, matched=True, lam=0.25) as view:
            assert view.update_norm() == pytest.approx(trained / 4, rel=1e-5)
        with backend.as_null_adapter(7, matched=True, lam=0.0) as view:
            assert view.update_norm() == 0.0


def test_a_seed_is_one_value_everywhere_and_another_seed_another(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    first = score(backend)
    assert score(make_backend(copied=True)) == first
    with backend.as_null_adapter(7) as plain:
        unmatched = plain.next_token_dist(PROMPT, top_k=tiny.VOCAB)
    tuned = backend.next_token_dist(PROMPT, top_k=tiny.VOCAB)
    others = [unmatched, tuned, score(backend, 8), score(backend, lam=0.5)]
    assert all(other != first for other in others)
    assert backend.stats.forward_passes == 5


def test_the_value_is_that_of_the_noise_in_the_models_place(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    ids = backend.tokenizer(PROMPT)["input_ids"]
    with switched(backend.model, matched_null(7)):
        expected = tiny.logprobs_after(backend.model, ids)[-1]
    found = score(backend)
    assert abs(expected[found.token_ids.tolist()].numpy() - found.logprobs).max() < 1e-5


def train(model: Any) -> None:
    parameters = [each for each in lora_parameters(model) if each.requires_grad]
    for parameter in parameters:
        parameter.grad = parameter.detach().clone()
    torch.optim.SGD(parameters, lr=0.5).step()


def write_past_torch(model: Any) -> None:
    lora_parameters(model)[0].data.mul_(1.5)


def scale(model: Any) -> None:
    for layer in tiny.lora_layers(model):
        layer.scaling["default"] = 3.0


def choose_another(model: Any) -> None:
    model.set_adapter("other")


@pytest.mark.parametrize("change", [train, write_past_torch, scale, choose_another])
def test_noise_that_was_kept_is_not_served_for_other_weights(
    change: Callable[[Any], None], make_backend: MakeBackend
) -> None:
    backend = make_backend(copied=True)
    backend.model.add_adapter("other", LoraConfig(r=4, target_modules=["q_proj", "v_proj"]))
    with torch.no_grad():
        for name, parameter in backend.model.named_parameters():
            if ".other." in name:
                parameter.normal_(std=0.05)
    backend.model.set_adapter("default")
    first = score(backend)
    change(backend.model)
    trained = norms(backend.model)
    second = score(backend)
    assert second != first
    with switched(backend.model, matched_null(7)):
        assert norms(backend.model) == pytest.approx(trained, rel=1e-5)


def test_noise_is_drawn_once_while_the_adapter_stays(
    make_backend: MakeBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[int] = []
    own = Match.drawn

    def recording(match: Any, spec: ViewSpec, weights: Any) -> Any:
        drawn.append(spec.seed)
        return own(match, spec, weights)

    monkeypatch.setattr(Match, "drawn", recording)
    backend = make_backend(copied=True)
    for prompt in tiny.PROMPTS[:3]:
        for seed in (1, 2):
            with backend.as_null_adapter(seed, matched=True) as view:
                view.next_token_dist(prompt)
    assert drawn == [1, 2]
    lora_parameters(backend.model)[-1].data.mul_(1.5)
    score(backend, 1)
    assert drawn == [1, 2, 1]


def test_two_adapters_share_no_value_in_a_store(make_backend: MakeBackend, tmp_path: Path) -> None:
    path = tmp_path / "values.db"
    first = score(make_backend(copied=True, store=path))
    backend = make_backend(copied=True, store=path)
    with torch.no_grad():
        for parameter in lora_parameters(backend.model):
            parameter.mul_(0.5)
    assert score(backend) != first
    assert (backend.stats.forward_passes, backend.store.hits) == (1, 0)
    again = make_backend(copied=True, store=path)
    assert score(again) == first
    assert (again.stats.forward_passes, again.store.hits) == (0, 1)


def test_a_models_parts_stay_as_they_are_also_in_training_and_after_an_exception(
    make_backend: MakeBackend,
) -> None:
    backend = make_backend(copied=True)
    backend.model.train()
    before = tiny.frozen_state(backend.model)
    with suppress(KeyError), switched(backend.model, matched_null(7)):
        assert not backend.model.training
        raise KeyError
    score(backend)
    assert tiny.frozen_state(backend.model) == before


def test_a_matched_null_can_be_trained_through(make_backend: MakeBackend) -> None:
    model = make_backend(copied=True).model
    with switched(model, matched_null(7)), torch.enable_grad():
        parameter = lora_parameters(model)[0]
        (parameter.requires_grad_() ** 2).sum().backward()
        assert parameter.grad is not None
        assert parameter.grad.any()


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("DoRA", "DoRA's magnitudes"),
        ("LoRA with biases", "lora_bias adds a trained bias"),
        ("AdaLoRA", "lora_E"),
        ("LoRA, head saved", "modules_to_save"),
        ("LoRA, trained tokens", "trained tokens"),
        ("LoRA, two active", "2 adapters are active at once (default, other)"),
        ("LoRA merged", "merged"),
        ("LoHa", "not LoRA"),
        ("MiCA", "MiCA is more than"),
        ("PiSSA", "pissa"),
        ("VeRA", "not LoRA"),
    ],
)
def test_what_is_not_one_product_a_layer_is_refused(case: str, reason: str) -> None:
    backend = HFBackend(CASES[case].make(), tiny.tokenizer())
    with pytest.raises(UnsupportedModelError) as refused, backend.as_null_adapter(7, matched=True):
        pass
    assert reason in str(refused.value)
    assert "null_7_matched" in str(refused.value)


def test_a_layer_of_ones_own_is_refused(make_backend: MakeBackend) -> None:
    class Twice(type(tiny.lora_layers(make_backend().model)[0])):  # type: ignore[misc]
        def forward(self, *args: Any, **kwargs: Any) -> Any:
            return super().forward(*args, **kwargs)

    model = make_backend(copied=True).model
    tiny.lora_layers(model)[0].__class__ = Twice
    with pytest.raises(UnsupportedModelError, match="Twice isn't known to add B times A"):
        traits_of(model).check(matched_null(7))


def test_a_model_without_adapter_has_none(make_backend: MakeBackend) -> None:
    with pytest.raises(AdapterError), make_backend("llama").as_null_adapter(1, matched=True):
        pass


def test_modules_that_share_a_alone_are_refused(make_backend: MakeBackend) -> None:
    backend = make_backend(copied=True)
    one, two = tiny.lora_layers(backend.model)[::2]
    two.lora_A["default"].weight = one.lora_A["default"].weight
    with pytest.raises(UnsupportedModelError, match="shares its A or its B"):
        score(backend)
    two.lora_B["default"].weight = one.lora_B["default"].weight
    trained = norms(backend.model)
    with switched(backend.model, matched_null(7)):
        assert norms(backend.model) == pytest.approx(trained, rel=1e-5)


def test_norms_that_no_noise_has_are_refused() -> None:
    model = tiny.with_lora(tiny.llama()).to(torch.float16)
    layer = tiny.lora_layers(model)[0]
    layer.scaling["default"] = torch.inf
    before = bits(model)
    with pytest.raises(UnsupportedModelError, match="not finite"), switched(model, matched_null(7)):
        pass
    layer.scaling["default"] = 1.0
    # The least number of float16 is 6e-8: noise of this norm would be smaller.
    with torch.no_grad():
        for name in ("lora_A", "lora_B"):
            getattr(layer, name)["default"].weight.zero_()[0, 0] = 6e-8
    before = bits(model)
    with (
        pytest.raises(UnsupportedModelError, match=r"noise in torch\.float16"),
        switched(model, matched_null(7)),
    ):
        pass
    assert bits(model) == before


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"matched": True, "init_scale": 0.1}, "init_scale goes with matched=False"),
        ({"matched": True, "rank_scale": 2.0}, "rank_scale goes with matched=False"),
        ({"lam": 0.5}, "without matched=True got lam=0.5"),
        ({"matched": True, "lam": -0.5}, "0 or more"),
        ({"matched": True, "lam": float("nan")}, "finite"),
        ({"matched": True, "seed": 2**65}, "64 bits"),
    ],
)
def test_parameters_that_say_nothing_are_refused(
    options: dict[str, Any], words: str, make_backend: MakeBackend
) -> None:
    with pytest.raises(ViewParameterError, match=words):
        make_backend().as_null_adapter(**({"seed": 7} | options))


@pytest.mark.parametrize(
    ("text", "spec", "view_id"),
    [
        ("null:7:matched", matched_null(7), "null_7_matched"),
        ("null_7_matched", matched_null(7), "null_7_matched"),
        ("null:-3:matched", matched_null(-3), "null_-3_matched"),
        ("null_7_matched_x0.50", matched_null(7, 0.5), "null_7_matched_x0.50"),
    ],
)
def test_words_and_ids_name_matched_nulls(text: str, spec: ViewSpec, view_id: str) -> None:
    assert named(text) == spec
    assert spec.view_id == view_id


@pytest.mark.parametrize(
    "text",
    ["null:7:match", "null:matched", "null:7:matched:0.02", "null_7_matched_x", "ft:matched"],
)
def test_other_words_name_none(text: str) -> None:
    with pytest.raises(ViewParameterError, match="null:SEED:matched"):
        named(text)


def test_compare_takes_the_words(make_backend: MakeBackend) -> None:
    found = make_backend().compare([PROMPT], ["ft", "null:7:matched"])
    assert list(found) == ["ft", "null_7_matched"]
    assert found["null_7_matched"][0].kl.mean() > 0.0
