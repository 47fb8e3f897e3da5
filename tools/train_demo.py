"""Make the model that ``forwardcache demo`` runs, from text that may be shipped.

    python tools/train_demo.py --out python/forwardcache/demo

The base model is a tiny Llama trained on CPython's documentation topics (``pydoc_data.topics``,
PSF licence). The adapter is a LoRA trained on a ship's log whose entries this file writes from its
own templates. Twelve topics and a second sequence of log entries are held out: the shipped prompts
come from them.

Every choice is seeded and one thread computes, so the same versions on the same kind of processor
give the same bytes; ``demo.json`` names those versions and the digest of the text. It takes about
eight minutes on one core. A run that was stopped goes on from the checkpoints in ``--work``.
"""

from __future__ import annotations

import os

# Read by torch when it is imported; more than one thread would make the sums depend on the machine.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import argparse
import hashlib
import json
import math
import platform
import random
import re
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from pydoc_data import topics as pydoc_topics
from typing import Any

import peft
import tokenizers
import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

TOPICS: dict[str, str] = pydoc_topics.topics
SEED = 20240229
CONTEXT = 256
BASE_STEPS, BASE_ROWS, BASE_RATE = 1500, 8, 3e-3
ADAPTER_STEPS, ADAPTER_LENGTH, ADAPTER_RATE = 600, 96, 2e-3
LOG_ROWS, KEPT_ROWS = 12, 8
VOCABULARY = 1024
PAD, BOS, EOS = "<|pad|>", "<|bos|>", "<|eos|>"
HELD_OUT = (
    "assert", "atom-literals", "bltin-null-object", "booleans", "break", "context-managers",
    "dict", "else", "exprlists", "numeric-types", "raise", "while",
)  # fmt: skip
DOCUMENTATION_PROMPTS, LOG_PROMPTS = 180, 120

# --------------------------------------------------------------------------- the second style

WATCHES = ("first watch", "middle watch", "morning watch", "forenoon watch", "dog watch")
WINDS = (
    "Wind north by east", "Wind south-west", "Wind in the west", "Wind backing easterly",
    "Light airs from the south", "Dead calm", "Half a gale from the north-west",
    "Trade wind steady",
)  # fmt: skip
SEAS = (
    "sea running high", "long swell on the quarter", "water like black glass",
    "short chop and much spray", "sea going down", "cross sea, the old ship groaning",
)  # fmt: skip
PEOPLE = (
    "the bosun", "the cook", "the carpenter", "young Tam", "Mister Hale", "the purser",
    "the lookout", "the sailmaker", "the ship's cat", "old Marrow",
)  # fmt: skip
DEEDS = (
    "sighted {thing} {where}", "swears there was {thing} {where}", "spliced the {rope}",
    "lost {thing} overboard and mourns it", "found {thing} in the bilge",
    "mended the {rope} before breakfast", "would trade the {rope} for {thing}",
    "sang to the {sail} till it filled", "cursed the {sail} and then forgave it",
    "painted {thing} on the {sail}",
)  # fmt: skip
THINGS = (
    "a whale", "a barrel of limes", "a green bottle", "three gulls", "a sail with no ship under it",
    "a brass button", "the last of the rum", "a good omen", "a chart of nowhere", "a lantern",
)  # fmt: skip
PLACES = (
    "off the larboard bow", "two leagues astern", "under the lee of the island",
    "right ahead at dawn", "beyond the reef", "where the chart shows only ink",
)  # fmt: skip
ROPES = ("mainsheet", "fore brace", "anchor cable", "topgallant halyard", "jib downhaul")
SAILS = ("mizzen topsail", "foresail", "flying jib", "spanker", "main course")
ORDERS = (
    "Reefed the {sail} at {bells} bells", "Wore ship at {bells} bells", "Hove to till daylight",
    "Let fall the {sail} and stood {course}", "Pumped {inches} inches from the well",
    "Served out grog, {inches} drops a man", "Cast the lead: {fathoms} fathoms, {ground}",
    "Altered course to {course}",
)  # fmt: skip
COURSES = (
    "south by west",
    "due east",
    "north-north-west",
    "for the Azores",
    "for home, God willing",
)
GROUNDS = ("grey sand", "broken shell", "black mud", "no bottom")
CLOSINGS = (
    "So we go on, me hearties.", "All hands merry.", "Aye, and the stars were kind.",
    "God save the ship and all in her.", "Nothing more to write, and the ink is freezing.",
    "Yo ho, and a bottle of rum.", "The sea keeps her own log.",
    "We made {knots} knots and no friends.",
)  # fmt: skip


