"""Measures what noticing changes costs: ``python -m benches.identity``.

The questions: compared with one full batch on a model of 135 M parameters, what does a call pay for
each identity policy? It looks before its forwards, and again before and after them. Does a hit
through a freshly entered view walk the model? What does a look cost a tensor, does that grow with
the model, and what does a large adapter's memory add?
"""

import statistics
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from types import FrameType
from typing import Any, get_args

# First: it sets the environment before torch is imported.
from benches.scoring import elapsed_ns, large, quiet  # isort: skip

import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from benches.machine import description
from benches.sections import Line, publish, table, verdict
from forwardcache.hf import HFBackend
from forwardcache.hf.model import slots
from forwardcache.hf.model.identity import ModelIdentity, Policy

TITLE = "## Identity: what noticing changes costs"
PACKAGES = ["torch", "transformers", "peft"]
LOOKS = 3
BATCH_TOKENS = 1024
MOST_SHARE = 0.02
LAYERS = (30, 60, 120)
SETTLING_LOOKS = 4
LOOKS_A_TURN = 10


@dataclass(frozen=True)
class Cost:
    """Nanoseconds of one look at the state and of a hit through a freshly entered view."""

    look: float
    hit: float
    walked: int


def backend(causal_lm: Any, tokenizer: Any, policy: Policy) -> HFBackend:
    label = "the bench's weights" if policy == "label" else None
    return HFBackend(causal_lm, tokenizer, identity=policy, identity_label=label)


def cost(scorer: HFBackend, rounds: int) -> Cost:
    scorer.identity()
    looks = [elapsed_ns(scorer.identity) for _ in range(rounds)]
    through_a_view(scorer)
    hits = [elapsed_ns(lambda: through_a_view(scorer)) for _ in range(rounds)]
    return Cost(statistics.median(looks), statistics.median(hits), walks(scorer))


def through_a_view(scorer: HFBackend) -> None:
    with scorer.as_finetuned() as view:
        view.next_token_dist("w1 w2 w3", top_k=1)


def walks(scorer: HFBackend) -> int:
    """How often a hit through a freshly entered view walks over the model's modules."""
    # Counted from outside: a look sees, and answers with a walk, that torch's class was patched.
    walking = {
        each.__code__ for each in (nn.Module.named_modules, nn.Module.named_children, slots.walk)
    }
    count = 0

    def note(frame: FrameType, event: str, _: object) -> None:
        nonlocal count
        count += event == "call" and frame.f_code in walking

    through_a_view(scorer)
    sys.setprofile(note)
    try:
        through_a_view(scorer)
    finally:
        sys.setprofile(None)
    return count


def shaped(layers: int, targets: str | list[str], rank: int, **sizes: Any) -> Any:
    """A Llama with an adapter in memory; its own weights take none, whatever their shapes."""
    config = LlamaConfig(num_hidden_layers=layers, **sizes)
    with torch.device("meta"):
        causal_lm: Any = LlamaForCausalLM(config)
        adapted = get_peft_model(causal_lm, LoraConfig(r=rank, target_modules=targets))
    for module in adapted.modules():
        for name, held in list(module.named_parameters(recurse=False)):
            is_adapters = held.requires_grad
            filled = torch.rand(held.shape) if is_adapters else torch.zeros(1).expand(held.shape)
            setattr(module, name, nn.Parameter(filled, requires_grad=is_adapters))
        for name, buffer in list(module.named_buffers(recurse=False)):
            module.register_buffer(name, torch.ones(buffer.shape), persistent=False)
    return adapted.eval()


def looks_ns(models: Sequence[Any], tokenizer: Any, rounds: int) -> list[float]:
    """Looks that find nothing changed, the tokenizer's part with them; the models in turn."""
    looks = [partial(ModelIdentity(each).state, tokenizer) for each in models]
    for _ in range(SETTLING_LOOKS):
        # What is large is summed at first, and no longer once it stood still for a while.
        for look in looks:
            look()
        time.sleep(1.1)
    taken: list[list[int]] = [[] for _ in looks]
    for _ in range(rounds):
        for look, each in zip(looks, taken, strict=True):
            each.extend(elapsed_ns(look) for _ in range(LOOKS_A_TURN))
    return [statistics.median(each) for each in taken]


def looks(tokenizer: Any, rounds: int) -> list[Line]:
    small = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    models = [shaped(layers, ["q_proj", "v_proj"], 8, vocab_size=512, **small) for layers in LAYERS]
    models.append(shaped(32, "all-linear", 16, vocab_size=32_000))
    *taken, of_large = looks_ns(models, tokenizer, rounds)
    tensors = [len([*model.parameters(), *model.buffers()]) for model in models]
    each = [ns / count for ns, count in zip(taken, tensors, strict=False)]
    names = [f"the look alone, {layers} layers, a tensor" for layers in LAYERS]
    lines = [
        Line(name, "110", "50", measured, unit=" ns")
        for name, measured in zip(names, each, strict=True)
    ]
    lines.append(Line(f"{names[-1]}, over {LAYERS[0]} layers", "1.3", "", each[-1] / each[0]))
    name = "the look alone, an adapter of 160 MB (rank 16, all linear, 7 B shape)"
    measured = of_large / 1e3
    return [*lines, Line(name, "150", "60", measured, today="about 7,000 µs", unit=" µs")]


def batch_ns(causal_lm: Any, rounds: int) -> float:
    """One full batch: as many tokens as the budget of a CPU allows, in rows of 128."""
    tokens = torch.randint(1, 1000, (BATCH_TOKENS // 128, 128))

    @torch.inference_mode()
    def forward() -> None:
        causal_lm(input_ids=tokens, use_cache=False, logits_to_keep=1)

    forward()
    return statistics.median(elapsed_ns(forward) for _ in range(rounds))


@quiet()
def section(rounds: int) -> str:
    torch.set_num_threads(1)
    under_test = large(1)
    # Base weights that may be trained are hashed at every call, in every policy but "label".
    for name, parameter in under_test.causal_lm.named_parameters():
        parameter.requires_grad_("lora_" in name)
    whole = batch_ns(under_test.causal_lm, max(3, rounds // 10))
    costs = {
        policy: cost(backend(under_test.causal_lm, under_test.tokenizer, policy), rounds)
        for policy in get_args(Policy)
    }
    share = LOOKS * costs["versions"].look / whole
    walked = costs["versions"].walked
    rows = [
        f"| {policy} | {each.look / 1e6:.3f} | {LOOKS * each.look / whole:.2%} | "
        f"{each.hit / 1e6:.3f} | {each.walked} |"
        for policy, each in costs.items()
    ]
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.identity", PACKAGES),
            f"- How: one process, one thread, {rounds} rounds, thread CPU time, medians. "
            f"{under_test.title.rpartition(',')[0]}, LoRA (r=8 on q and v).",
            f"- A full batch: {BATCH_TOKENS} positions, {whole / 1e9:.2f} CPU s. A call that "
            f"computes looks {LOOKS} times; one that hits looks once.",
            "",
            "| figure | asked | measured | |",
            "|---|---|---|---|",
            f"| `versions`, {LOOKS} looks beside a full batch | under {MOST_SHARE:.0%} | "
            f"{share:.2%} | {verdict(share < MOST_SHARE)} |",
            f"| modules walked by a hit through a freshly entered view | 0 | {walked} "
            f"| {verdict(not walked)} |",
            "",
            *table(looks(under_test.tokenizer, rounds)),
            "",
            "| policy | a look, ms | share of a batch | a hit through a fresh view, ms | walks |",
            "|---|---|---|---|---|",
            *rows,
            "",
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, rounds=30)
