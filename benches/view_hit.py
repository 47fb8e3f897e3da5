"""Measures hits through a view: ``BESIDE=FOLDER python -m benches.view_hit``.

The question: what does a hit through an open view cost, through a freshly entered one, and in a
batch, with the look at the model that each call takes? Beside another build of the package, whose
sources lie in FOLDER with its core in them; without one, only this build's own times are bounded.
Both in processes of their own that take turns, one thread, thread CPU time; of each process the
tenth percentile of many short samples, of these the median.
"""

import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.machine import description
from benches.sections import BESIDE, Line, number, publish, table
from benches.turns import ROOT, in_turn

TITLE = "## Hits through a view"
LAYERS, BATCH = 30, 20
# An adapter that was the same for two of these seconds is no longer summed where the kernel tells
# of every write.
SETTLED_S = 3.0
NAMES = (
    f"hit through an open view, {LAYERS} layers",
    "fresh view and hit",
    f"batch of {BATCH} hits, a prompt",
    "fresh view and hit, adapter of 160 MB (rank 16, all linear, 7 B shape)",
)
# As of the table, at the commit beside which the bounds were set.
TODAY = ("504 µs", "814 µs", "27 µs", "about 7 ms")
BOUNDS = (("1/12", "1/25"), ("1/12", "1/25"), ("1/10", "1/20"))
SEVEN_B: dict[str, Any] = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
}

TRIED = """Of the adapter of 160 MB two thirds are the kernel's look at the marks of 40,000 pages.
Tried: large pages (`MADV_COLLAPSE` before they are protected) take a hit from 139 to 90 µs, and
half a second of CPU time of the one call that makes them, so that is not done. How long a hit takes
there changes with the machine's moment: 139 µs, the other build 12.8 ms, and 224 beside 13.2 on
another day; the bound asks for 1/47 of today's."""


def words() -> Any:
    """Words as tokens."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({f"w{n}": n for n in range(512)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=inner)


def small(layers: int, targets: Any = ("q_proj", "v_proj")) -> Any:
    """A narrow Llama, with LoRA."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=512, num_hidden_layers=layers, num_key_value_heads=2, **sizes)
    lora = LoraConfig(r=4, target_modules=targets)
    model: Any = get_peft_model(LlamaForCausalLM(config), lora)
    return model.eval().requires_grad_(False)


def wide() -> Any:
    """The adapter of a 7 B model, 160 MB, on weights that take no memory and give nothing."""
    import torch
    from peft import LoraConfig, get_peft_model
    from torch import nn
    from transformers import LlamaConfig, LlamaForCausalLM

    class Nothing(nn.Linear):
        def forward(self, given: torch.Tensor) -> torch.Tensor:
            return given.new_zeros(*given.shape[:-1], self.out_features)

    torch.manual_seed(0)
    with torch.device("meta"):
        model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=512, **SEVEN_B))
    for name, parameter in list(model.named_parameters()):
        where, _, own = name.rpartition(".")
        one = nn.Parameter(torch.ones(1).expand(parameter.shape), requires_grad=False)
        module = model.get_submodule(where)
        setattr(module, own, one)
        if isinstance(module, nn.Linear):
            module.__class__ = Nothing
    turns = model.model.rotary_emb
    model.model.rotary_emb = type(turns)(config=model.config)
    lora = LoraConfig(r=16, target_modules="all-linear")
    adapted: Any = get_peft_model(model, lora)
    return adapted.eval().requires_grad_(False)


def backend(model: Any) -> Any:
    """A backend over it."""
    import torch

    from forwardcache.hf import HFBackend

    torch.set_num_threads(1)
    return HFBackend(model, words())


def low(work: Callable[[], Any], samples: int) -> float:
    """The tenth percentile of ``samples`` runs, microseconds."""
    found = []
    for _ in range(samples):
        began = time.thread_time_ns()
        work()
        found.append((time.thread_time_ns() - began) / 1000)
    return sorted(found)[samples // 10]


def sample(samples: int) -> list[float]:
    """Microseconds of each of ``NAMES``, in this process."""
    prompts = [f"w{n} w{n + 1} w{3 * n % 512}" for n in range(1, BATCH + 1)]
    scored = backend(small(LAYERS))

    def fresh() -> None:
        with scored.as_finetuned() as view:
            view.next_token_dist(prompts[5])

    with scored.as_finetuned() as view:
        view.next_token_dist_batch(prompts)
        one = low(lambda: view.next_token_dist(prompts[5]), samples)
        many = low(lambda: view.next_token_dist_batch(prompts), samples) / BATCH
    entered = low(fresh, samples)
    scored = backend(wide())
    began = time.monotonic()
    while time.monotonic() - began < SETTLED_S:
        fresh()
    return [one, entered, many, low(fresh, samples // 4)]


def section(rounds: int, samples: int, beside: str) -> str:
    sources = [ROOT, *([Path(beside)] if beside else [])]
    taken = in_turn("benches.view_hit", sources, rounds, ["sample", str(samples)])
    ours, theirs = (
        [statistics.median(each) for each in zip(*taken[at], strict=True)] for at in (0, -1)
    )
    lines = [
        Line(
            name if at else f"{name}, beside today's build",
            *bounds,
            ours[at] / theirs[at],
            TODAY[at],
            is_void=not beside,
        )
        for at, (name, bounds) in enumerate(zip(NAMES, BOUNDS, strict=False))
    ]
    lines.append(Line(NAMES[3], "150", "60", ours[3], TODAY[3], unit=" µs"))
    rows = ["| µs of thread CPU time | this build | the other |", "|---|---|---|"]
    for name, own, other in zip(NAMES, ours, theirs, strict=True):
        rows.append(f"| {name} | {number(own)} | {number(other) if beside else ''} |")
    told = [
        f"- Command: `BESIDE=FOLDER python -m benches.view_hit --rounds {rounds}`",
        *description(packages=["torch", "transformers", "peft"])[1:],
        f"- How: {rounds} processes of each build, in turn, one thread, thread CPU time; the tenth "
        "percentile of a process, the median of these.",
        f"- Models: Llama, {LAYERS} layers of width 64, LoRA on q and v; and the shape of a 7 B "
        "Llama, whose own weights take no memory, with an adapter that takes 160 MB, "
        f"after {SETTLED_S:g} s without a change (before, each look sums it).",
    ]
    return "\n".join([TITLE, "", *told, "", *rows, "", *table(lines), "", TRIED, ""])


if __name__ == "__main__":
    if sys.argv[1:2] == ["sample"]:
        print(*sample(int(sys.argv[2])))
    else:
        publish(section, __doc__, rounds=5, samples=400, beside=BESIDE)
