"""Measures hidden states that are kept: ``python -m benches.states``.

The question: what does a second question about the same texts cost where their hidden states are
kept, beside computing it? Other k, other op, other direction of a comparison; the two contenders
take turns on each batch of texts, one thread, thread CPU time, medians of the batches' ratios. And
what is kept a position, in memory and in a store's file, all overhead included, beside the numbers
themselves.
"""

import random
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benches import compare
from benches.machine import Clock, description
from benches.sections import publish, verdict
from forwardcache.hf import HFBackend

TITLE = "## Kept hidden states"
PACKAGES = ["torch", "transformers", "peft"]
SMALL_VOCAB = 8_192
TOKENS, BATCH = 64, 8
WIDTH = 576

Ask = Callable[[HFBackend, list[str]], Any]
QUESTIONS: dict[str, Ask] = {
    "the next token, another k": lambda backend, texts: backend.next_token_dist_batch(
        texts, top_k=64
    ),
    "another op: each token of the text": lambda backend, texts: backend.rolling_logprob_batch(
        texts
    ),
    "the other direction of a comparison": lambda backend, texts: backend.compare(
        texts, ["base"], reference="ft"
    ),
}


def texts_of(batches: int, vocab: int) -> list[list[str]]:
    chance = random.Random(0)
    words = [
        [" ".join(f"w{chance.randrange(vocab)}" for _ in range(TOKENS)) for _ in range(BATCH)]
        for _ in range(batches)
    ]
    return words


def beside(
    model: Any, tokenizer: Any, vocab: int, batches: int, now: Clock = time.thread_time
) -> dict[str, float]:
    """By question: how many times as long computing it takes, the median of the batches."""
    kept = HFBackend(model, tokenizer, keep="states")
    every = texts_of(batches + 1, vocab)
    for texts in every:
        kept.next_token_dist_batch(texts, top_k=8)
        kept.compare(texts, ["ft"])
    found = {}
    for name, ask in QUESTIONS.items():
        # The first batch warms both up and isn't counted.
        ratios = [_ratio(ask, kept, texts, turn, now) for turn, texts in enumerate(every)]
        found[name] = statistics.median(ratios[1:])
    return found


def _ratio(ask: Ask, kept: HFBackend, texts: list[str], turn: int, now: Clock) -> float:
    plain = HFBackend(kept.model, kept.tokenizer)
    contenders = [plain, kept] if turn % 2 else [kept, plain]
    took = {}
    for backend in contenders:
        forwards = kept.stats.forward_passes
        began = now()
        ask(backend, texts)
        took[backend is kept] = now() - began
        assert kept.stats.forward_passes == forwards
    return took[False] / took[True]


def bytes_kept(model: Any, tokenizer: Any, vocab: int, texts: int) -> tuple[float, float]:
    """Bytes a position in memory and in the file, beside hidden x itemsize."""
    chance = random.Random(1)
    asked = [
        " ".join(f"w{chance.randrange(vocab)}" for _ in range(chance.randrange(64, 257)))
        for _ in range(texts)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "states.db"
        with HFBackend(model, tokenizer, keep="states", store=path) as backend:
            found = backend.states_batch(asked)
            held = backend.instrumentation.cache.nbytes
        file = sum(each.stat().st_size for each in path.parent.iterdir())
    numbers = sum(len(each.token_ids) for each in found) * WIDTH * model.dtype.itemsize
    return held / numbers, file / numbers


def section(*, batches: int, texts: int, layers: int) -> str:
    torch.set_num_threads(1)
    large, small = (compare.fixture(layers, vocab=vocab) for vocab in (compare.VOCAB, SMALL_VOCAB))
    ratios = {
        vocab: beside(each.model, each.tokenizer, vocab, batches)
        for vocab, each in ((compare.VOCAB, large), (SMALL_VOCAB, small))
    }
    # Bytes don't depend on layers; half precision has the larger share of overhead.
    halves = compare.fixture(2, vocab=SMALL_VOCAB, dtype=torch.bfloat16)
    kept = bytes_kept(halves.model, halves.tokenizer, SMALL_VOCAB, texts)
    return "\n".join([TITLE, "", *_lines(batches, texts, layers, ratios, kept), ""])


def _lines(
    batches: int,
    texts: int,
    layers: int,
    ratios: dict[int, dict[str, float]],
    kept: tuple[float, float],
) -> list[str]:
    asked = {compare.VOCAB: (3.0, 4.0), SMALL_VOCAB: (8.0, 12.0)}
    rows = [
        f"| {name}, {vocab:,} tokens | at least {must:g} x (aim: {aim:g} x) | {ratio:.2f} x | "
        f"{verdict(ratio >= must)} |"
        for vocab, (must, aim) in asked.items()
        for name, ratio in ratios[vocab].items()
    ]
    rows += [
        f"| bytes a position {where}, times the numbers | at most 1.1 x (aim: 1.03 x) | "
        f"{share:.3f} x | {verdict(share <= 1.1)} |"
        for where, share in zip(("in memory", "in the file"), kept, strict=True)
    ]
    return [
        *description("benches.states", PACKAGES),
        f"- How: one process, one thread, thread CPU time; {batches} batches of {BATCH} texts of "
        f"{TOKENS} tokens, both in turn on each; medians of the batches' ratios. Computed: a "
        "backend that keeps values and has none. Bytes: "
        f"{texts} texts of 64 to 256 tokens, bfloat16.",
        f"- Model: Llama, width {WIDTH}, {layers} layers, tied, float32, LoRA on two modules.",
        "",
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        *rows,
    ]


if __name__ == "__main__":
    publish(section, __doc__, batches=12, texts=64, layers=30)
