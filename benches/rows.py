"""Measures views that share a forward: ``python -m benches.rows``.

The question: what do four views (base, ft, λ = 0.5 and 1.5) of one short prompt cost in one call of
``HFBackend.score``, which runs them in one forward, compared with a call a view, which takes four?
And is anything lost where a batch fills the machine, so that they run one after the other? One
thread, thread CPU time; both in turn on prompts that nobody has seen; medians of the turns' ratios.
"""

import itertools
import statistics
import time
from collections.abc import Iterator
from typing import Any

import torch

from benches import compare, view_hit
from benches.machine import Clock, description
from benches.sections import publish, verdict
from forwardcache.hf import HFBackend

TITLE = "## Several views in one forward"
SHORT = 8
FULL, LONG = 32, 32
FIGURES = (
    ("four views of one short prompt, tiny model", "at least 1.8 x (aim: 3 x)", 1.8),
    ("the same, 135 M", "no less than 1.0 x", 1.0),
    (f"four views of {FULL} prompts of {LONG} tokens, 135 M", "no less than 0.95 x", 0.95),
)


def tiny_backend(layers: int) -> HFBackend:
    """The small model of ``benches.view_hit`` with an adapter that changes something."""
    tiny: HFBackend = view_hit.backend(view_hit.small(layers, "all-linear"))
    for name, parameter in tiny.model.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.02)
    return tiny


def texts(vocab: int, count: int, tokens: int) -> Iterator[list[str]]:
    """Lists of texts that share no beginning with any other."""
    for call in itertools.count():
        first = range(call * count, (call + 1) * count)
        yield [
            " ".join(f"w{(each * 7919 + step * step * 31) % vocab}" for step in range(tokens))
            for each in first
        ]


def views_of(backend: HFBackend) -> list[Any]:
    scaled = [backend.as_scaled_adapter(lam) for lam in (0.5, 1.5)]
    return [backend.as_base(), backend.as_finetuned(), *scaled]


def together_s(backend: HFBackend, prompts: list[str], now: Clock = time.thread_time) -> float:
    began = now()
    backend.score(prompts, views_of(backend), "next_token_dist")
    return now() - began


def apart_s(backend: HFBackend, prompts: list[str], now: Clock = time.thread_time) -> float:
    began = now()
    for view in views_of(backend):
        backend.score(prompts, [view], "next_token_dist")
    return now() - began


def ratios(
    backend: HFBackend, asked: Iterator[list[str]], turns: int, now: Clock = time.thread_time
) -> list[tuple[float, float]]:
    """Seconds apart and together, in turn."""
    found = []
    for turn in range(turns):
        if turn % 2:
            alone = apart_s(backend, next(asked), now)
            found.append((alone, together_s(backend, next(asked), now)))
        else:
            joint = together_s(backend, next(asked), now)
            found.append((apart_s(backend, next(asked), now), joint))
    return found


def measured(backend: HFBackend, vocab: int) -> Iterator[list[str]]:
    """Short prompts that come after those that it took to measure the model."""
    asked = texts(vocab, 1, SHORT)
    for _ in range(8):
        together_s(backend, next(asked))
    return asked


def section(*, layers: int, turns: int, large_turns: int) -> str:
    torch.set_num_threads(1)
    tiny = tiny_backend(layers)
    found = [ratios(tiny, measured(tiny, 512), turns)]
    large = compare.fixture()
    found.append(ratios(large, measured(large, compare.VOCAB), large_turns))
    found.append(ratios(large, texts(compare.VOCAB, FULL, LONG), large_turns))
    rows = [
        "| figure | asked | measured | apart, ms | together, ms | |",
        "|---|---|---|---|---|---|",
    ]
    for (name, asked, least), pairs in zip(FIGURES, found, strict=True):
        times = statistics.median(alone / joint for alone, joint in pairs)
        alone, joint = (1e3 * statistics.median(each) for each in zip(*pairs, strict=True))
        met = verdict(times >= least)
        rows.append(f"| {name} | {asked} | {times:.2f} x | {alone:,.1f} | {joint:,.1f} | {met} |")
    told = [
        *description("benches.rows", ["torch", "transformers", "peft"]),
        f"- How: one process, one thread, thread CPU time; {turns} turns of the tiny model and "
        f"{large_turns} of the other, both ways in turn; medians of the turns' ratios. Each call "
        "is a whole `score`: lookups, forwards, values, trace. A short prompt has "
        f"{SHORT} tokens.",
        f"- Models: Llama, {layers} layers of width 64, LoRA on all linear layers; Llama, 30 "
        f"layers of width 576, {compare.VOCAB:,} tokens, float32, LoRA on two modules.",
        f"- What was found of them: {'; '.join(tiny.admission.notes)}; "
        f"{'; '.join(large.admission.notes)}.",
    ]
    return "\n".join([TITLE, "", *told, "", *rows, ""])


if __name__ == "__main__":
    publish(section, __doc__, layers=4, turns=60, large_turns=5)
