#!/usr/bin/env bash
# transformers 5.24.0 with tokenizers 0.23.3.
#
# Expected: AutoTokenizer gives the tokens of the folder's tokenizer.json, which is how the model was trained; the class
# named in tokenizer_config.json says how special tokens are handled.
# Seen: for the classes GPT2Tokenizer, GPTNeoXTokenizer, RobertaTokenizer, WhisperTokenizer, Qwen2Tokenizer,
# CohereTokenizer and their "Fast" names only vocabulary and merges are taken from the file. Normalizer and
# pre-tokenizer are those of the class. Folders with a GPT-2 class and a pre-tokenizer that splits digits (a usual pair
# for small and code models) then read "123" as one token instead of three; a lowercasing normalizer is dropped, and
# Qwen2Tokenizer adds NFC. No error and no warning. The generic class, or LlamaTokenizer, keeps the file's.
#
# Whom it bites: whoever scores or fine-tunes such a model: all text with digits has tokens that training never made.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import contextlib
import io
import json
import tempfile
import warnings
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

TEXTS = ["in 123 days", "AB ab", "cafe\u0301"]


def file_tokenizer(lowercases):
    vocab = {sign: n for n, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("1", "2"), ("12", "3"), ("a", "b")]
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    digits = pre_tokenizers.Digits(individual_digits=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    made.decoder = decoders.ByteLevel()
    if lowercases:
        made.normalizer = normalizers.Lowercase()
    made.add_special_tokens(["<|endoftext|>"])
    return made


def loaded(own, class_name):
    folder = Path(tempfile.mkdtemp())
    own.save(str(folder / "tokenizer.json"))
    end = "<|endoftext|>"
    settings = {"tokenizer_class": class_name, "bos_token": end, "eos_token": end, "unk_token": end}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    (folder / "config.json").write_text('{"model_type": "llama"}')
    said = io.StringIO()
    with warnings.catch_warnings(record=True) as warned, contextlib.redirect_stderr(said):
        warnings.simplefilter("always")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        tokens = [tokenizer.tokenize(text) for text in TEXTS]
    return tokens, [str(one.message) for one in warned], said.getvalue().strip()


own = file_tokenizer(lowercases=True)
right = [own.encode(text, add_special_tokens=False).tokens for text in TEXTS]
print("tokenizer.json       ", right)
differs = {}
for name in ("PreTrainedTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "GPTNeoXTokenizer", "RobertaTokenizer",
             "WhisperTokenizer", "CohereTokenizer", "Qwen2Tokenizer"):
    tokens, warned, said = loaded(own, name)
    differs[name] = [one != other for one, other in zip(tokens, right)]
    print(f"{name:<24}", tokens, "warnings:", len(warned), "stderr:", repr(said))
    assert not warned and not said
digits, cases, composed = 0, 1, 2
assert not any(differs["PreTrainedTokenizerFast"] + differs["LlamaTokenizer"])
for name in ("GPT2Tokenizer", "GPTNeoXTokenizer", "RobertaTokenizer", "WhisperTokenizer"):
    assert differs[name][digits] and differs[name][cases], name
for name in ("CohereTokenizer", "Qwen2Tokenizer"):
    assert differs[name][cases] and differs[name][composed], name
print("as described: the class's normalizer and pre-tokenizer replace the file's, without a word")
PY
