"""Measures scoring compared with its peers and writes the tables: ``python -m benches.scoring``.

The question: what does the log-probability of a completion cost, compared with one forward a
request with a full log-softmax, and with lm-evaluation-harness at each batch size? Same requests,
one process, one thread; every sample begins with an empty cache. The models are random, since
weights decide nothing about time.
"""

import contextlib
import gc
import logging
import os
import random
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Before torch is imported: spinning threads cost several times the work itself on a busy machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from benches.machine import description
from benches.measure import Samples, turned
from benches.sections import publish, verdict
from forwardcache.hf import HFBackend

TITLE = "## Scoring"
PACKAGES = ["torch", "transformers", "peft", "lm-eval"]
OURS, SINGLE, HFLM = "forwardcache", "one at a time, full log-softmax", "lm-eval HFLM"
BATCH_SIZES = [8, 16, 64]
PREFIX_TOKENS, COMPLETIONS = 192, 32
PEAK_MIB = 64

# Measured by hand on the machine above, apart from this run.
LIMIT = [
    "### What limits it",
    "",
    "Found once with torch's profiler and bare calls of the model, not by this command.",
    "",
    "- Tiny: of 1.0 s, matrix products take 0.47 (136 GFLOP/s; this CPU gives 165 at best and 131 "
    "to a single row of 84 tokens), attention 0.19, elementwise operations of the model 0.25, "
    "tokenizing 0.07. The model's kernels alone take 0.93 s, so about 2.5 x one at a time is the "
    "most that batching can give this shape here.",
    "- Large: the body one row at a time takes 6.7 s, in padded batches 5.7, packed 4.9 to 5.2.",
    "- Padded batches (budget 1,024, cap 10 %) on the same day: tiny 2.21 x, large 1.37 x. "
    "Packed end to end: tiny 2.28 x, large 1.63 x.",
    "- Packed budgets, tiny: 512 2.15 x, 768 2.19 x, 1,536 2.32 x, 2,048 2.39 x, 3,072 2.44 x and "
    "2.38 x; large: 768 1.60 x, 1,536 1.62 x, 2,048 1.66 x.",
    "- Caps of 5, 10 and 20 % on padding differ by less than the noise at every budget.",
    "",
]

Request = tuple[str, str]
Score = Callable[[Sequence[Request]], list[float]]
"""The log-probability of each completion, computed anew."""


@dataclass(frozen=True)
class Model:
    """A model under test, with the number of requests it gets and of rounds they are repeated."""

    title: str
    causal_lm: Any
    tokenizer: Any
    requests: list[Request]
    completions: list[Request]
    rounds: int