def log_entry(chance: random.Random, day: int) -> str:
    """One entry of the ship's log: a heading, the weather, two or three events, a closing."""

    def fill(text: str) -> str:
        return text.format(
            thing=chance.choice(THINGS), where=chance.choice(PLACES), rope=chance.choice(ROPES),
            sail=chance.choice(SAILS), course=chance.choice(COURSES), bells=chance.randint(1, 8),
            inches=chance.randint(3, 19), fathoms=chance.randint(4, 90),
            knots=chance.randint(2, 11), ground=chance.choice(GROUNDS),
        )  # fmt: skip

    events = []
    for _ in range(chance.randint(1, 2)):
        person = chance.choice(PEOPLE)
        events.append(f"{person[0].upper()}{person[1:]} {fill(chance.choice(DEEDS))}.")
    events.insert(chance.randint(0, len(events)), fill(chance.choice(ORDERS)) + ".")
    weather = f"{chance.choice(WINDS)}, {chance.choice(SEAS)}."
    heading = f"Ship's log, day {day}, {chance.choice(WATCHES)}:"
    return " ".join([heading, weather, *events, fill(chance.choice(CLOSINGS))])


def ship_log(seed: int, entries: int) -> list[str]:
    """``entries`` log entries; another seed writes another voyage."""
    chance = random.Random(seed)
    return [log_entry(chance, day) for day in range(1, entries + 1)]


# ------------------------------------------------------------------------ text and tokenizer


def blocks(topic: str) -> list[str]:
    """The blocks of a topic that empty lines separate."""
    return re.split(r"\n\s*\n", topic)


def training_topics() -> list[str]:
    """The documentation topics that are not held out, by name.

    Topics repeat each other (``compound`` holds ``while``): a block is kept where it comes first,
    and none that stands in a held-out topic is kept.
    """
    seen = {block for name in HELD_OUT for block in blocks(TOPICS[name])}
    kept = []
    for name in sorted(set(TOPICS) - set(HELD_OUT)):
        fresh = [block for block in blocks(TOPICS[name]) if block not in seen]
        seen.update(fresh)
        kept.append("\n\n".join(fresh))
    return [topic for topic in kept if topic]


