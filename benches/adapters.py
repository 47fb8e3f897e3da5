"""Measures several adapters of one model: ``python -m benches.adapters``.

The question: what does base, computed once for ten adapters, spare beside ten runs of two views
each? Every run has a fresh cache, and loading an adapter is left out of both. One thread, thread
CPU time; the contenders take turns on groups of texts that are one batch each, and what counts is
the median of the groups' ratios.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors.torch import save_file

from benches.compare import GROUP, PACKAGES, VOCAB, fixture, groups_of
from benches.machine import Clock, description
from benches.sections import publish, verdict
from forwardcache.hf import HFBackend, HFView

TITLE = "## Several adapters"
ADAPTERS = 10
TOKENS = 32
OP = "rolling_logprob"
SHORT = ["w1 w2"]
MUST, AIM = 1.6, 1.75


def model_and_adapters(root: Path, layers: int, **options: Any) -> tuple[Any, Any, dict[str, Path]]:
    """The fixture's model without its adapter, its tokenizer, and folders of adapters of it."""
    with fixture(layers, **options) as backend:
        adapted, tokenizer = backend.model, backend.tokenizer
    folders = {
        f"checkpoint-{100 * number}": root / str(number) for number in range(1, 1 + ADAPTERS)
    }
    for number, folder in enumerate(folders.values()):
        torch.manual_seed(number)
        folder.mkdir()
        adapted.peft_config["default"].save_pretrained(folder)
        weights = get_peft_model_state_dict(adapted)
        drawn = {name: torch.randn_like(each).cpu() * 0.02 for name, each in weights.items()}
        save_file(drawn, folder / "adapter_model.safetensors")
    return adapted.unload(), tokenizer, folders


def scored_s(
    backend: HFBackend,
    views: Callable[[], list[HFView]],
    texts: Sequence[str],
    now: Clock = time.thread_time,
) -> float:
    """Seconds of all views of all texts, each computed."""
    backend.score(SHORT, views(), OP)
    before, began = backend.stats.forward_passes, now()
    backend.score(texts, views(), OP)
    spent = now() - began
    assert backend.stats.forward_passes - before == len(texts) * len(views())
    return spent


def together_s(
    model: Any,
    tokenizer: Any,
    folders: Any,
    texts: Sequence[str],
    most: int,
    *,
    now: Clock = time.thread_time,
) -> float:
    """Seconds of base and every adapter in one backend."""
    with HFBackend(model, tokenizer, adapter=folders, max_adapters=most) as backend:
        return scored_s(
            backend, lambda: [backend.as_base(), *map(backend.as_finetuned, folders)], texts, now
        )


def both(backend: HFBackend) -> list[HFView]:
    return [backend.as_base(), backend.as_finetuned()]


def apart_s(
    model: Any, tokenizer: Any, folders: Any, texts: Sequence[str], now: Clock = time.thread_time
) -> float:
    """Seconds of base and one adapter in a backend of their own, all adapters added up."""
    spent = 0.0
    for folder in folders.values():
        adapted = PeftModel.from_pretrained(model, folder).eval()
        with HFBackend(adapted, tokenizer) as backend:
            spent += scored_s(backend, partial(both, backend), texts, now)
        adapted.unload()
    return spent


def section(*, texts: int, layers: int) -> str:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as root:
        own = model_and_adapters(Path(root), layers)
        ratios, with_loading = [], []
        for turn, group in enumerate(groups_of(texts, tokens=TOKENS)):
            apart = apart_s(*own, group) if turn % 2 else None
            together = together_s(*own, group, ADAPTERS)
            loading = together_s(*own, group, 4)
            apart = apart_s(*own, group) if apart is None else apart
            ratios.append(apart / together)
            with_loading.append(apart / loading)
    found = statistics.median(ratios), statistics.median(with_loading)
    return "\n".join([TITLE, "", *_lines(texts, layers, *found), ""])


def _lines(texts: int, layers: int, ratio: float, with_loading: float) -> list[str]:
    ideal = 2 * ADAPTERS / (1 + ADAPTERS)
    return [
        *description("benches.adapters", PACKAGES),
        f"- How: one process, one thread, thread CPU time; {texts} texts of {TOKENS} tokens in "
        f"groups of {GROUP}, `{OP}`, both in turn on each group; medians of the groups' ratios. "
        f"Base and {ADAPTERS} adapters in one backend, beside {ADAPTERS} backends with base and "
        "one adapter each; loading and the first look at a model are in neither, but of the last "
        "row's one backend loading is.",
        f"- Model: Llama, {VOCAB:,} tokens, width 576, {layers} layers, tied, float32; adapters: "
        "LoRA on two modules.",
        "",
        "| figure | asked | measured | |",
        "|---|---|---|---|",
        f"| {ADAPTERS} runs, times one with all (ideal {ideal:.2f} x) | at least {MUST} x (aim: "
        f"{AIM} x) | {ratio:.2f} x | {verdict(ratio >= MUST)} |",
        f"| the same with 4 adapters in memory, each loaded when it is needed | | "
        f"{with_loading:.2f} x | |",
    ]


if __name__ == "__main__":
    publish(section, __doc__, texts=32, layers=30)
