"""Tiny models and tokenizers, random but the same every time, and the oracle they are held to."""

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import LoraLayer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from tokenizers.trainers import BpeTrainer
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

from forwardcache.errors import ForwardCacheError
from forwardcache.hf.spec import BASE

VOCAB = 320
CONTEXT = 64

PROMPTS = (
    "the quick brown fox",
    "hello world",
    "a",
    "the lazy dog jumps over the quick brown fox and over the hello world",
    "over the lazy dog",
    "fox fox fox fox fox fox fox",
    "Zzz, ümlaut €!",
    "world hello the",
)
_CORPUS = ["hello world the quick brown fox jumps over the lazy dog and again, the dog"] * 8


def around(inner: Tokenizer, **special_tokens: str) -> Any:
    """The tokenizer of transformers around one of tokenizers."""
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=inner, **special_tokens)


def tokenizer(*, bos: bool = True) -> Any:
    """Byte-level BPE whose merges cross the boundary of words; with a BOS token that it adds."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=["<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(_CORPUS, trainer)
    if not bos:
        return around(inner, eos_token="</s>")
    inner.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)]
    )
    return around(inner, bos_token="<s>", eos_token="</s>")


def llama(*, layers: int = 2, hidden: int = 32, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(1)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    return sharpened(LlamaForCausalLM(config)).to(dtype).eval()


def gpt2(*, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(2)
    config = GPT2Config(
        vocab_size=VOCAB,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=CONTEXT,
        bos_token_id=0,
        eos_token_id=1,
    )
    return sharpened(GPT2LMHeadModel(config)).to(dtype).eval()


def sharpened(model: Any, factor: float = 8.0) -> Any:
    # Freshly made weights give nearly uniform logits, which hide most errors.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(factor)
    return model


def with_lora(model: Any, **options: Any) -> Any:
    """``model`` with a LoRA adapter that changes it visibly."""
    torch.manual_seed(3)
    plain = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
    merged: dict[str, Any] = plain | options
    adapted = get_peft_model(model, LoraConfig(**merged))
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=0.3)
    return adapted.eval()


def logprobs_after(model: Any, token_ids: Sequence[int]) -> torch.Tensor:
    """The oracle: log-probabilities after each token, [tokens, vocab], from one full forward."""
    with torch.no_grad():
        logits: torch.Tensor = model(input_ids=torch.tensor([list(token_ids)])).logits[0]
    return logits.float().log_softmax(-1)


def agrees(found: Any, model: Any, token_ids: Sequence[int]) -> bool:
    """Whether a distribution is the one that ``model`` gives after these tokens."""
    expected = logprobs_after(model, token_ids)[-1]
    return bool(abs(expected[found.token_ids.tolist()].numpy() - found.logprobs).max() < 1e-5)


def greedy(model: Any, token_ids: Sequence[int], number: int) -> list[int]:
    """The oracle of new text: the argmax after one full forward a token."""
    ids = list(token_ids)
    for _ in range(number):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
    return ids[len(token_ids) :]


def lora_layers(model: nn.Module) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def null_noise(model: nn.Module, seed: int, init_scale: float, rank_scale: float) -> Any:
    """The null adapter's tensors by name, written from the contract's words."""
    generator = torch.Generator(device="cpu").manual_seed(seed)
    noise = {}
    for name, parameter in model.named_parameters():
        if "lora_A" in name or "lora_B" in name:
            drawn = torch.randn(parameter.shape, generator=generator, dtype=torch.float32)
            noise[name] = (drawn * init_scale * math.sqrt(rank_scale)).to(parameter.dtype)
    return noise


def frozen_state(model: nn.Module) -> dict[str, Any]:
    """Everything that a view may not leave changed, for comparison by ``==``."""
    tensors = [*model.named_parameters(), *model.named_buffers()]
    state: dict[str, Any] = {
        name: (tensor.detach().numpy().tobytes(), tensor.data_ptr(), tensor.requires_grad)
        for name, tensor in tensors
    }
    for name, module in model.named_modules():
        state[f"module {name}"] = (
            module.training,
            vars(module).get("_disable_adapters"),
            "forward" in vars(module),
        )
    state["adapters"] = [
        (layer.active_adapters, dict(layer.scaling), id(layer.scaling))
        for layer in lora_layers(model)
    ]
    return state


def drawing_unreadable() -> Any:
    """A model whose head has one id more than its embedding, and always draws that one."""
    model = llama()
    head = torch.nn.Linear(model.config.hidden_size, VOCAB + 1, bias=True)
    torch.nn.init.zeros_(head.weight)
    with torch.no_grad():
        head.bias.copy_(torch.nn.functional.one_hot(torch.tensor(VOCAB), VOCAB + 1))
    model.set_output_embeddings(head)
    return model.eval()


counted: list[list[Any]] = []
"""What counts forwards; those that say what a model may do are left out."""


def measured(make: Callable[[], Any]) -> Any:
    """The backend that ``make`` gives, after the forwards that say what its model may do."""
    before = [len(seen) for seen in counted]
    backend = make()
    scorer = backend._scorer
    for spec in dict.fromkeys((scorer.own_spec(), BASE)):
        with suppress(ForwardCacheError):
            scorer.run_in(spec, lambda _encoder: scorer.runner.shares_exactly())
    for seen, length in zip(counted, before, strict=True):
        del seen[length:]
    return backend
