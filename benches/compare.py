"""Measures ``HFBackend.compare``: ``python -m benches.compare``.

The question: what do the figures of every position over the whole vocabulary cost, beyond the
forwards of both views with their heads? Beside it the same figures the naive way: all logits of a
text kept in both views, everything in float64. One thread, thread CPU time; the contenders take
turns on groups of texts that are one batch each, and what counts is the median of the groups'
ratios.
"""

import ctypes
import random
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benches.machine import description
from benches.sections import publish, verdict
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.differences import FIELDS, position_differences
from forwardcache.hf.scoring import comparison

TITLE = "## Differences at every position"
PACKAGES = ["torch", "transformers", "peft"]
VOCAB, TOKENS, GROUP = 49_152, 256, 8
MIB = 2**20


def fixture(
    layers: int = 30,
    *,
    vocab: int = VOCAB,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> HFBackend:
    """A Llama of the widths of one with 135 million parameters, tied, with a LoRA adapter."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"])
    model: Any = get_peft_model(LlamaForCausalLM(config), lora).eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.normal_(std=0.02)
    model = model.to(device, dtype)
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(vocab)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    return HFBackend(model, kind(tokenizer_object=words))


def groups_of(count: int, *, vocab: int = VOCAB, tokens: int = TOKENS) -> list[list[str]]:
    chance = random.Random(0)
    texts = [
        " ".join(f"w{chance.randrange(vocab)}" for _ in range(tokens + 1)) for _ in range(count)
    ]
    return [texts[begin : begin + GROUP] for begin in range(0, count, GROUP)]


def naive(backend: HFBackend, texts: Sequence[str]) -> None:
    """The figures of the contract from all logits of a text, in float64."""
    for text in texts:
        assert len(naive_figures(backend, text)) == len(FIELDS)


def naive_figures(backend: HFBackend, text: str) -> dict[str, Any]:
    """By name of a figure: its values at every position, a tensor."""
    ours, theirs, ids = _both(backend, text)
    log_p, log_q = ours.double().log_softmax(-1), theirs.double().log_softmax(-1)
    p, q = log_p.exp(), log_q.exp()
    middle = ((p + q) / 2).log()
    kl = (p * (log_p - log_q)).sum(-1)
    kl_reverse = (q * (log_q - log_p)).sum(-1)
    js = ((p * (log_p - middle)).sum(-1) + (q * (log_q - middle)).sum(-1)) / 2
    chosen = [each.gather(-1, ids[:, None])[:, 0] for each in (log_p, log_q)]
    entropy = -(p * log_p).sum(-1)
    same_top = log_p.argmax(-1) == log_q.argmax(-1)
    tops = log_p.topk(5).indices[:, :, None] == log_q.topk(5).indices[:, None]
    figures = (kl, kl_reverse, js, *chosen, entropy, same_top, tops.any(-1).double().mean(-1))
    return dict(zip(FIELDS, figures, strict=True))


def _both(backend: HFBackend, text: str) -> tuple[Any, Any, Any]:
    ids = torch.tensor([backend.tokenizer(text)["input_ids"]], device=backend.model.device)
    with torch.inference_mode():
        theirs = backend.model(input_ids=ids[:, :-1], use_cache=False).logits[0]
        with backend.model.disable_adapter():
            ours = backend.model(input_ids=ids[:, :-1], use_cache=False).logits[0]
    return ours, theirs, ids[0, 1:]


def compared(backend: HFBackend, texts: Sequence[str]) -> float:
    """Compares, and gives the seconds that went into the figures."""
    kernel, spent = position_differences, 0.0

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal spent
        began = time.thread_time()
        found = kernel(*arguments, **options)
        spent += time.thread_time() - began
        return found

    with patch.object(comparison, "position_differences", timed):
        backend.compare(texts, ["ft"])
    return spent


def peak_extra(backend: HFBackend, texts: Sequence[str]) -> float:
    """MiB by which the process grows while it compares, beyond what it held before."""
    compared(backend, texts[:1])
    # What was freed before and is kept would hide as much of what is needed now.
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = _memory("VmRSS")
    compared(backend, texts)
    return (_memory("VmHWM") - before) / 1024


def _memory(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(field))


def section(*, texts: int) -> str:
    torch.set_num_threads(1)
    every = groups_of(texts)
    # Memory doesn't depend on the number of layers: their activations come one after the other.
    extra = peak_extra(fixture(2), [text for group in every for text in group])
    backend = fixture()
    compared(backend, every[0][:1])
    ratios, shares = [], []
    for turn, group in enumerate(every):
        slow = _naive_s(backend, group) if turn % 2 else None
        began = time.thread_time()
        kernel = compared(backend, group)
        ours = time.thread_time() - began
        slow = _naive_s(backend, group) if slow is None else slow
        ratios.append(slow / ours)
        shares.append(kernel / (ours - kernel))
    times_naive, share = statistics.median(ratios), statistics.median(shares)
    return "\n".join([TITLE, "", *_lines(texts, times_naive, share, extra), ""])


def _naive_s(backend: HFBackend, texts: Sequence[str]) -> float:
    began = time.thread_time()
    naive(backend, texts)
    return time.thread_time() - began


def _lines(texts: int, times_naive: float, share: float, extra: float) -> list[str]:
    return [
        *description("benches.compare", PACKAGES),
        f"- How: one process, one thread, thread CPU time; {texts} texts of {TOKENS} tokens in "
        f"groups of {GROUP}, both in turn on each group; medians of the groups' ratios. The share "
        "of the figures is measured inside `compare`.",
        f"- Model: Llama, {VOCAB:,} tokens, width 576, 30 layers, tied, float32, LoRA on two "
        "modules; memory with 2 layers of it, all texts in one call.",
        "",
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        f"| the naive way, times `compare` | at least 1.0 x | {times_naive:.2f} x | "
        f"{verdict(times_naive >= 1.0)} |",
        f"| the figures, beside all else of `compare` | at most 25 % (aim: 12 %) | {share:.1%} | "
        f"{verdict(share <= 0.25)} |",
        f"| peak memory beyond what was held | at most 128 MiB | {extra:.0f} MiB | "
        f"{verdict(extra <= 128)} |",
    ]


if __name__ == "__main__":
    publish(section, __doc__, texts=32)
