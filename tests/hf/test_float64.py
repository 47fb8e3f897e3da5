"""Claims: float32 agrees with a forward in true float64 to 2e-5 a token, and changing a batch in
ways that should change nothing does not change it.

The oracle is written out here in numpy float64, since a model cast by ``double()`` still
normalises in float32.
"""

from typing import Any

import numpy as np
import pytest
import torch

from forwardcache.hf import HFBackend
from forwardcache.hf.batch.kernels import dists_at, top_dists
from tests.hf import tiny
from tests.hf.conftest import MakeBackend

PROMPTS = list(tiny.PROMPTS)
PAIRS = [(prompt, end) for prompt in PROMPTS for end in (" dog", "s and again", "x")]
PER_TOKEN = 2e-5
# bfloat16 has 8 bits: logits near 16 are rounded by up to 0.06.
HALF_PER_TOKEN = 0.1


def weights(model: Any) -> dict[str, Any]:
    return {name: tensor.double().numpy() for name, tensor in model.state_dict().items()}


def log_softmax(logits: Any) -> Any:
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def attention(query: Any, key: Any, value: Any) -> Any:
    """Causal, [heads, n, width] each; gives [n, heads * width]."""
    n, width = query.shape[1:]
    scores = query @ key.transpose(0, 2, 1) / np.sqrt(width)
    scores = np.where(np.tril(np.ones((n, n), bool)), scores, -np.inf)
    return (np.exp(log_softmax(scores)) @ value).transpose(1, 0, 2).reshape(n, -1)


def heads(states: Any, count: int) -> Any:
    return states.reshape(len(states), count, -1).transpose(1, 0, 2)


def llama_logprobs(model: Any, ids: list[int]) -> Any:
    config, w = model.config, weights(model)
    x = w["model.embed_tokens.weight"][ids]
    width = config.hidden_size // config.num_attention_heads
    theta = config.rope_parameters["rope_theta"]
    angles = np.outer(np.arange(len(ids)), theta ** -(np.arange(0, width, 2) / width))
    cos, sin = (np.concatenate([each(angles)] * 2, -1) for each in (np.cos, np.sin))

    def norm(states: Any, name: str) -> Any:
        scale = np.sqrt((states**2).mean(-1, keepdims=True) + config.rms_norm_eps)
        return w[name] * (states / scale)

    def turned(states: Any) -> Any:
        half = width // 2
        return states * cos + np.concatenate([-states[..., half:], states[..., :half]], -1) * sin

    repeated = config.num_attention_heads // config.num_key_value_heads
    for number in range(config.num_hidden_layers):
        at = f"model.layers.{number}."
        hidden = norm(x, f"{at}input_layernorm.weight")
        q, k, v = (hidden @ w[f"{at}self_attn.{name}_proj.weight"].T for name in "qkv")
        key, value = (
            np.repeat(heads(each, config.num_key_value_heads), repeated, 0) for each in (k, v)
        )
        mixed = attention(turned(heads(q, config.num_attention_heads)), turned(key), value)
        x = x + mixed @ w[f"{at}self_attn.o_proj.weight"].T
        hidden = norm(x, f"{at}post_attention_layernorm.weight")
        gate, up = (hidden @ w[f"{at}mlp.{name}_proj.weight"].T for name in ("gate", "up"))
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[f"{at}mlp.down_proj.weight"].T
    return log_softmax(norm(x, "model.norm.weight") @ w["lm_head.weight"].T)


def gpt2_logprobs(model: Any, ids: list[int]) -> Any:
    config, w = model.config, weights(model)
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][: len(ids)]

    def norm(states: Any, name: str) -> Any:
        centred = states - states.mean(-1, keepdims=True)
        spread = np.sqrt((centred**2).mean(-1, keepdims=True) + config.layer_norm_epsilon)
        return centred / spread * w[f"{name}.weight"] + w[f"{name}.bias"]

    def linear(states: Any, name: str) -> Any:
        return states @ w[f"{name}.weight"] + w[f"{name}.bias"]

    for number in range(config.n_layer):
        at = f"transformer.h.{number}."
        states = np.split(linear(norm(x, f"{at}ln_1"), f"{at}attn.c_attn"), 3, -1)
        mixed = attention(*(heads(each, config.n_head) for each in states))
        x = x + linear(mixed, f"{at}attn.c_proj")
        inner = linear(norm(x, f"{at}ln_2"), f"{at}mlp.c_fc")
        cubic = np.tanh(np.sqrt(2 / np.pi) * (inner + 0.044715 * inner**3))
        x = x + linear(0.5 * inner * (1 + cubic), f"{at}mlp.c_proj")
    return log_softmax(norm(x, "transformer.ln_f") @ w["lm_head.weight"].T)


ORACLES = {"llama": llama_logprobs, "gpt2": gpt2_logprobs}


