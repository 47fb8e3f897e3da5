"""Measures many views of one model on a GPU: ``python -m benches.gpu_views``.

The questions are those of ``benches.adapters``, ``benches.states`` and ``benches.rows``, in
bfloat16 on the device: ten adapters and base in one backend beside ten backends of two views, a
second question where hidden states are kept beside computing it, and four views of one short prompt
in one forward beside four forwards. Wall time with the device waited for, both contenders in turn,
medians. ``make gpu`` runs it after ``benches.gpu``; without a CUDA device it says so and writes
nothing.
"""

import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from benches import adapters, compare, rows, states
from benches.gpu import device_name, now, refuse_without_device
from benches.machine import description
from benches.sections import publish, verdict
from forwardcache.hf import HFBackend

TITLE = "## Many views of one model, on a GPU"
TINY_VOCAB = 512


@dataclass(frozen=True)
class Size:
    """How large the models are and how often each is asked."""

    layers: int = 30
    vocab: int = compare.VOCAB
    small_vocab: int = states.SMALL_VOCAB
    texts: int = 32
    batches: int = 8
    turns: int = 30


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        adapters: Ten backends of base and one adapter, in times of one backend with all.
        questions: By vocabulary and question: computing it, in times of a head on kept states.
        kept: Bytes a position in memory and in a store's file, in times of the numbers.
        tiny: Four views of one short prompt a forward each, in times of one call; the tiny model.
        large: The same of the larger model.
        notes: What admission says of the two models.
    """

    adapters: float
    questions: dict[int, dict[str, float]]
    kept: tuple[float, float]
    tiny: float
    large: float
    notes: tuple[str, str]


def ten_adapters(size: Size, **options: Any) -> float:
    ratios = []
    with tempfile.TemporaryDirectory() as root:
        own = adapters.model_and_adapters(Path(root), size.layers, vocab=size.vocab, **options)
        groups = compare.groups_of(size.texts, vocab=size.vocab, tokens=adapters.TOKENS)
        # What a device does at a first call is in no figure.
        adapters.together_s(*own, groups[0], adapters.ADAPTERS, now=now)
        for turn, group in enumerate(groups):
            apart = adapters.apart_s(*own, group, now) if turn % 2 else None
            together = adapters.together_s(*own, group, adapters.ADAPTERS, now=now)
            apart = adapters.apart_s(*own, group, now) if apart is None else apart
            ratios.append(apart / together)
    return statistics.median(ratios)


def second_questions(size: Size, **options: Any) -> dict[int, dict[str, float]]:
    found = {}
    for vocab in (size.vocab, size.small_vocab):
        own = compare.fixture(size.layers, vocab=vocab, **options)
        found[vocab] = states.beside(own.model, own.tokenizer, vocab, size.batches, now)
    return found


def four_views(backend: HFBackend, vocab: int, turns: int) -> float:
    pairs = rows.ratios(backend, rows.measured(backend, vocab), turns, now)
    return statistics.median(alone / joint for alone, joint in pairs)


def measured(device: str, dtype: torch.dtype, size: Size) -> Measured:
    """Everything, on one device."""
    options: dict[str, Any] = {"device": device, "dtype": dtype}
    halves = compare.fixture(2, vocab=size.small_vocab, **options)
    small = rows.tiny_backend(min(4, size.layers))
    tiny = HFBackend(small.model.to(device, dtype), small.tokenizer)
    large = compare.fixture(size.layers, vocab=size.vocab, **options)
    return Measured(
        adapters=ten_adapters(size, **options),
        questions=second_questions(size, **options),
        kept=states.bytes_kept(halves.model, halves.tokenizer, size.small_vocab, size.texts),
        tiny=four_views(tiny, TINY_VOCAB, size.turns),
        large=four_views(large, size.vocab, size.turns),
        notes=("; ".join(tiny.admission.notes), "; ".join(large.admission.notes)),
    )


def section(*, texts: int, batches: int, turns: int) -> str:
    size = Size(texts=texts, batches=batches, turns=turns)
    found = measured("cuda", torch.bfloat16, size)
    return "\n".join([TITLE, "", *lines(found, size, device_name()), ""])


def lines(found: Measured, size: Size, device: str) -> list[str]:
    at_least = {size.vocab: 3.0, size.small_vocab: 8.0}
    table = [(f"{adapters.ADAPTERS} runs, times one with all", adapters.MUST, found.adapters)]
    table += [
        (f"{name}, {vocab:,} tokens, computed, times answered from states", at_least[vocab], times)
        for vocab, questions in found.questions.items()
        for name, times in questions.items()
    ]
    table += [
        ("four views of one short prompt, tiny model", 1.8, found.tiny),
        ("the same, the larger model", 1.0, found.large),
    ]
    return [
        *description("benches.gpu_views", compare.PACKAGES),
        f"- Device: {device}",
        f"- How: wall time with the device waited for, both ways in turn, medians; {size.texts} "
        f"texts of {adapters.TOKENS} tokens for the adapters, {size.batches} batches of "
        f"{states.BATCH} texts of {states.TOKENS} tokens for the questions, {size.turns} turns of "
        f"prompts of {rows.SHORT} tokens for the views.",
        f"- Models: Llama, width 576, {size.layers} layers, tied, LoRA on two modules; Llama, "
        f"width 64, {min(4, size.layers)} layers, LoRA on all linear layers; bfloat16.",
        f"- What was found of them: {found.notes[1] or 'nothing'}; {found.notes[0] or 'nothing'}.",
        "",
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        *(
            f"| {name} | at least {least:g} x | {times:.2f} x | {verdict(times >= least)} |"
            for name, least, times in table
        ),
        *(
            f"| bytes a position {where}, times the numbers | at most 1.1 x | {share:.3f} x | "
            f"{verdict(share <= 1.1)} |"
            for where, share in zip(("in memory", "in the file"), found.kept, strict=True)
        ),
    ]


def main() -> None:
    refuse_without_device("benches.gpu_views")
    publish(section, __doc__, texts=32, batches=8, turns=30)


if __name__ == "__main__":
    main()