def train_tokenizer(texts: Sequence[str]) -> Any:
    """A byte-level BPE of ``VOCABULARY`` tokens that begins every text with the BOS token."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", special_tokens=[(BOS, tokenizer.token_to_id(BOS))]
    )
    wrap: Any = transformers.PreTrainedTokenizerFast
    return wrap(
        tokenizer_object=tokenizer,
        bos_token=BOS,
        eos_token=EOS,
        pad_token=PAD,
        model_max_length=CONTEXT,
    )


# ---------------------------------------------------------------------------------- training


def text_ids(tokenizer: Any, texts: Sequence[str]) -> list[torch.Tensor]:
    """Token ids of each text, without special tokens."""
    return [
        torch.tensor(tokenizer.encode(t, add_special_tokens=False, verbose=False)) for t in texts
    ]


def windows(
    ids: Sequence[torch.Tensor], starts: Sequence[int], *, rows: int, length: int, seed: int
) -> Iterator[torch.Tensor]:
    """Endless batches int64[rows, length] of the joined text, each row behind a BOS token."""
    stream = torch.cat(list(ids))
    generator = torch.Generator().manual_seed(seed)
    allowed = torch.tensor([s for s in starts if s + length - 1 <= len(stream)])
    while True:
        chosen = allowed[torch.randint(len(allowed), (rows,), generator=generator)]
        body = torch.stack([stream[s : s + length - 1] for s in chosen.tolist()])
        yield torch.cat([torch.ones(rows, 1, dtype=torch.int64), body], dim=1)


def mixed(*streams: Iterator[torch.Tensor]) -> Iterator[torch.Tensor]:
    """Batches of several streams, one below the other."""
    for parts in zip(*streams, strict=True):
        yield torch.cat(parts)


def entry_starts(ids: Sequence[torch.Tensor]) -> list[int]:
    """Where each text begins in the joined stream."""
    return [sum(len(t) for t in ids[:i]) for i in range(len(ids))]


def rate_at(step: int, steps: int, peak: float) -> float:
    """Learning rate: forty steps of warm-up, then a cosine down to a twentieth."""
    if step < 40:
        return peak * (step + 1) / 40
    return peak * (0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - 40) / (steps - 40))))


def train(
    model: torch.nn.Module,
    batches: Iterator[torch.Tensor],
    *,
    steps: int,
    rate: float,
    checkpoint: Path,
) -> float:
    """Train the parameters that require a gradient; return the last loss in nats a token.

    A checkpoint every hundred steps holds weights, optimizer and step, so a stopped run goes on
    with the batches it would have seen.
    """
    wanted = {n: p for n, p in model.named_parameters() if p.requires_grad}
    optimizer = torch.optim.AdamW(wanted.values(), lr=rate, betas=(0.9, 0.98), weight_decay=0.05)
    first, loss_value = restore(checkpoint, wanted, optimizer)
    for _ in range(first):
        next(batches)
    began = time.monotonic()
    model.train()
    for step in range(first, steps):
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps, rate)
        loss_value = one_step(model, next(batches), optimizer)
        if (step + 1) % 100 == 0 or step + 1 == steps:
            save(checkpoint, wanted, optimizer, step + 1, loss_value)
            elapsed = time.monotonic() - began
            say(f"  step {step + 1}/{steps}: {loss_value:.3f} nats, {elapsed:.0f} s")
    model.eval()
    return loss_value


def one_step(
    model: torch.nn.Module, batch: torch.Tensor, optimizer: torch.optim.Optimizer
) -> float:
    """One forward, backward and update; the loss in nats a token."""
    loss: torch.Tensor = model(input_ids=batch, labels=batch).loss
    optimizer.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_([p for g in optimizer.param_groups for p in g["params"]], 1.0)
    optimizer.step()
    return loss.item()


def save(path: Path, wanted: Any, optimizer: Any, step: int, loss: float) -> None:
    """Write a checkpoint whole or not at all."""
    state = {"weights": dict(wanted), "optimizer": optimizer.state_dict()}
    torch.save({**state, "step": step, "loss": loss}, path.with_suffix(".tmp"))
    path.with_suffix(".tmp").replace(path)


def restore(path: Path, wanted: Any, optimizer: Any) -> tuple[int, float]:
    """Load a checkpoint if there is one; the steps done and the last loss."""
    if not path.exists():
        return 0, math.inf
    state = torch.load(path, weights_only=True)
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(state["weights"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["loss"])


def new_model() -> transformers.LlamaForCausalLM:
    """An untrained Llama of 0.92 million parameters."""
    torch.manual_seed(SEED)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=344,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    return transformers.LlamaForCausalLM(config)


def with_adapter(model: transformers.LlamaForCausalLM) -> peft.PeftModel:
    """The model with a fresh LoRA of rank 8 on every linear layer."""
    torch.manual_seed(SEED + 1)
    config = peft.LoraConfig(
        r=8, lora_alpha=16, target_modules="all-linear", task_type="CAUSAL_LM", lora_dropout=0.0
    )
    wrapped = peft.get_peft_model(model, config)
    assert isinstance(wrapped, peft.PeftModel)
    return wrapped


# ----------------------------------------------------------------------------------- prompts


def paragraphs(topic: str) -> list[str]:
    """The running paragraphs of a topic, each as one line."""
    lines = (" ".join(block.split()) for block in blocks(topic))
    return [line for line in lines if len(line) > 60 and "***" not in line and "::=" not in line]


def cut(chance: random.Random, text: str, *, longest: int) -> tuple[str, str]:
    """Split a text at a word boundary into a prompt and the few words that follow it."""
    words = text.split(" ")
    at = chance.randint(3, max(4, min(longest, len(words) - 4)))
    return " ".join(words[:at]), " " + " ".join(words[at : at + 4])


def documentation_prompts(chance: random.Random) -> list[dict[str, str]]:
    """Prompts from the topics the model has not seen."""
    pool = [(name, p) for name in HELD_OUT for p in paragraphs(TOPICS[name])]
    found: dict[str, dict[str, str]] = {}
    while len(found) < DOCUMENTATION_PROMPTS:
        name, text = chance.choice(pool)
        prompt, completion = cut(chance, text, longest=45)
        found[prompt] = {
            "prompt": prompt, "completion": completion, "style": "documentation", "topic": name,
        }  # fmt: skip
    return list(found.values())


def log_prompts(chance: random.Random) -> list[dict[str, str]]:
    """Prompts from a voyage the adapter has not seen."""
    found: dict[str, dict[str, str]] = {}
    for entry in ship_log(SEED + 9, 4 * LOG_PROMPTS):
        prompt, completion = cut(chance, entry, longest=35)
        found[prompt] = {"prompt": prompt, "completion": completion, "style": "log"}
    return list(found.values())[:LOG_PROMPTS]


def write_prompts(path: Path) -> None:
    """Write the shipped prompts, the two styles mixed."""
    chance = random.Random(SEED + 3)
    rows = documentation_prompts(chance) + log_prompts(chance)
    chance.shuffle(rows)
    path.write_text("".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows), "utf-8")


# -------------------------------------------------------------------------------------- main


def say(text: str) -> None:
    """Progress, on standard error."""
    print(text, file=sys.stderr, flush=True)


def versions() -> dict[str, str]:
    """What the bytes depend on, beside this file."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "transformers": transformers.__version__,
        "tokenizers": tokenizers.__version__,
        "peft": peft.__version__,
        "topics_sha256": hashlib.sha256("\0".join(training_topics()).encode()).hexdigest(),
    }


