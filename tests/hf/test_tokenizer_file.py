"""Claims: a tokenizer whose class overrides the normalizer or pre-tokenizer of its file is told of,
with an example, when it is loaded; one that reads text as its file does is not.
"""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

from forwardcache.hf import HFBackend
from forwardcache.hf.text.tokenizer_file import PROBES, warn_of_other_tokens


def byte_level(*before: Any, normalizer: Any = None) -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {sign: index for index, sign in enumerate(alphabet)}
    merges = [("1", "2"), ("\u0120", "a"), ("l", "l")]
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    steps = [*before, pre_tokenizers.ByteLevel(add_prefix_space=False)]
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens(["<|endoftext|>"])
    return made


def folder_of(made: Tokenizer, class_name: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    made.save(str(folder / "tokenizer.json"))
    end = "<|endoftext|>"
    settings = {"tokenizer_class": class_name, "bos_token": end, "eos_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def notices(made: Tokenizer, class_name: str, folder: Path, caplog: Any) -> list[str]:
    there = str(folder_of(made, class_name, folder))
    with caplog.at_level(logging.WARNING, logger="forwardcache"):
        warn_of_other_tokens(there, AutoTokenizer.from_pretrained(there))
    return [each.getMessage() for each in caplog.records if each.name == "forwardcache"]


DIGITS = pre_tokenizers.Digits(individual_digits=True)


@pytest.mark.parametrize(
    ("made", "class_name", "example"),
    [
        (byte_level(DIGITS), "GPT2Tokenizer", "'in 1234 days'"),
        (byte_level(DIGITS), "GPT2TokenizerFast", "'in 1234 days'"),
        (byte_level(DIGITS, normalizer=normalizers.Lowercase()), "Qwen2Tokenizer", "'Hello WORLD'"),
        (byte_level(), "GPTNeoXTokenizer", "caf"),
    ],
)
def test_a_class_that_overrides_its_file_is_told_of_with_an_example(
    made: Tokenizer, class_name: str, example: str, tmp_path: Path, caplog: Any
) -> None:
    (notice,) = notices(made, class_name, tmp_path, caplog)
    assert example in notice
    assert str(tmp_path) in notice


@pytest.mark.parametrize(
    ("made", "class_name"),
    [
        (byte_level(DIGITS), "PreTrainedTokenizerFast"),
        (byte_level(DIGITS, normalizer=normalizers.NFC()), "PreTrainedTokenizerFast"),
        (byte_level(), "GPT2Tokenizer"),
    ],
)
def test_a_tokenizer_that_reads_as_its_file_does_is_not(
    made: Tokenizer, class_name: str, tmp_path: Path, caplog: Any
) -> None:
    assert notices(made, class_name, tmp_path, caplog) == []


# What a class overrides depends on the version of transformers.
@pytest.mark.parametrize("class_name", ["LlamaTokenizer", "CohereTokenizer"])
def test_a_class_is_told_of_where_and_only_where_tokens_differ(
    class_name: str, tmp_path: Path, caplog: Any
) -> None:
    made = byte_level(DIGITS)
    found = notices(made, class_name, tmp_path, caplog)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    differing = [
        text
        for text in PROBES
        if loaded.encode(text, add_special_tokens=False) != made.encode(text).ids
    ]
    assert bool(found) == bool(differing)


def test_truncation_and_padding_in_the_file_are_no_difference(tmp_path: Path, caplog: Any) -> None:
    made = byte_level(DIGITS)
    made.enable_truncation(3)
    made.enable_padding(length=16)
    assert notices(made, "PreTrainedTokenizerFast", tmp_path, caplog) == []


def test_loading_a_model_tells(folders: dict[str, Path], tmp_path: Path, caplog: Any) -> None:
    copied_model = Path(shutil.copytree(folders["model"], tmp_path / "model"))
    made = Tokenizer.from_file(str(copied_model / "tokenizer.json"))
    made.normalizer = normalizers.Lowercase()
    made.save(str(copied_model / "tokenizer.json"))
    settings = json.loads((copied_model / "tokenizer_config.json").read_text())
    settings |= {"tokenizer_class": "GPT2Tokenizer"}
    (copied_model / "tokenizer_config.json").write_text(json.dumps(settings))
    with caplog.at_level(logging.WARNING, logger="forwardcache"):
        HFBackend.load(copied_model)
    assert any("Hello WORLD" in record.getMessage() for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="forwardcache"):
        HFBackend.load(folders["model"])
    assert not [each for each in caplog.records if each.name == "forwardcache"]
