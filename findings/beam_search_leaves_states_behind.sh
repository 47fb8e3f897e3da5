#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): beam search with MiniMax and RecurrentGemma.
#
# Expected: a beam's score (sequences_scores, length_penalty 0) is the log-probability that the model gives its tokens,
# and a model whose state can't follow the beams refuses, as RWKV and xLSTM do.
# Seen: so it is with Llama, Jamba and Mamba 2. As beams change places, MiniMax's keys and values follow, but the states
# of its linear attention stay where they are; RecurrentGemma's states lie in its layers and stay too. From then on a beam
# is scored after another one's text. Scores are off by a nat and more, and other sequences win. Nothing raises or warns.
# Greedy decoding and sampling are right.
#
# Whom it bites: whoever searches with beams or compares such scores between models.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import warnings

import torch
from transformers import AutoConfig, AutoModelForCausalLM

PROMPT = torch.tensor([[3 + (37 * place) % 90 for place in range(30)]])
SIZES = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=4, num_attention_heads=4,
             pad_token_id=0, bos_token_id=1, eos_token_id=2)
MODELS = {
    "llama": {},
    "jamba": dict(num_key_value_heads=2, attn_layer_period=2, attn_layer_offset=1, num_experts=2),
    "mamba2": dict(num_heads=4, head_dim=16, n_groups=1, state_size=16),
    "minimax": dict(num_key_value_heads=2, head_dim=8, num_local_experts=2, block_size=8,
                    layer_types=["linear_attention", "full_attention"] * 2),
    "recurrent_gemma": dict(num_key_value_heads=1, lru_width=32, attention_window_size=64),
}
LEFT_BEHIND = {"minimax", "recurrent_gemma"}


def model_of(kind):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | MODELS[kind])).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.06:
                parameter.mul_(8.0)
    return model


def logprobs(model, sequences):
    """The log-probability of what follows the prompt, by one forward over all of it."""
    logits = model(input_ids=sequences, use_cache=False).logits[:, :-1].log_softmax(-1)
    tokens = logits.gather(-1, sequences[:, 1:, None])[..., 0]
    return tokens[:, PROMPT.shape[1] - 1 :].sum(-1)


def off(model, **way):
    """How far the scores are from the log-probabilities, in nats."""
    found = model.generate(
        PROMPT, attention_mask=torch.ones_like(PROMPT), max_new_tokens=12, min_new_tokens=12, do_sample=False,
        return_dict_in_generate=True, output_scores=True, **way)
    if found.get("sequences_scores") is not None:
        scores = found.sequences_scores
    else:
        scores = model.compute_transition_scores(found.sequences, found.scores, normalize_logits=True).sum(-1)
    return float((scores - logprobs(model, found.sequences)).abs().max())


apart = {}
with torch.no_grad(), warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for kind in MODELS:
        model = model_of(kind)
        # No token ends a sequence, so none is left out of the scores.
        model.generation_config.eos_token_id = None
        apart[kind] = off(model), off(model, num_beams=3, num_return_sequences=3, length_penalty=0.0)
        print(f"{kind}: scores are {apart[kind][0]:.1g} nats off in greedy decoding, {apart[kind][1]:.1g} with 3 beams")
words = [str(each.message) for each in warned if "beam" in str(each.message) or "cache" in str(each.message)]
print("said about beams or caches:", words)
assert not words
for kind, (greedy, beams) in apart.items():
    assert greedy < 1e-3, kind
    assert (beams > 0.1) is (kind in LEFT_BEHIND), kind
    assert beams > 0.1 or beams < 1e-3, kind
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
