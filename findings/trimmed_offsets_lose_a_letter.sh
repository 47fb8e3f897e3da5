#!/usr/bin/env bash
# tokenizers 0.23.3.
#
# Expected: trim_offsets leaves white space out of a token's offsets and never a letter. With add_prefix_space the space
# that was put before a text is not in it, so the offsets of its first token begin at the first letter.
# Seen: the space is put before every segment between special tokens, and only the very first token of the text is
# spared. Behind a special token the letter that follows it is trimmed in the place of the added space: in "h<s>he" the
# token of "he" has the offsets of "e". Without trimming it has those of "he".
#
# Whom it bites: whoever masks a chat's answer or scores a completion by offsets with RoBERTa's, Longformer's or BART's
# kind of tokenizer: behind each turn's special token the first letter belongs to no token (char_to_token gives None).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet tokenizers==0.23.3
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
from tokenizers import Tokenizer, models, pre_tokenizers, processors

TEXT = "h<s>he"


def tokenizer(trims):
    vocab = {sign: n for n, sign in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    merges = [("h", "e"), ("\u0120", "he"), ("\u0120", "h")]
    for pair in merges:
        vocab.setdefault("".join(pair), len(vocab))
    made = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    made.post_processor = processors.ByteLevel(add_prefix_space=True, trim_offsets=trims)
    made.add_special_tokens(["<s>"])
    return made


plain, trimmed = tokenizer(False).encode(TEXT), tokenizer(True).encode(TEXT)
for name, found in (("not trimmed", plain), ("trimmed", trimmed)):
    print(f"{name:<12}", found.tokens, found.offsets, "token of the second h:", found.char_to_token(4))
assert plain.tokens == trimmed.tokens and not any(sign.isspace() for sign in TEXT)
assert plain.offsets[-1] == (4, 6) and plain.char_to_token(4) is not None
assert trimmed.offsets[0] == (0, 1), "the text's first letter is spared"
assert trimmed.offsets[-1] == (5, 6) and trimmed.char_to_token(4) is None
print("as described: a text without white space loses a letter of its offsets to trimming")
PY
