"""Peak memory of other models as views: ``python -m benches.other_models``.

The question: how much more memory does ``diff`` take at its peak with three models of one size, one
reference and two others, than with one? Each run is a process of its own, and its peak is the most
resident memory that the system has seen of it, the pages of weights that are mapped from a file
among them. The baseline compares an adapter of the same model over the same texts.
"""

from __future__ import annotations

import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

# Before torch is imported: spinning threads cost several times the work itself on a busy machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"

from benches.machine import description
from benches.sections import publish, verdict

TITLE = "## Memory of other models as views"
PACKAGES = ["torch", "transformers", "peft"]
VOCAB, TOKENS = 49_152, 256
MUST = 1.15
MIB = 2**20


def make(folder: Path, layers: int, dtypes: list[str]) -> None:
    """A Llama of the widths of one with 135 million parameters, two others, an adapter, texts."""
    import torch
    from peft import LoraConfig, get_peft_model
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(VOCAB)}, unk_token="w0"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    tokenizer = kind(tokenizer_object=words)
    config = LlamaConfig(
        vocab_size=VOCAB,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers,
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    for number, dtype in ((number, dtype) for number in range(3) for dtype in dtypes):
        torch.manual_seed(number)
        model: Any = LlamaForCausalLM(config).to(getattr(torch, dtype))
        where = folder / f"{dtype}-{number}"
        model.save_pretrained(where)
        tokenizer.save_pretrained(where)
        if number == 0:
            lora = LoraConfig(r=8, target_modules=["q_proj", "v_proj"], init_lora_weights=False)
            get_peft_model(model, lora).save_pretrained(str(folder / f"{dtype}-adapter"))


def write_texts(folder: Path, texts: int) -> None:
    """Texts of ``TOKENS`` words, each different."""
    lines = (
        " ".join(f"w{(text * 7919 + place * 104_729) % VOCAB}" for place in range(TOKENS + 1))
        for text in range(texts)
    )
    (folder / "texts.txt").write_text("\n".join(lines) + "\n")


def compared(folder: str, dtype: str, number: str) -> None:
    """Runs ``diff`` in this process; prints its peak resident bytes."""
    from forwardcache.__main__ import main

    where = Path(folder)
    words = ["diff", "--model", where / f"{dtype}-0", "--texts", where / "texts.txt", "--nulls", 0]
    if number == "1":
        words += ["--adapter", where / f"{dtype}-adapter"]
    else:
        words += ["--other", f"a={where / f'{dtype}-1'}", "--other", f"b={where / f'{dtype}-2'}"]
        words += ["--chain"]
    words += ["--format", "json", "--out", where / f"rows{number}.jsonl", "--force"]
    code = main([str(word) for word in words])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": peak, "code": code}))


def peak(folder: Path, dtype: str, number: int) -> int:
    """Bytes of one run in a process of its own."""
    words = [sys.executable, "-m", "benches.other_models", "child", str(folder), dtype, str(number)]
    ended = subprocess.run(words, capture_output=True, text=True, check=True)
    found = json.loads(ended.stdout.splitlines()[-1])
    if found["code"]:
        raise RuntimeError(f"diff ended with {found['code']}: {ended.stderr[-500:]}")
    return int(found["peak"])


def section(layers: int, texts: int, rounds: int, dtypes: str) -> str:
    """Makes the models, measures, and says what came out."""
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        # In a process of its own too, whose memory is then the system's again.
        subprocess.run(
            [sys.executable, "-m", "benches.other_models", "make", name, str(layers), dtypes],
            check=True, capture_output=True,
        )  # fmt: skip
        write_texts(folder, texts)
        for dtype in dtypes.split(","):
            peaks: dict[int, list[int]] = {1: [], 3: []}
            for _ in range(rounds):
                for number, found in peaks.items():
                    found.append(peak(folder, dtype, number))
            one, three = (statistics.median(peaks[number]) for number in (1, 3))
            rows.append(
                f"| {dtype} | {one / MIB:,.0f} MiB | {three / MIB:,.0f} MiB | at most {MUST} x | "
                f"{three / one:.2f} x | {verdict(three / one <= MUST)} |"
            )
    lines = [
        TITLE,
        "",
        *description("benches.other_models", PACKAGES),
        f"- How: `diff` over {texts} texts of {TOKENS} tokens, each run in a process of its own, "
        f"{rounds} alternating rounds, medians of peak resident memory; {layers} layers, "
        f"vocabulary {VOCAB:,}, tied. One model: an adapter against its base. Three: two others "
        "against the base, and against each other (`--chain`).",
        "",
        "| weights | one model | three models | must | measured | |",
        "|---|---|---|---|---|---|",
        *rows,
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["child", folder, dtype, number]:
            compared(folder, dtype, number)
        case ["make", folder, layers, dtypes]:
            make(Path(folder), int(layers), dtypes.split(","))
        case _:
            publish(section, __doc__, layers=30, texts=4, rounds=3, dtypes="float32,bfloat16")