@pytest.mark.parametrize("name", ORACLES)
def test_every_op_agrees_with_float64(
    name: str, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    backend, oracle = make_backend(name), ORACLES[name]
    truths = [oracle(shared_models[name], tokenizer(prompt)["input_ids"]) for prompt in PROMPTS]
    for prompt, truth, rolling in zip(
        PROMPTS, truths, backend.rolling_logprob_batch(PROMPTS), strict=True
    ):
        ids = tokenizer(prompt)["input_ids"]
        expected = [truth[position, ids[position + 1]] for position in range(len(ids) - 1)]
        np.testing.assert_allclose(rolling.logprobs, expected, atol=PER_TOKEN, rtol=0)
    for truth, dist in zip(truths, backend.next_token_dist_batch(PROMPTS, top_k=9), strict=True):
        np.testing.assert_allclose(dist.logprobs, truth[-1][dist.token_ids], atol=PER_TOKEN, rtol=0)
        rest = np.setdiff1d(np.arange(tiny.VOCAB), dist.token_ids)
        assert dist.tail_logprob == pytest.approx(
            np.logaddexp.reduce(truth[-1][rest]), abs=PER_TOKEN
        )


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("token_budget", [15, 1024])
def test_completions_agree_with_float64_with_and_without_a_shared_prefix(
    name: str, token_budget: int, make_backend: MakeBackend, shared_models: Any, tokenizer: Any
) -> None:
    backend = make_backend(name, token_budget=token_budget)
    found = backend.completion_logprob_batch(PAIRS)
    for (prompt, end), value in zip(PAIRS, found, strict=True):
        ids = tokenizer(prompt + end)["input_ids"]
        truth = ORACLES[name](shared_models[name], ids)
        positions = range(len(ids) - value.num_tokens, len(ids))
        expected = sum(truth[position - 1, ids[position]] for position in positions)
        assert value.logprob == pytest.approx(expected, abs=PER_TOKEN * value.num_tokens)


same_values = pytest.mark.parametrize(
    "changed",
    [
        pytest.param(lambda pairs: pairs[::-1], id="permuted"),
        pytest.param(lambda pairs: pairs[::2], id="split"),
        pytest.param(lambda pairs: [*pairs, ("so much longer " * 3, "company")], id="padded"),
        pytest.param(lambda pairs: pairs + pairs, id="doubled"),
        pytest.param(lambda pairs: pairs[:1], id="alone"),
    ],
)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
@same_values
def test_what_should_change_nothing_changes_nothing(
    name: str, changed: Any, make_backend: MakeBackend
) -> None:
    first = dict(zip(PAIRS, make_backend(name).completion_logprob_batch(PAIRS), strict=True))
    pairs = changed(PAIRS)
    for pair, value in zip(pairs, make_backend(name).logprob_of_batch(pairs), strict=True):
        if pair in first:
            tokens = first[pair].num_tokens
            assert value == pytest.approx(first[pair].logprob, abs=PER_TOKEN * tokens)


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
def test_a_view_that_is_another_by_its_meaning_gives_the_same(
    name: str, make_backend: MakeBackend
) -> None:
    def values(view: Any) -> Any:
        with view as entered:
            return entered.logprob_of_batch(PAIRS)

    backend, again = make_backend(name), make_backend(name)
    assert values(again.as_scaled_adapter(0.0)) == values(backend.as_base())
    assert values(again.as_scaled_adapter(1.0)) == values(backend.as_finetuned())
    null = values(backend.as_null_adapter(5))
    assert values(again.as_null_adapter(5)) == null
    assert values(again.as_null_adapter(6)) != null


@pytest.fixture(scope="module")
def half_models() -> dict[str, Any]:
    """Models of which every weight is bfloat16, the adapter's too."""
    gpt2_layers = ["c_attn", "c_proj"]
    return {
        "llama": tiny.with_lora(tiny.llama()).to(torch.bfloat16),
        "gpt2": tiny.with_lora(tiny.gpt2(), target_modules=gpt2_layers).to(torch.bfloat16),
    }


@pytest.mark.parametrize("name", ["llama", "gpt2"])
@same_values
def test_in_bfloat16_it_changes_no_more_than_rounding_does(
    name: str, changed: Any, half_models: Any, tokenizer: Any
) -> None:
    model = half_models[name]
    values = HFBackend(model, tokenizer).completion_logprob_batch(PAIRS)
    first = dict(zip(PAIRS, values, strict=True))
    pairs = changed(PAIRS)
    again = HFBackend(model, tokenizer).logprob_of_batch(pairs)
    for pair, value in zip(pairs, again, strict=True):
        if pair in first:
            tokens = first[pair].num_tokens
            assert value == pytest.approx(first[pair].logprob, abs=HALF_PER_TOKEN * tokens)


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_in_bfloat16_a_view_that_is_another_by_its_meaning_gives_the_same_bits(
    name: str, half_models: Any, tokenizer: Any
) -> None:
    def values(open_view: Any) -> Any:
        with open_view(HFBackend(half_models[name], tokenizer)) as view:
            return view.logprob_of_batch(PAIRS)

    assert values(lambda backend: backend.as_scaled_adapter(0.0)) == values(HFBackend.as_base)
    assert values(lambda backend: backend.as_scaled_adapter(1.0)) == values(HFBackend.as_finetuned)
    null = values(lambda backend: backend.as_null_adapter(5))
    assert values(lambda backend: backend.as_null_adapter(5)) == null
    assert values(lambda backend: backend.as_null_adapter(6)) != null


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_logits_are_widened_before_they_are_normalised(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    logits = (torch.randn(3, 2000) * 4).to(dtype)
    truth = logits.double().log_softmax(-1).numpy()
    named = dists_at(logits, [[5, 1999, 0]] * len(logits))
    for row, dists in enumerate(zip(top_dists(logits, 64), named, strict=True)):
        for dist in dists:
            np.testing.assert_allclose(dist.logprobs, truth[row, dist.token_ids], atol=1e-5)