def tiny(rounds: int) -> Model:
    config = LlamaConfig(
        vocab_size=8192,
        hidden_size=128,
        intermediate_size=352,
        num_hidden_layers=8,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    return model("tiny", config, 256, rounds)


def large(rounds: int) -> Model:
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=30,
        num_attention_heads=9,
        num_key_value_heads=3,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return model("large", config, 32, rounds)


def model(name: str, config: LlamaConfig, requests: int, rounds: int) -> Model:
    torch.manual_seed(0)
    lora = LoraConfig(r=8, lora_alpha=16, target_modules=["q_proj", "v_proj"])
    adapted: Any = get_peft_model(LlamaForCausalLM(config), lora)
    millions = sum(parameter.numel() for parameter in adapted.parameters()) / 1e6
    generator = random.Random(0)
    return Model(
        f"{name}, {millions:.1f} M, vocabulary {config.vocab_size:,}, {requests} requests",
        adapted.eval(),
        words(config.vocab_size),
        [request(generator, config.vocab_size) for _ in range(requests)],
        multiple_choice(generator, config.vocab_size),
        rounds,
    )


def words(vocab_size: int) -> Any:
    """A tokenizer whose token ``n`` is the word ``wn``, so that lengths are what the bench says."""
    inner = Tokenizer(models.WordLevel({f"w{number}": number for number in range(vocab_size)}))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    kind: Any = PreTrainedTokenizerFast
    return kind(tokenizer_object=inner, eos_token="w0", pad_token="w0")


def text(generator: random.Random, vocab_size: int, tokens: int) -> str:
    return " ".join(f"w{generator.randrange(1, vocab_size)}" for _ in range(tokens))


def request(generator: random.Random, vocab_size: int) -> Request:
    """8 to 160 tokens, of which up to 16 are the completion."""
    tokens = generator.randint(8, 160)
    scored = generator.randint(1, min(16, tokens - 1))
    prompt = text(generator, vocab_size, tokens - scored)
    return prompt, " " + text(generator, vocab_size, scored)


def multiple_choice(generator: random.Random, vocab_size: int) -> list[Request]:
    prompt = text(generator, vocab_size, PREFIX_TOKENS)
    return [
        (prompt, " " + text(generator, vocab_size, generator.randint(1, 12)))
        for _ in range(COMPLETIONS)
    ]


# Contenders


def single(under_test: Model) -> Score:
    def score(requests: Sequence[Request]) -> list[float]:
        return [one(*request) for request in requests]

    @torch.inference_mode()
    def one(prompt: str, completion: str) -> float:
        ids = torch.tensor([under_test.tokenizer(prompt + completion)["input_ids"]])
        scored = len(under_test.tokenizer(completion)["input_ids"])
        logprobs = under_test.causal_lm(input_ids=ids).logits.log_softmax(-1)
        chosen = logprobs[0, :-1].gather(-1, ids[0, 1:, None])
        return float(chosen[-scored:].sum())

    return score


def ours(under_test: Model) -> Score:
    def score(requests: Sequence[Request]) -> list[float]:
        return backend(under_test).logprob_of_batch(requests)

    return score


def backend(under_test: Model) -> HFBackend:
    return HFBackend(under_test.causal_lm, under_test.tokenizer)


def hflm(under_test: Model, batch_size: int | str) -> Score:
    from lm_eval.api.instance import Instance  # type: ignore[import-untyped]
    from lm_eval.models import huggingface  # type: ignore[import-untyped]

    harness = huggingface.HFLM(
        pretrained=under_test.causal_lm,
        tokenizer=under_test.tokenizer,
        backend="causal",
        batch_size=batch_size,
        max_length=512,
    )

    def score(requests: Sequence[Request]) -> list[float]:
        instances = [
            Instance("loglikelihood", {}, request, number)
            for number, request in enumerate(requests)
        ]
        return [value for value, _ in harness.loglikelihood(instances, disable_tqdm=True)]

    return score


def contenders(under_test: Model, batch_sizes: Sequence[int | str]) -> dict[str, Score]:
    peers = {hflm_name(size): hflm(under_test, size) for size in batch_sizes}
    return {OURS: ours(under_test), SINGLE: single(under_test), **peers}


def hflm_name(batch_size: int | str) -> str:
    return f"{HFLM}, batch size {batch_size}"


# Measuring


def measured(scores: dict[str, Score], requests: Sequence[Request], rounds: int) -> Samples:
    """CPU nanoseconds of all requests, round by round; the order turns from round to round."""
    for score in scores.values():
        score(requests[:2])
    samples: dict[str, list[float]] = {name: [] for name in scores}
    for number in range(rounds):
        for name in turned(list(scores), number):
            gc.collect()
            began = time.thread_time_ns()
            scores[name](requests)
            samples[name].append(time.thread_time_ns() - began)
    return Samples(samples)


def refuse_other_values(scores: dict[str, Score], requests: Sequence[Request]) -> None:
    """Ends the process if they don't compute the same."""
    truth = scores[SINGLE](requests)
    for name, score in scores.items():
        for value, true in zip(score(requests), truth, strict=True):
            if abs(value - true) > 1e-3:
                sys.exit(f"{name} gives {value} nats where one at a time gives {true}")


def peak_mib(score: Score, requests: Sequence[Request]) -> float:
    """Largest resident memory during the call, beyond what was resident before it, in MiB.

    The kernel's high-water mark (VmHWM), reset before; the allocator gives back first what it holds
    free, and maps every tensor anew, so that nothing is served from memory counted before.
    """
    import ctypes

    libc = ctypes.CDLL("libc.so.6")
    mmap_threshold_bytes = -3
    libc.mallopt(mmap_threshold_bytes, 1 << 16)
    score(requests[:2])
    gc.collect()
    libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")
    before = status_kib("VmRSS")
    score(requests)
    return (status_kib("VmHWM") - before) / 1024


def status_kib(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def second_call(under_test: Model) -> tuple[float, int]:
    """How many times faster the same call is again, and how many forwards it runs."""
    scorer = backend(under_test)
    ratios = []
    for _ in range(under_test.rounds):
        scorer.weights_changed()
        first_ns = elapsed_ns(lambda: scorer.logprob_of_batch(under_test.requests))
        computed = scorer.stats.forward_passes
        ratios.append(first_ns / elapsed_ns(lambda: scorer.logprob_of_batch(under_test.requests)))
    return statistics.median(ratios), scorer.stats.forward_passes - computed


def elapsed_ns(run: Callable[[], object]) -> int:
    began = time.thread_time_ns()
    run()
    return time.thread_time_ns() - began


# Markdown


def table_lines(title: str, table: dict[str, Samples]) -> list[str]:
    names = {name: None for samples in table.values() for name in samples.of}
    lines = [f"### {title}", "", f"| CPU seconds | {' | '.join(table)} |"]
    lines.append("|---" * (len(table) + 1) + "|")
    for name in names:
        lines.append(f"| {name} | {' | '.join(cell(each, name) for each in table.values())} |")
    return [*lines, ""]


def cell(samples: Samples, name: str) -> str:
    if name not in samples.of:
        return "not measured"
    seconds = f"{samples.ns(name) / 1e9:.3g}"
    return seconds if name == OURS else f"{seconds} ({samples.ratio(name, OURS):.2f} x)"


def best_hflm(samples: Samples) -> float:
    """How many times our time the peer takes at the batch size that suits it best."""
    return min(samples.ratio(name, OURS) for name in samples.of if name.startswith(HFLM))


def figure(name: str, least: float, measured_ratio: float) -> str:
    met = verdict(measured_ratio >= least)
    return f"| {name} | at least {least:g} x | {measured_ratio:.2f} x | {met} |"


def memory_lines(under_test: Model) -> list[str]:
    scores = {OURS: ours(under_test), SINGLE: single(under_test), hflm_name(8): hflm(under_test, 8)}
    peaks = {name: peak_mib(score, under_test.requests) for name, score in scores.items()}
    return [
        f"### Peak extra memory, {under_test.title}",
        "",
        "Resident memory's high-water mark (VmHWM, reset before) beyond what was resident.",
        "",
        "| | MiB | asked | |",
        "|---|---|---|---|",
        f"| {OURS} | {peaks[OURS]:.0f} | at most {PEAK_MIB} | {verdict(peaks[OURS] <= PEAK_MIB)} |",
        *(f"| {name} | {peak:.0f} | | |" for name, peak in peaks.items() if name != OURS),
        "",
    ]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Words of the peers go to standard error, warnings nowhere."""
    logging.disable(logging.WARNING)
    with warnings.catch_warnings(), contextlib.redirect_stdout(sys.stderr):
        warnings.simplefilter("ignore")
        yield


@quiet()
def section(rounds: int) -> str:
    torch.set_num_threads(1)
    small, big = tiny(rounds), large(max(1, rounds // 2))
    # Finding a batch size runs the longest row 5 x 64 times: minutes on the larger model.
    everybody = contenders(small, [*BATCH_SIZES, "auto"]), contenders(big, BATCH_SIZES)
    for under_test, scores in zip((small, big), everybody, strict=True):
        refuse_other_values(scores, under_test.requests[:8])
    requests = {
        each.title: measured(scores, each.requests, each.rounds)
        for each, scores in zip((small, big), everybody, strict=True)
    }
    shared = {
        each.title.partition(",")[0]: measured(contenders(each, [8]), each.completions, each.rounds)
        for each in (small, big)
    }
    of_small, of_big = requests.values()
    again, computed = second_call(small)
    return "\n".join(
        [
            TITLE,
            "",
            *description("benches.scoring", PACKAGES),
            f"- How: one process, one thread, {small.rounds} interleaved rounds, {big.rounds} on "
            "the large model; thread CPU time, medians; `logprob_of`, float32, an empty cache.",
            "- Requests: 8 to 160 tokens, up to 16 of them the completion; none shares a prompt.",
            "- Models: random Llama with LoRA (r=8 on q and v); tiny: width 128, 8 layers; large: "
            "width 576, 30 layers. Ratios depend on the shape: a tiny one tried first (width 192, "
            "5 layers, vocabulary 4,096) gave 1.8 to 1.9 x one at a time.",
            "- In brackets: how many times forwardcache's time it takes, the median of the "
            "rounds' ratios.",
            "- A GPU was not measured.",
            "",
            "| figure | asked | measured | |",
            "|---|---|---|---|",
            figure("tiny, beside one at a time", 2.8, of_small.ratio(SINGLE, OURS)),
            figure("large, beside one at a time", 1.5, of_big.ratio(SINGLE, OURS)),
            figure("tiny, beside HFLM at its best batch size", 1.2, best_hflm(of_small)),
            *(
                figure(
                    f"{COMPLETIONS} completions on a {PREFIX_TOKENS}-token prompt, {name}, "
                    "beside one at a time",
                    6,
                    samples.ratio(SINGLE, OURS),
                )
                for name, samples in shared.items()
            ),
            figure(f"the same call again, tiny ({computed} forwards)", 100, again),
            "",
            *table_lines("All requests", requests),
            *table_lines(f"{COMPLETIONS} completions on a {PREFIX_TOKENS}-token prompt", shared),
            *memory_lines(big),
            *LIMIT,
        ]
    )


if __name__ == "__main__":
    publish(section, __doc__, rounds=5)
