#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): several tokens after the cache of a recurrent model.
#
# Expected: a forward over the rest of a text, given the cache of its beginning, has the logits of a forward over all of
# it. So a prompt is computed once for many completions, and read in chunks (generate(prefill_chunk_size=...)). What a
# model can't do it refuses; a cache that it isn't given by the right name is an error.
# Seen: Mamba, Falcon Mamba, Jamba and Zamba go on from their state when one token follows, as in generation, but begin
# anew when several do; Jamba's attention goes on, its recurrent layers don't. Mamba 2, Falcon-H1 and Granite's
# hybrid go on in both cases. Nothing raises or warns. Jamba's generate() in chunks of 7 tokens gives other
# logits than in one. And Mamba, Mamba 2 and Falcon Mamba take past_key_values=, the name in use for every other model
# and an attribute of their own output, without a word and ignore it: they begin anew also with one token.
#
# Whom it bites: whoever scores several completions on one kept prompt, or reads long prompts in chunks.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import logging
import warnings

import torch
import transformers
from transformers import AutoConfig, AutoModelForCausalLM

IDS = torch.tensor([[1 + (37 * place) % 90 for place in range(40)]])
KEPT = 25
SIZES = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=4)
HEADS = dict(num_attention_heads=4, num_key_value_heads=2)
MAMBA_2 = dict(num_heads=4, head_dim=16, n_groups=1, state_size=16)
MODELS = {
    "mamba": dict(SIZES),
    "falcon_mamba": dict(SIZES),
    "jamba": SIZES | HEADS | dict(attn_layer_period=2, attn_layer_offset=1, num_experts=2),
    "zamba": SIZES | dict(num_attention_heads=4, num_key_value_heads=4, n_mamba_heads=2, attn_layer_period=2,
                          attn_layer_offset=1, num_hidden_layers=6),
    "mamba2": SIZES | MAMBA_2,
    "falcon_h1": SIZES | HEADS | dict(mamba_n_heads=4, mamba_d_head=16, mamba_d_ssm=64, mamba_d_state=16),
    "granitemoehybrid": SIZES | HEADS | dict(mamba_n_heads=4, mamba_d_head=16, mamba_d_state=16, num_local_experts=2,
                                             num_experts_per_tok=1, layer_types=["mamba", "attention"] * 2),
}
BEGIN_ANEW = {"mamba", "falcon_mamba", "jamba", "zamba"}
IGNORE_NAME = {"mamba", "mamba2", "falcon_mamba"}


def model_of(kind):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **MODELS[kind], pad_token_id=0, bos_token_id=1, eos_token_id=2)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.06:
                parameter.mul_(12.0)
        for name, parameter in model.named_parameters():
            # Fresh weights soon forget what came before.
            if name.endswith("A_log"):
                parameter.sub_(3.0)
    return model


def rest(model, name, step):
    """The logits of what follows a kept beginning, so many tokens at a time."""
    kept, found = model(input_ids=IDS[:, :KEPT], use_cache=True).cache, []
    for first in range(KEPT, IDS.shape[1], step):
        out = model(input_ids=IDS[:, first : first + step], use_cache=True, **{name: kept})
        found.append(out.logits)
    return torch.cat(found, 1).log_softmax(-1)


class Said(logging.Handler):
    def __init__(self):
        super().__init__()
        self.lines = []

    def emit(self, record):
        self.lines.append(record.getMessage())


said = Said()
transformers.logging.get_logger("transformers").addHandler(said)
apart = {}
with torch.no_grad(), warnings.catch_warnings(record=True) as warned:
    warnings.simplefilter("always")
    for kind in MODELS:
        model = model_of(kind)
        whole = model(input_ids=IDS, use_cache=False).logits[:, KEPT:].log_softmax(-1)
        asked = {"one by one": ("cache", 1), "all at once": ("cache", IDS.shape[1] - KEPT)}
        if kind in IGNORE_NAME:
            asked["as past_key_values"] = ("past_key_values", 1)
        apart[kind] = {how: float((rest(model, *way) - whole).abs().max()) for how, way in asked.items()}
        print(kind, "; ".join(f"{how}: {nats:.1g} nats from one forward" for how, nats in apart[kind].items()))
    jamba = model_of("jamba")
    ways = [{}, {"prefill_chunk_size": 7}]
    first = [
        jamba.generate(IDS, attention_mask=torch.ones_like(IDS), do_sample=False, max_new_tokens=1, output_logits=True,
                       return_dict_in_generate=True, **way).logits[0].log_softmax(-1)
        for way in ways
    ]
chunked = float((first[0] - first[1]).abs().max())
print(f"jamba: generate() in chunks: {chunked:.1g} nats from generate()")
words = [line for line in [*said.lines, *(str(each.message) for each in warned)] if "cache" in line or "past" in line]
print("said about caches:", words)
assert not words
for kind, found in apart.items():
    assert found["one by one"] < 1e-3, kind
    assert (found["all at once"] > 2e-3) is (kind in BEGIN_ANEW), kind
    assert found.get("as past_key_values", 1.0) > 0.01, kind
assert chunked > 0.01
print("as described")
PY
"$work/venv/bin/python" seen.py
