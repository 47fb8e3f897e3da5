#!/usr/bin/env bash
# transformers 5.24.0 with torch 2.15.0.
#
# Expected: in a causal language model the logits after a token are the same whether or not text follows.
# Seen: Doge chooses which keys a token may see by scores over all keys of the call as soon as there are more of them
# than keep_window_size; so a token's logits, also near the beginning, are others once the text has grown past it. What
# follows doesn't matter, only that it is there. Below the window's length, all is as expected. No error and no warning.
#
# Whom it bites: scoring by prefixes, rolling windows, padded batches and caches all give other values than one forward
# of the whole text: 1.5 nats here. A test of causality that changes a later token sees nothing.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.24.0
cd "$work"
HF_HUB_OFFLINE=1 "$work/venv/bin/python" - <<'PY'
import torch
from transformers import DogeConfig, DogeForCausalLM

torch.manual_seed(0)
model = DogeForCausalLM(
    DogeConfig(
        vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, keep_window_size=8,
    )
).eval()
with torch.no_grad():
    for each in model.parameters():
        if each.ndim == 2:
            each.mul_(6)
ids = torch.tensor([[(7 * n + 3) % 64 for n in range(40)]])
with torch.inference_mode():
    whole = model(input_ids=ids).logits[0].log_softmax(-1)

    def apart(begin, end):
        """How far the last token of ids[:end] is in a text of that length from where it stands in one of begin."""
        long, short = (model(input_ids=ids[:, :length]).logits[0, end - 1].log_softmax(-1) for length in (begin, end))
        return float((long - short).abs().max())

    within, beyond = apart(8, 6), apart(40, 16)
    other = ids.clone()
    other[0, -1] = 5
    later = float((model(input_ids=other).logits[0, :-1].log_softmax(-1) - whole[:-1]).abs().max())
print(f"nats: within the window {within:.1g}, beyond it {beyond:.2g}, for another last token {later:.1g}")
assert within < 1e-4 and later < 1e-4 and beyond > 0.1, "this behaviour has changed"
PY
