"""Claims: whatever is done to a model or its tokenizer behind the backend, nothing older is served.

Each change is made between two calls; what the second gives is held to a backend made after it. The
rest of this claim, for weights, adapters and optimizers, is in ``test_identity``.
"""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import torch
from tokenizers import models, normalizers, pre_tokenizers, processors
from torch import nn
from torch.nn.utils import parametrize

from forwardcache.hf import HFBackend
from tests.hf import tiny
from tests.patience import HANG_S

PROMPT = "the quick brown fox"
Change = Callable[[HFBackend], Any]


def causal_lm(backend: HFBackend) -> Any:
    return backend.model.base_model.model


def first_mlp(backend: HFBackend) -> Any:
    return causal_lm(backend).model.layers[0].mlp


class Doubled(nn.Module):
    def forward(self, weight: torch.Tensor) -> torch.Tensor:
        return weight * 2.0


def give_forward(backend: HFBackend, factor: float) -> None:
    mlp = first_mlp(backend)
    own = type(mlp).forward
    mlp.forward = lambda hidden: own(mlp, hidden) * factor


def swap_projections(backend: HFBackend) -> None:
    mlp = first_mlp(backend)
    mlp.up_proj.weight, mlp.gate_proj.weight = mlp.gate_proj.weight, mlp.up_proj.weight


def swap_layers(backend: HFBackend) -> None:
    layers = causal_lm(backend).model.layers
    layers[0], layers[1] = layers[1], layers[0]


def tie(backend: HFBackend) -> None:
    model = causal_lm(backend)
    model.lm_head.weight = model.model.embed_tokens.weight


def load_other_weights(backend: HFBackend, *, assign: bool) -> None:
    model = causal_lm(backend)
    state = {name: tensor * 1.3 for name, tensor in model.state_dict().items()}
    model.load_state_dict(state, assign=assign)


def write_vector(backend: HFBackend) -> None:
    vector = nn.utils.parameters_to_vector(backend.model.parameters())
    nn.utils.vector_to_parameters(vector * 1.1, backend.model.parameters())


def rewrite_vocabulary(backend: HFBackend, **settings: Any) -> None:
    """The same words without merges, so that every byte is a token."""
    inner = backend.tokenizer.backend_tokenizer
    inner.model = models.BPE(vocab=inner.get_vocab(with_added_tokens=True), merges=[], **settings)


def edit_backend_tokenizer(**parts: Any) -> Change:
    def edit(backend: HFBackend) -> None:
        for name, part in parts.items():
            setattr(backend.tokenizer.backend_tokenizer, name, part)

    return edit


CHANGES: dict[str, Change] = {
    "a forward pre-hook": lambda backend: causal_lm(backend).lm_head.register_forward_pre_hook(
        lambda _module, inputs: (inputs[0] * 2.0,)
    ),
    "a forward of its own": lambda backend: give_forward(backend, 2.0),
    "a parametrization": lambda backend: parametrize.register_parametrization(
        causal_lm(backend).lm_head, "weight", Doubled()
    ),
    "a cast": lambda backend: backend.model.to(torch.bfloat16),
    "a cast and back": lambda backend: backend.model.to(torch.bfloat16).float(),
    "two weights swapped": swap_projections,
    "two layers swapped": swap_layers,
    "weights tied": tie,
    "load_state_dict": lambda backend: load_other_weights(backend, assign=False),
    "load_state_dict that assigns": lambda backend: load_other_weights(backend, assign=True),
    "vector_to_parameters": write_vector,
    "a larger vocabulary": lambda backend: causal_lm(backend).resize_token_embeddings(
        tiny.VOCAB + 8, mean_resizing=False
    ),
    "a normalizer": edit_backend_tokenizer(normalizer=normalizers.Replace("o", "a")),
    "another pre-tokenizer": edit_backend_tokenizer(
        pre_tokenizer=pre_tokenizers.ByteLevel(add_prefix_space=True)
    ),
    "another post-processor": edit_backend_tokenizer(
        post_processor=processors.TemplateProcessing(
            single="<s> <s> $A", special_tokens=[("<s>", 0)]
        )
    ),
    "settings of the tokenizer's model": lambda backend: rewrite_vocabulary(backend, unk_token="a"),
    "a special token": lambda backend: backend.tokenizer.add_special_tokens(
        {"additional_special_tokens": ["quick"]}
    ),
    "another BOS token": lambda backend: setattr(backend.tokenizer, "bos_token", "</s>"),
}


def scored(backend: HFBackend) -> list[Any]:
    texts = [PROMPT, "", "a"]
    return [*backend.next_token_dist_batch(texts), *backend.rolling_logprob_batch(texts)]


@pytest.fixture(params=["versions", "strict"])
def backend(request: Any) -> HFBackend:
    """With a model and a tokenizer of its own."""
    model = tiny.with_lora(tiny.llama()).requires_grad_(False)
    return HFBackend(model, tiny.tokenizer(), identity=request.param)


def check_nothing_older(backend: HFBackend, change: Change) -> None:
    old = scored(backend)
    change(backend)
    new = scored(backend)
    assert new != old
    assert new == scored(HFBackend(backend.model, backend.tokenizer))


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_after_a_change_nothing_older_is_served(change: Change, backend: HFBackend) -> None:
    check_nothing_older(backend, change)