def make(out: Path, work: Path) -> dict[str, Any]:
    """Train and write everything into ``out``; return what ``demo.json`` says."""
    documentation, log = training_topics(), ship_log(SEED + 5, 900)
    tokenizer = train_tokenizer([*documentation, *log[:300]])
    tokenizer.save_pretrained(out / "model")

    say(f"base model: {BASE_STEPS} steps")
    ids = text_ids(tokenizer, documentation)
    starts = range(sum(map(len, ids)))
    batches = windows(ids, starts, rows=BASE_ROWS, length=CONTEXT, seed=SEED)
    model: Any = new_model()
    base_loss = train(model, batches, steps=BASE_STEPS, rate=BASE_RATE, checkpoint=work / "base.pt")
    # The adapter is trained on the weights that ship, so they are rounded first.
    model.half().save_pretrained(out / "model")
    model.float()

    # Some documentation among the log entries: an adapter that forgets the base is no example.
    say(f"adapter: {ADAPTER_STEPS} steps")
    log_ids = text_ids(tokenizer, [entry + "\n" for entry in log])
    batches = mixed(
        windows(
            log_ids, entry_starts(log_ids), rows=LOG_ROWS, length=ADAPTER_LENGTH, seed=SEED + 1
        ),
        windows(ids, starts, rows=KEPT_ROWS, length=ADAPTER_LENGTH, seed=SEED + 2),
    )
    adapted = with_adapter(model)
    log_loss = train(
        adapted, batches, steps=ADAPTER_STEPS, rate=ADAPTER_RATE, checkpoint=work / "adapter.pt"
    )
    save_adapter(adapted, out / "adapter")
    write_prompts(out / "prompts.jsonl")
    return {
        "seed": SEED,
        "base_loss_nats": round(base_loss, 4), "adapter_loss_nats": round(log_loss, 4),
        "parameters": sum(p.numel() for p in model.parameters() if not p.requires_grad),
        **versions(),
    }  # fmt: skip


def save_adapter(adapted: peft.PeftModel, folder: Path) -> None:
    """Write the adapter in fp16, without the path of the machine that trained it.

    Options that are not set are left out: older versions of PEFT warn of those that they lack.
    """
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            parameter.data = parameter.data.half()
    adapted.save_pretrained(str(folder))
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    loaded = json.loads(path.read_text("utf-8"))
    config = {name: value for name, value in loaded.items() if value is not None}
    config["base_model_name_or_path"] = "model"
    config["target_modules"] = sorted(config["target_modules"])
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", "utf-8")


def main() -> None:
    """Read the options, make the demo, say how large it is."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("python/forwardcache/demo"))
    parser.add_argument("--work", type=Path, required=True, help="folder for checkpoints")
    parser.add_argument("--fresh", action="store_true", help="ignore the checkpoints there")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    options.work.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    told = make(options.out, options.work)
    (options.out / "demo.json").write_text(json.dumps(told, indent=2) + "\n", "utf-8")
    assets = [p for p in options.out.rglob("*") if p.is_file() and p.suffix != ".py"]
    for path in assets:
        path.chmod(0o644)  # safetensors writes for its owner alone; an installed file is for all
    say(f"{options.out}: {sum(p.stat().st_size for p in assets) / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
