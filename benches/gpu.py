"""Measures ``HFBackend.compare`` and the rounding floor on a GPU: ``python -m benches.gpu``.

The questions are those of ``benches.compare``, in bfloat16 on the device: what do the figures of
every position cost, beside the naive way and beside the forwards, and how much memory. And two of a
GPU's own: what does the floor of rounding cost, and are the figures right there, held against a
plain computation in float64 on the same device? One prepared command, done within ten minutes;
without a CUDA device it says so and writes nothing.
"""

import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from benches.compare import (
    GROUP,
    MIB,
    PACKAGES,
    TOKENS,
    VOCAB,
    fixture,
    groups_of,
    naive,
    naive_figures,
)
from benches.machine import description
from benches.sections import publish, verdict
from forwardcache.hf import HFBackend
from forwardcache.hf.batch.differences import position_differences
from forwardcache.hf.scoring import comparison

TITLE = "## Differences at every position, on a GPU"
EXACT = 1e-9
"""Nats that a divergence may be off in float64."""
NO_DEVICE = 2


@dataclass(frozen=True)
class Size:
    """How large the model and the texts are."""

    layers: int = 30
    vocab: int = VOCAB
    tokens: int = TOKENS
    texts: int = 32


@dataclass(frozen=True)
class Measured:
    """What was measured.

    Attributes:
        times_naive: The naive way's time in that of ``compare``.
        share: What the figures take, in all else of ``compare``.
        extra_mib: Peak memory of the device beyond what it held; 0.0 on a CPU.
        naive_mib: The same of the naive way.
        times_floor: What the floor takes, in times of ``compare`` on the same texts.
        off: The largest difference of a divergence from plain float64, in float64, nats.
        mean_kl: Mean KL of the view by ``compare``, nats.
        mean_kl_naive: The same by plain float64 from the logits of single texts.
        floor: Mean KL that rounding makes, nats.
    """

    times_naive: float
    share: float
    extra_mib: float
    naive_mib: float
    times_floor: float
    off: float
    mean_kl: float
    mean_kl_naive: float
    floor: float


def now() -> float:
    """Seconds of wall time, once what the device was given to do is done."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(work: Callable[..., object], *arguments: object) -> float:
    began = now()
    work(*arguments)
    return now() - began


def shares(backend: HFBackend, texts: Sequence[str]) -> tuple[float, float]:
    """Seconds of ``compare``, and those of them that go into the figures."""
    kernel, spent = position_differences, 0.0

    def timed(*arguments: Any, **options: Any) -> Any:
        nonlocal spent
        found: list[Any] = []
        spent += seconds(lambda: found.append(kernel(*arguments, **options)))
        return found[0]

    with patch.object(comparison, "position_differences", timed):
        whole = seconds(lambda: backend.compare(texts, ["ft"]))
    return whole, spent


def peak_mib(work: Callable[[], object]) -> float:
    """MiB of the device that ``work`` needs beyond what was held before."""
    if not torch.cuda.is_available():
        work()
        return 0.0
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    work()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated() - before) / MIB


def off_in_float64(device: str, size: Size) -> float:
    """How far ``compare`` is from plain float64 where the model itself computes in it."""
    backend = fixture(2, vocab=size.vocab, device=device, dtype=torch.float64)
    texts = groups_of(min(4, size.texts), vocab=size.vocab, tokens=size.tokens)[0]
    found = backend.compare(texts, ["ft"])["ft"]
    off = 0.0
    for text, one in zip(texts, found, strict=True):
        plain = naive_figures(backend, text)
        for name in ("kl", "kl_reverse", "js"):
            theirs = plain[name].cpu().numpy()
            off = max(off, float(abs(getattr(one, name) - theirs).max()))
    return off


def measured(device: str, dtype: torch.dtype, size: Size) -> Measured:
    """Everything, on one device; each contender runs once before it is timed."""
    off = off_in_float64(device, size)
    backend = fixture(size.layers, vocab=size.vocab, device=device, dtype=dtype)
    every = groups_of(size.texts, vocab=size.vocab, tokens=size.tokens)
    texts = [text for group in every for text in group]
    backend.compare(every[0], ["ft"])
    naive(backend, every[0][:1])
    floor = backend.rounding_floor(every[0])
    ratios, parts, floors = [], [], []
    for turn, group in enumerate(every):
        slow = seconds(naive, backend, group) if turn % 2 else None
        whole, kernel = shares(backend, group)
        ours = seconds(backend.compare, group, ["ft"])
        slow = seconds(naive, backend, group) if slow is None else slow
        ratios.append(slow / ours)
        parts.append(kernel / (whole - kernel))
        floors.append(seconds(backend.rounding_floor, group) / ours)
    kl = [value for one in backend.compare(texts, ["ft"])["ft"] for value in one.kl.tolist()]
    plain = [float(naive_figures(backend, text)["kl"].mean()) for text in texts]
    return Measured(
        times_naive=statistics.median(ratios),
        share=statistics.median(parts),
        extra_mib=peak_mib(lambda: backend.compare(texts, ["ft"])),
        naive_mib=peak_mib(lambda: naive(backend, texts)),
        times_floor=statistics.median(floors),
        off=off,
        mean_kl=statistics.fmean(kl),
        mean_kl_naive=statistics.fmean(plain),
        floor=floor.mean,
    )


def section(*, texts: int) -> str:
    size = Size(texts=texts)
    found = measured("cuda", torch.bfloat16, size)
    return "\n".join([TITLE, "", *lines(found, size, device_name()), ""])


def lines(found: Measured, size: Size, device: str) -> list[str]:
    gap = abs(found.mean_kl - found.mean_kl_naive)
    return [
        *description("benches.gpu", PACKAGES),
        f"- Device: {device}",
        f"- How: {size.texts} texts of {size.tokens} tokens in groups of {GROUP}, in turn, wall "
        "time with the device waited for; medians of the groups' ratios.",
        f"- Model: Llama, {size.vocab:,} tokens, width 576, {size.layers} layers, tied, bfloat16, "
        "LoRA on two modules; the check in float64 with 2 layers of it.",
        "",
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        f"| the naive way, times `compare` | at least 1.0 x | {found.times_naive:.2f} x | "
        f"{verdict(found.times_naive >= 1.0)} |",
        f"| the figures, beside all else of `compare` | at most 25 % (aim: 12 %) | "
        f"{found.share:.1%} | {verdict(found.share <= 0.25)} |",
        f"| peak memory beyond what was held | at most 128 MiB (naive: {found.naive_mib:,.0f} MiB)"
        f" | {found.extra_mib:.0f} MiB | {verdict(found.extra_mib <= 128)} |",
        f"| the floor of rounding, times `compare` of the same texts | - | "
        f"{found.times_floor:.2f} x | |",
        f"| a divergence in float64, from plain float64 | at most {EXACT:.0e} nats | "
        f"{found.off:.1e} nats | {verdict(found.off <= EXACT)} |",
        f"| mean KL in bfloat16, from plain float64 of single texts' logits | at most the floor, "
        f"{found.floor:.2e} nats | {gap:.1e} nats | {verdict(gap <= found.floor)} |",
    ]


def refuse_without_device(module: str) -> None:
    """Ends the process where nothing can be measured."""
    if not torch.cuda.is_available():
        print(f"{module}: there is no CUDA device here; nothing was measured", file=sys.stderr)
        sys.exit(NO_DEVICE)


def device_name() -> str:
    """The device and the version of CUDA that torch was built for."""
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def main() -> None:
    refuse_without_device("benches.gpu")
    publish(section, __doc__, texts=32)


if __name__ == "__main__":
    main()
