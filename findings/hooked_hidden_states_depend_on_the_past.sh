#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): hidden states of a model whose layer a forward hook changes.
#
# Expected: with a hook on a decoder layer that returns a changed output, as steering does, hidden_states hold what the
# next layer reads, whatever was asked of the model before.
# Seen: it depends on whether output_hidden_states=True was ever asked for before the hook was put on. If not, the state
# has the change. If so, even once and long ago, it has not; the next layer's state and the logits have it in both. The
# first such call puts hooks of transformers' own on the layers, for good, and torch runs hooks in the order in which
# they were registered: what runs before the user's hook keeps the old output. A hook that writes into the output in
# place is seen in both.
#
# Whom it bites: whoever looks at what steering, an ablation or a patch does to the states. The same model, hook and
# text give two answers, and who compares "before" with "after" gets the one without the change: "before" is asked for
# before the hook is on.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import torch
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

IDS = torch.tensor([[1, 2, 3, 4, 5, 6]])
LAYER, STEER = 1, 1.0


def asked(model):
    with torch.no_grad():
        return model(input_ids=IDS, output_hidden_states=True)


def steered(model, layers, in_place=False):
    def hook(module, inputs, output):
        states = output[0] if isinstance(output, tuple) else output
        if in_place:
            states.add_(STEER)
            return None
        changed = states + STEER
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handle = layers(model)[LAYER].register_forward_hook(hook)
    result = asked(model)
    handle.remove()
    return result


sizes = dict(vocab_size=50, hidden_size=32, intermediate_size=64, num_hidden_layers=3, num_attention_heads=2)
small = dict(vocab_size=50, n_embd=32, n_layer=3, n_head=2, bos_token_id=0, eos_token_id=0)
for make, layers in (
    (lambda: LlamaForCausalLM(LlamaConfig(**sizes)), lambda model: model.model.layers),
    (lambda: Qwen3ForCausalLM(Qwen3Config(head_dim=16, num_key_value_heads=1, **sizes)), lambda model: model.model.layers),
    (lambda: GPT2LMHeadModel(GPT2Config(**small)), lambda model: model.transformer.h),
):
    found = {}
    for before in ("never", "before"):
        torch.manual_seed(0)
        model = make().eval()
        plain = asked(model) if before == "before" else None
        found[before] = steered(model, layers)
        found[before, "in place"] = steered(model, layers, in_place=True)
    fresh, used = found["never"], found["before"]
    at = LAYER + 1
    apart = [float((one - other).abs().max()) for one, other in zip(fresh.hidden_states, used.hidden_states)]
    unmoved = float((used.hidden_states[at] - plain.hidden_states[at]).abs().max())
    print(f"{type(model).__name__}: states of the two models under the same hook differ by",
          [round(each, 4) for each in apart], "and the logits by", float((fresh.logits - used.logits).abs().max()))
    assert torch.equal(fresh.logits, used.logits) and not torch.equal(plain.logits, used.logits)
    assert abs(apart[at] - STEER) < 1e-4 and sum(apart) - apart[at] == 0
    assert unmoved == 0.0
    one, other = found["never", "in place"], found["before", "in place"]
    assert all(torch.equal(*each) for each in zip(one.hidden_states, other.hidden_states))
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
