#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0).
#
# Expected: from_pretrained may be called from several threads at once, each for a model of its own, as a server or a
# test runner does that warms up several; or it is refused. What one thread loads doesn't depend on the others, and
# least of all what is loaded later, alone.
# Seen: while one model is loaded, tying of weights is off in the whole process. A model with tied embeddings that
# another thread loads meanwhile has a head that is left on the meta device, without memory, and no error or warning.
# The threads may also put the switch back in the wrong order: then it stays off, and every model that this process
# loads later, from one thread, lacks its head too. Only the first forward fails.
#
# Whom it bites: whoever loads models in a pool of threads. One lock around from_pretrained is enough.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import threading
from concurrent.futures import ThreadPoolExecutor

from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

logging.disable_progress_bar()
config = LlamaConfig(
    vocab_size=300, hidden_size=32, intermediate_size=64, num_hidden_layers=12,
    num_attention_heads=4, num_key_value_heads=4, tie_word_embeddings=True,
)
LlamaForCausalLM(config).save_pretrained("tied")


def head(_=None):
    return LlamaForCausalLM.from_pretrained("tied").lm_head.weight.device.type


def heads_of(number, lock=None):
    def one(_):
        if lock is None:
            return head()
        with lock:
            return head()

    with ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, range(number)))


print("one after another:        ", head(), head())
behind_a_lock = heads_of(16, threading.Lock())
print("8 threads behind a lock:  ", behind_a_lock.count("meta"), "of 16 heads on meta")
at_once = heads_of(64)
print("8 threads at once:        ", at_once.count("meta"), "of 64 heads on meta")
print("alone, afterwards:        ", head())
assert behind_a_lock.count("meta") == 0
assert at_once.count("meta") > 0
print("as described: models that are loaded at once lose their heads without a word")
PY
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
