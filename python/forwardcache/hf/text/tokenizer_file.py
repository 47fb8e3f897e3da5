"""Whether a loaded tokenizer still reads text as its ``tokenizer.json`` does.

transformers 5 takes vocabulary and merges from that file and, for many classes, the normalizer and
the pre-tokenizer from the class that ``tokenizer_config.json`` names. Where the two disagree, text
becomes tokens that the model's training never made, and nothing says so: so it is measured.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import transformers
from tokenizers import Tokenizer

_FILE = "tokenizer.json"

# Digits, letter case, accents in both forms, compatibility forms, runs of white space,
# contractions, punctuation and scripts: what normalizers and pre-tokenizers treat differently.
PROBES = (
    "in 1234 days",
    "Hello WORLD",
    "caf\u00e9 cafe\u0301",
    "\ufb01ne \uff21\uff11",
    "two  spaces\n\n\tand a tab ",
    "don't we've",
    "a_b+c == d.e();",
    "\u4f60\u597d \u3053\u3093\u306b\u3061\u306f \u0645\u0631\u062d\u0628\u0627",
)

_log = logging.getLogger("forwardcache")


def warn_of_other_tokens(folder: str, tokenizer: Any) -> None:
    """Warns, by logging, where a tokenizer reads a probe text otherwise than its file.

    Args:
        folder: Folder that it was loaded from; without a ``tokenizer.json`` nothing is compared.
        tokenizer: What transformers made of it.
    """
    path = Path(folder) / _FILE
    if not path.is_file() or not getattr(tokenizer, "is_fast", False):
        return
    by_file = Tokenizer.from_file(str(path))
    by_file.no_truncation()
    by_file.no_padding()
    for text in PROBES:
        there = by_file.encode(text, add_special_tokens=False)
        here = tokenizer(
            text, add_special_tokens=False, truncation=False, padding=False, verbose=False
        ).input_ids
        if here != there.ids:
            _log.warning(
                "%s: transformers %s makes a tokenizer of the class %s, and that one does not "
                "read text as %s does: %r is %s, by the file %s. To use the file as it is, set "
                '"tokenizer_class" to "PreTrainedTokenizerFast" in tokenizer_config.json',
                *(folder, transformers.__version__, type(tokenizer).__name__, _FILE),
                *(text, tokenizer.convert_ids_to_tokens(here), there.tokens),
            )
            return
