"""Measures hits through an open view: ``python -m benches.view_hit --beside FOLDER``.

The question: what does a hit through a view cost, and a batch of 64, beside another build of the
package? FOLDER holds that build's sources with its core in it; without one, this build is measured
alone. Both in processes of their own that take turns, one thread, thread CPU time; of each process
the tenth percentile of many short samples, of these the median.
"""

import itertools
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benches.machine import description
from benches.sections import publish

TITLE = "## Hits through a view"
ROOT = Path(__file__).parent.parent
PROMPTS = 64
NAMES = ("a hit", f"a batch of {PROMPTS} hits", f"a batch of {PROMPTS} misses")


def backend(layers: int) -> Any:
    """A small Llama, LoRA on all its linear layers, and words as tokens."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    from forwardcache.hf import HFBackend

    torch.set_num_threads(1)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 64, "intermediate_size": 128, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=512, num_hidden_layers=layers, num_key_value_heads=2, **sizes)
    lora = LoraConfig(r=4, target_modules="all-linear")
    model: Any = get_peft_model(LlamaForCausalLM(config), lora).eval().requires_grad_(False)
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(512)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    return HFBackend(model, kind(tokenizer_object=words))


def low(work: Callable[[], Any], samples: int) -> float:
    """The tenth percentile of ``samples`` runs, microseconds."""
    found = []
    for _ in range(samples):
        began = time.thread_time_ns()
        work()
        found.append((time.thread_time_ns() - began) / 1000)
    return sorted(found)[samples // 10]


def sample(layers: int) -> list[float]:
    """Microseconds of each of ``NAMES``, in this process."""
    prompts = [f"w{n} w{n + 1} w{3 * n % 512}" for n in range(1, PROMPTS + 1)]
    numbers = itertools.count(1)
    with backend(layers).as_finetuned() as view:

        def missed() -> None:
            # A first token that no other sample has, so that nothing is shared either.
            view.next_token_dist_batch([f"w{next(numbers)} {prompt}" for prompt in prompts])

        misses = low(missed, 7)
        many = low(lambda: view.next_token_dist_batch(prompts), 1500)
        one = low(lambda: view.next_token_dist(prompts[5]), 4000)
    return [one, many, misses]


def sampled(source: Path, layers: int) -> list[float]:
    """The same in a process of its own, with the package of ``source``."""
    path = os.pathsep.join([str(source / "python"), str(ROOT)])
    threads = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "benches.view_hit", str(layers)]
    found = subprocess.run(
        command, cwd=source, env={**os.environ, **threads, "PYTHONPATH": path},
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return [float(word) for word in found.stdout.split()]


def section(layers: int, rounds: int, beside: str) -> str:
    sources = [ROOT, *([Path(beside).resolve()] if beside else [])]
    taken: dict[Path, list[list[float]]] = {source: [] for source in sources}
    for _ in range(rounds):
        for source in sources:
            taken[source].append(sampled(source, layers))
    medians = [
        [statistics.median(each) for each in zip(*taken[source], strict=True)] for source in sources
    ]
    rows = ["| us | this build | beside | ratio |", "|---|---|---|---|"]
    for at, name in enumerate(NAMES):
        ours = medians[0][at]
        other = f"{medians[1][at]:,.1f} | {ours / medians[1][at]:.3f}" if beside else " | "
        rows.append(f"| {name} | {ours:,.1f} | {other} |")
    command = f"python -m benches.view_hit --layers {layers} --rounds {rounds}"
    told = [
        f"- Command: `{command}{' --beside FOLDER' if beside else ''}`",
        *description(packages=["torch", "transformers", "peft"])[1:],
        f"- How: {rounds} processes of each build, in turn, one thread, thread CPU time; the tenth "
        "percentile of a process, the median of these.",
        f"- Model: Llama, {layers} layers of width 64, LoRA on all linear layers.",
    ]
    return "\n".join([TITLE, "", *told, "", *rows, ""])


if __name__ == "__main__":
    if sys.argv[1:] and sys.argv[1].isdigit():
        print(*sample(int(sys.argv[1])))
    else:
        publish(section, __doc__, layers=4, rounds=5, beside="")
