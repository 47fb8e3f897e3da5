"""A tiny model with an adapter in folders, and local tasks of the harness."""

import os

# Before torch is imported: spinning threads cost several times the work itself on a busy machine.
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["OMP_NUM_THREADS"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from tests.hf import tiny

torch.set_num_threads(1)

QUESTIONS = (
    ("the quick brown fox", ["jumps over the lazy dog", "hello world", "and again"], 0),
    ("hello", ["world", "dog", "fox the fox"], 0),
    ("over the lazy dog and again the quick brown fox jumps", ["the", "dog", "over"], 1),
    ("Zzz, ümlaut €!", ["fox", " ", "dog, the dog"], 2),
)
TEXTS = (
    "hello world",
    "the quick brown fox jumps over the lazy dog and again, the dog " * 8,
    "fox",
    "Zzz, ümlaut €! " * 20,
)
TASKS = ("choice", "rolling", "writing")


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """``model`` (with its tokenizer) and ``adapter``."""
    root = tmp_path_factory.mktemp("models")
    base, tokenizer = tiny.llama(), tiny.tokenizer()
    # With an adapter, the harness's own class cuts the logits down to the tokenizer's size.
    base.resize_token_embeddings(len(tokenizer))
    base.save_pretrained(root / "model")
    tokenizer.save_pretrained(root / "model")
    tiny.with_lora(base).save_pretrained(root / "adapter")
    return {name: str(root / name) for name in ("model", "adapter")}


@pytest.fixture(scope="session")
def tasks_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tasks of the three kinds of requests, over data in the same folder."""
    root = tmp_path_factory.mktemp("tasks")
    questions = [{"q": q, "choices": c, "label": label} for q, c, label in QUESTIONS]
    texts = [{"text": text} for text in TEXTS]
    for name, rows in (("questions", questions), ("texts", texts)):
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (root / f"{name}.jsonl").write_text(lines, encoding="utf-8")
    choice: dict[str, Any] = {
        "output_type": "multiple_choice",
        "doc_to_text": "{{q}}",
        "doc_to_choice": "{{choices}}",
        "doc_to_target": "{{label}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }
    rolling: dict[str, Any] = {
        "output_type": "loglikelihood_rolling",
        "doc_to_text": "",
        "doc_to_target": "{{text}}",
        "metric_list": [{"metric": "word_perplexity"}, {"metric": "bits_per_byte"}],
    }
    writing: dict[str, Any] = {
        "output_type": "generate_until",
        "doc_to_text": "{{q}}",
        "doc_to_target": "{{choices[0]}}",
        "generation_kwargs": {"until": ["dog"], "max_gen_toks": 12, "do_sample": False},
        "metric_list": [{"metric": "exact_match"}],
    }
    kinds = zip(TASKS, (choice, rolling, writing), ("questions", "texts", "questions"), strict=True)
    for name, kind, data in kinds:
        task: dict[str, Any] = {
            "task": name,
            "dataset_path": "json",
            "dataset_kwargs": {
                "data_files": {"test": str(root / f"{data}.jsonl")},
                "cache_dir": str(root / "datasets"),
            },
            "test_split": "test",
            **kind,
        }
        (root / f"{name}.yaml").write_text(yaml.safe_dump(task), encoding="utf-8")
    return root
