#!/usr/bin/env bash
# tokenizers 0.23.3, transformers 5.24.0.
#
# Expected: the settings that make a tokenizer draw its segmentation (subword regularisation) are part of the tokenizer:
# they are in tokenizer.json, or at least a wrapper that is given the object keeps them.
# Seen: BPE's dropout is written to the file and kept. Unigram's alpha and nbest_size are not: neither save(), to_str(),
# copying nor PreTrainedTokenizerFast(tokenizer_object=...), which copies, has them afterwards, and nothing says so.
#
# Whom it bites: whoever trains with a SentencePiece-like Unigram model and subword regularisation: the saved or wrapped
# tokenizer always takes the best segmentation, so the training ran without the noise that its log names.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 tokenizers==0.23.3
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" - <<'PY'
import copy
import json

from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

TEXT = "aa" * 12


def segmentations(tokenizer):
    return len({tuple(tokenizer.encode(TEXT).tokens) for _ in range(200)})


def ways(make):
    own = Tokenizer(make())
    yield "as made", own
    yield "through its JSON", Tokenizer.from_str(own.to_str())
    yield "copied", copy.deepcopy(own)
    yield "in transformers", PreTrainedTokenizerFast(tokenizer_object=own).backend_tokenizer


def bpe():
    return models.BPE(vocab={"a": 0, "aa": 1}, merges=[("a", "a")], dropout=0.5)


def unigram():
    return models.Unigram([("a", -1.0), ("aa", -1.5)], 0, alpha=0.1, nbest_size=8)


counts = {}
for name, make in (("BPE, dropout", bpe), ("Unigram, alpha", unigram)):
    for way, tokenizer in ways(make):
        counts[name, way] = segmentations(tokenizer)
        print(f"{name:<15} {way:<17} segmentations in 200 calls: {counts[name, way]}")
    print(" " * 15, "in the JSON:", sorted(json.loads(Tokenizer(make()).to_str())["model"]))
drawn = {way: counts["Unigram, alpha", way] > 1 for _, way in counts}
assert all(count > 1 for (name, _), count in counts.items() if name.startswith("BPE"))
assert drawn == {"as made": True, "through its JSON": False, "copied": False, "in transformers": False}
print("as described: BPE goes on drawing, Unigram stops without a word")
PY
