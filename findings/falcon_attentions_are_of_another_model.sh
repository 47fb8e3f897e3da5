#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): Falcon with output_attentions=True, and with attn_implementation="eager".
#
# Expected: asking for attentions returns them beside the same logits, and attentions of a causal model are 0 for tokens
# to come. The choice of "sdpa" or "eager" changes rounding alone.
# Seen: 1. Falcon as it is loaded by default (sdpa, rotary positions, as Falcon 7B, 40B and Falcon 2): with
# output_attentions=True the logits move by nats, a token's logits change with what follows it, and a large share of the
# attention lies on tokens to come. Asked for attentions, a layer leaves sdpa for its own formula, which adds the mask
# to the scores. But the mask was made for sdpa and says true and false: it adds 1 to what may be seen. A mask of ones
# doesn't help. Model and attentions are right if the model was loaded as "eager".
# 2. Falcon with ALiBi (as Falcon RW): eager attention, and so every call with attentions, has the bias twice: it is
# put into the mask for all, and eager adds it to the scores as well. So eager is another model than sdpa, which has it
# once. Nothing raises or warns.
#
# Whom it bites: whoever looks at a Falcon's attention, or takes logits and attentions from one call: they are of a model
# that reads ahead. And comparisons in which one side runs eager, for attentions or for exactness. Load rotary Falcons as
# "eager", and don't ask those with ALiBi for attentions.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import warnings
from unittest import mock

import torch
from transformers import FalconConfig, FalconForCausalLM, LlamaConfig, LlamaForCausalLM
from transformers.models.falcon import modeling_falcon

TEXT = torch.tensor([[3 + (37 * place) % 90 for place in range(40)]])
OTHER_END = torch.cat([TEXT[:, :20], TEXT[:, 20:].flip(-1)], dim=1)
SIZES = dict(vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0, bos_token_id=1,
             eos_token_id=2, initializer_range=0.16)


def falcon(attention, **more):
    torch.manual_seed(0)
    return FalconForCausalLM._from_config(FalconConfig(**SIZES, **more), attn_implementation=attention).eval()


def logprobs(model, ids=TEXT, **way):
    with torch.no_grad():
        return model(input_ids=ids, **way).logits.log_softmax(-1)


def apart(one, other):
    """The largest distance, in nats."""
    return float((one - other).abs().max())


def ahead(model):
    """The largest share of attention that lies on tokens to come."""
    with torch.no_grad():
        attentions = model(input_ids=TEXT, output_attentions=True).attentions
    return max(float(each.triu(1).sum(-1).max()) for each in attentions)


def look(name, model, right):
    plain = apart(logprobs(model), right)
    asked = logprobs(model, output_attentions=True)
    asked_masked = logprobs(model, output_attentions=True, attention_mask=torch.ones_like(TEXT))
    causal = apart(logprobs(model, OTHER_END, output_attentions=True)[:, :20], asked[:, :20])
    seen = plain, apart(asked, right), apart(asked_masked, right), causal, ahead(model)
    print(f"{name}: {seen[0]:.2g} nats off, {seen[1]:.2g} with attentions (with a mask {seen[2]:.2g}); another end moves "
          f"the beginning by {seen[3]:.2g}; up to {seen[4]:.0%} of the attention lies ahead")
    return seen


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    torch.manual_seed(0)
    llama = LlamaForCausalLM(LlamaConfig(**SIZES, intermediate_size=64, attn_implementation="eager")).eval()
    look("Llama", llama, logprobs(llama))
    for name, more in {"Falcon": {}, "Falcon, new": dict(new_decoder_architecture=True, num_kv_heads=2)}.items():
        right = logprobs(falcon("eager", **more))
        assert max(look(f"{name}, eager", falcon("eager", **more), right)) < 1e-4
        plain, asked, masked, causal, share = look(f"{name}, sdpa", falcon("sdpa", **more), right)
        assert plain < 1e-4 and min(asked, masked, causal) > 0.3 and share > 0.3
    right = logprobs(falcon("sdpa", alibi=True))
    eager, asked, *_ = look("Falcon with ALiBi, eager", falcon("eager", alibi=True), right)
    assert min(eager, asked) > 0.05
    plain, asked, masked, causal, share = look("Falcon with ALiBi, sdpa", falcon("sdpa", alibi=True), right)
    assert plain < 1e-4 and min(asked, masked) > 0.05 and causal < 1e-4 and share < 1e-4
    once = modeling_falcon.build_alibi_tensor
    with mock.patch.object(modeling_falcon, "build_alibi_tensor", lambda *given, **named: 2 * once(*given, **named)):
        doubled = logprobs(falcon("sdpa", alibi=True))
    from_doubled = apart(doubled, logprobs(falcon("eager", alibi=True)))
    print(f"eager with ALiBi is {from_doubled:.1g} nats from sdpa with twice the bias")
    assert from_doubled < 1e-4
told = [str(each.message) for each in said if "ttention" in str(each.message)]
print("warnings about attention:", told)
assert not told
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