def test_a_forward_put_where_a_freed_one_was_is_another(backend: HFBackend) -> None:
    def replace(backend: HFBackend) -> None:
        # The new one is likely to get the address of the one that goes.
        del first_mlp(backend).forward
        give_forward(backend, 3.0)

    give_forward(backend, 2.0)
    check_nothing_older(backend, replace)


@pytest.fixture
def precision() -> Iterator[None]:
    """Leaves the process's settings as they were."""
    yield
    torch.set_autocast_enabled("cpu", False)
    torch.set_default_dtype(torch.float32)
    if not hasattr(torch._C, "_get_fp32_precision_getter"):
        # One setting for all devices, before PyTorch 2.9.
        torch.set_float32_matmul_precision("highest")
        return
    # "highest" would be another setting than never to have set any.
    torch.backends.cuda.matmul.fp32_precision = "none"
    mkldnn: Any = torch.backends.mkldnn
    mkldnn.matmul.fp32_precision = "none"


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda: torch.set_autocast_enabled("cpu", True), id="autocast"),
        pytest.param(lambda: torch.set_float32_matmul_precision("medium"), id="TF32 and bf16"),
        pytest.param(lambda: torch.set_default_dtype(torch.float64), id="default dtype"),
    ],
)
@pytest.mark.usefixtures("precision")
def test_another_precision_is_another_state(change: Callable[[], None], backend: HFBackend) -> None:
    before, old = backend.identity(), backend.next_token_dist(PROMPT)
    change()
    assert backend.identity() != before
    assert backend.next_token_dist(PROMPT) is not old


def test_a_hook_on_every_module_is_seen_and_its_end_too(backend: HFBackend) -> None:
    old = backend.next_token_dist(PROMPT)
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _inputs, output: output * 2.0 if isinstance(module, nn.Linear) else None
    )
    try:
        assert backend.next_token_dist(PROMPT) != old
    finally:
        handle.remove()
    assert backend.next_token_dist(PROMPT) == old


def test_the_training_flag_and_dropout_change_no_value(backend: HFBackend) -> None:
    old = scored(backend)
    backend.model.train()
    assert scored(backend) == old
    assert all(module.training for module in backend.model.modules())


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda backend: setattr(causal_lm(backend).generation_config, "temperature", 0.3),
            id="generation config",
        ),
        pytest.param(
            lambda backend: backend.tokenizer(["a", "a a"], truncation=True, max_length=2),
            id="a call of the tokenizer with options of its own",
        ),
        pytest.param(lambda backend: backend.model.requires_grad_(False), id="requires_grad"),
    ],
)
def test_what_decides_no_value_costs_no_forward(change: Change, backend: HFBackend) -> None:
    old = scored(backend)
    change(backend)
    again = scored(backend)
    assert all(left is right for left, right in zip(old, again, strict=True))


@pytest.mark.parametrize("side", ["padding_side", "truncation_side"])
def test_sides_of_the_tokenizer_change_no_value(side: str, backend: HFBackend) -> None:
    old = scored(backend)
    setattr(backend.tokenizer, side, "left")
    assert scored(backend) == old


def test_another_chat_template_frames_the_prompt_anew() -> None:
    tokenizer = tiny.tokenizer()
    tokenizer.chat_template = "{{ messages[0]['content'] }}"
    backend = HFBackend(tiny.llama(), tokenizer, chat_template=True)
    old = backend.next_token_dist(PROMPT)
    tokenizer.chat_template = "{{ messages[0]['content'] }} fox"
    assert backend.next_token_dist(PROMPT) != old


def test_a_tokenizer_rewritten_in_place_can_be_announced(backend: HFBackend) -> None:
    # At the same size, which no quick look can see.
    old = backend.rolling_logprob(PROMPT)
    rewrite_vocabulary(backend)
    backend.weights_changed()
    new = backend.rolling_logprob(PROMPT)
    assert new.num_tokens > old.num_tokens
    assert new.token_ids.tolist() == backend.tokenizer(PROMPT)["input_ids"]


def test_a_forward_under_way_is_not_served_after_an_announcement(backend: HFBackend) -> None:
    running, announced = threading.Event(), threading.Event()

    def wait(*_: Any) -> None:
        if not running.is_set():
            running.set()
            # The announcement waits for the model, so this only gives it time to begin.
            announced.wait(0.2)

    causal_lm(backend).lm_head.register_forward_hook(wait)
    with ThreadPoolExecutor(1) as pool:
        began = pool.submit(backend.next_token_dist, PROMPT)
        assert running.wait(HANG_S)
        backend.weights_changed()
        announced.set()
        old = began.result(HANG_S)
    new = backend.next_token_dist(PROMPT)
    assert new == old
    assert new is not old


@pytest.mark.usefixtures("precision")
def test_a_precision_that_is_set_to_what_it_was_is_the_same_state(backend: HFBackend) -> None:
    backend.next_token_dist(PROMPT)
    torch.set_float32_matmul_precision("highest")
    backend.next_token_dist(PROMPT)
    assert backend.stats.cache_hits == 1
