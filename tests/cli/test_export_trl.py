"""Claims: ``export reference`` gives what ``DPOTrainer`` of TRL precomputes for the same rows,
tokenizer and dtype: texts and chats, with and without BOS, with EOS there already or added by the
tokenizer, merges across the boundary, cut completions, rows that TRL drops; base, and an adapter
that is trained on. A trainer that is given the columns has the loss of one with a reference model.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, load_dataset
from peft import PeftModel
from tokenizers import processors
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer

from forwardcache.jobs.export.preference import CHOSEN, REJECTED
from tests.cli.conftest import Run, read_rows
from tests.hf import tiny
from tests.tolerance import TOLERANCE

Rows = list[dict[str, Any]]

CHAT = (
    "{% for turn in messages %}<s>{{ turn.role }}: {{ turn.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant: {{ opening }}{% endif %}"
)
TEXTS: Rows = [
    {"prompt": "the quick brown", "chosen": " fox", "rejected": " dog jumps over"},
    {"prompt": "hello wor", "chosen": "ld", "rejected": "k"},
    {"prompt": "over the ", "chosen": "lazy dog</s>", "rejected": "fox"},
    {"prompt": "", "chosen": "hello world", "rejected": "the dog"},
    {"prompt": "again", "chosen": " and again, the dog" * 8, "rejected": ", no"},
    {"prompt": "a prompt that alone is too long " * 2, "chosen": " a", "rejected": " b"},
]


def said(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


CHATS: Rows = [
    {
        "prompt": [said("system", "hello"), said("user", "the fox?")],
        "chosen": [said("assistant", "the quick brown fox")],
        "rejected": [said("assistant", "no"), said("user", "the dog"), said("assistant", "dog")],
        "chat_template_kwargs": {"opening": ""},
    },
    {
        "prompt": [said("user", "hello")],
        "chosen": [said("assistant", "world " * 40)],
        "rejected": [said("assistant", "")],
        "chat_template_kwargs": {"opening": "the "},
    },
]


def reading(kind: str) -> Any:
    """A tokenizer: with BOS, with neither BOS nor anything, or with an EOS that it adds."""
    made = tiny.tokenizer(bos=kind != "plain")
    if kind == "ends":
        made.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
        )
    made.chat_template = CHAT
    return made


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("trl")
    model = tiny.llama()
    for kind in ("begins", "plain", "ends"):
        model.save_pretrained(root / kind)
        reading(kind).save_pretrained(root / kind)
    tiny.with_lora(model, lora_dropout=0.0).save_pretrained(root / "adapter")
    return root


def trainer(
    folder: Path, rows: Rows | Dataset, kind: Any = DPOTrainer, **options: Any
) -> tuple[Any, Any]:
    """A trainer on a CPU in float32, and its model."""
    adapter, model = options.pop("adapter", None), options.pop("model", None)
    own = {name: options.pop(name) for name in ("ref_model",) if name in options}
    config = DPOConfig(
        output_dir=str(folder / "out"), report_to=[], use_cpu=True, bf16=False,
        disable_tqdm=True, per_device_train_batch_size=2, **options,
    )  # fmt: skip
    if model is None:
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter, is_trainable=True)
    data = rows if isinstance(rows, Dataset) else Dataset.from_list(rows)
    reads: Any = AutoTokenizer
    made = kind(
        model=model, args=config, train_dataset=data,
        processing_class=reads.from_pretrained(folder), **own,
    )  # fmt: skip
    return made, model


def written(path: Path, rows: Sequence[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


@pytest.mark.parametrize(
    ("kind", "rows"),
    [("begins", TEXTS), ("plain", TEXTS), ("ends", TEXTS), ("begins", CHATS), ("adapter", TEXTS)],
    ids=["bos", "plain", "eos", "chat", "adapter"],
)
def test_the_sums_are_those_that_trl_precomputes(
    run: Run, folders: Path, tmp_path: Path, kind: str, rows: Rows
) -> None:
    model, out = folders / "begins" if kind == "adapter" else folders / kind, tmp_path / "out.jsonl"
    adapter = {"adapter": folders / kind} if kind == "adapter" else {}
    length = 24 if rows is TEXTS else 52
    theirs, _ = trainer(model, rows, precompute_ref_log_probs=True, max_length=length, **adapter)
    words = ["--adapter", folders / kind] if adapter else []
    ended = run(
        "export", "reference", "--model", model, *words, "--dtype", "float32", "--max-length",
        length, "--prompts", written(tmp_path / "pairs.jsonl", rows), "--on-error", "skip",
        "--out", out, "--format", "json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    ours, expected, told = read_rows(out), list(theirs.train_dataset), json.loads(ended.out)
    # TRL drops the row whose prompt is too long; ours is told.
    assert len(ours) == len(expected) == len(rows) - (rows is TEXTS)
    assert [one["line"] for one in told["skipped"]] == [6] * (rows is TEXTS)
    sizes = [len(row["prompt_ids"]) + len(row[name]) for row in expected
             for name in ("chosen_ids", "rejected_ids")]  # fmt: skip
    assert told["cut_completions"] == sum(size > length for size in sizes) > 0
    for row, own, its in zip(rows, ours, expected, strict=False):
        assert {name: own[name] for name in row} == row
        for name in (CHOSEN, REJECTED):
            assert own[name] == pytest.approx(its[name], abs=length * TOLERANCE), (row, name)


class GivenReference(DPOTrainer):  # type: ignore[misc,unused-ignore]
    """As on the page about logits for a trainer."""

    def _precompute_ref_logps(self, dataset: Any, name: str, batch_size: int) -> Any:
        return dataset


def test_a_trainer_that_is_given_the_columns_has_the_same_loss(
    run: Run, folders: Path, tmp_path: Path
) -> None:
    model, out = folders / "begins", tmp_path / "rows.parquet"
    pairs = written(tmp_path / "pairs.jsonl", TEXTS[:2])
    ended = run("export", "reference", "--model", model, "--prompts", pairs, "-o", out)
    assert ended.code == 0, ended.err
    student = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    with torch.no_grad():
        student.lm_head.weight.mul_(3.0)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    whole, policy = trainer(model, TEXTS[:2], model=copy.deepcopy(student), ref_model=reference)
    read = load_dataset(
        "parquet", data_files=str(out), split="train", cache_dir=str(tmp_path / "cache")
    )
    given, same = trainer(
        model, read, kind=GivenReference, model=student, precompute_ref_log_probs=True
    )
    assert given.ref_model is None
    losses = [
        each.compute_loss(own, next(iter(each.get_train_dataloader()))).item()
        for each, own in ((whole, policy), (given, same))
    ]
    assert losses[0] != pytest.approx(0.6931, abs=1e-2)
    assert losses[1] == pytest.approx(losses[0], abs=1e-3)
