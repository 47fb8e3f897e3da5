#!/usr/bin/env bash
# transformers 5.24.0 (torch 2.15.0): position_ids that leave places out, as [0 to 19, 32 to 51].
#
# Expected: position_ids say where tokens stand. A gap between two parts of a text moves the later tokens away from the
# earlier ones, and each still reads all that is before it. Whether keys and values are kept for later (use_cache), or
# gradients are checkpointed, changes no logit.
# Seen: with use_cache=False and no attention mask the text is cut at each place where the position doesn't rise by one,
# a gap of a single place included. What is behind reads nothing of what is before: its logits are those of the second
# part alone. The search for packed texts looks for any step but one, not for a new beginning. It only looks while there
# is neither a mask nor a cache. So the default (use_cache=True) and a mask of ones read the whole text. And training
# reads it, too, until gradient checkpointing is turned on, which turns the cache off: then every step is of cut texts.
# It is the same with eager attention and in all families whose masks are made in that one place. Nothing raises or
# warns of it; a line in the log says only that caching and checkpointing exclude each other.
#
# Whom it bites: whoever spreads positions to train or test for longer contexts (PoSE and its kin), leaves places free
# between a document and a question, or takes tokens out of a text and keeps the positions of the others: the measured
# effect of distance is that of a lost context. Give attention_mask=torch.ones_like(input_ids).
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

TEXT = torch.tensor([[3 + (37 * place) % 90 for place in range(40)]])
HALF = 20
WHOLE = torch.ones_like(TEXT)
SIZES = dict(vocab_size=100, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4,
             max_position_embeddings=64, pad_token_id=0, bos_token_id=1, eos_token_id=2, attention_dropout=0.0,
             attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0, hidden_dropout=0.0)
HEADS = dict(num_key_value_heads=2, head_dim=8)
MODELS = {"llama": {}, "gpt2": {}, "gpt_neox": {}, "gemma2": HEADS, "qwen3": HEADS, "mixtral": HEADS}


def model_of(kind, **more):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **SIZES | MODELS[kind]), **more).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.06:
                parameter.mul_(8.0)
    return model


def places(gap):
    return torch.cat([torch.arange(HALF), torch.arange(HALF, TEXT.shape[1]) + gap])[None]


def logprobs(model, positions, ids=TEXT, **way):
    return model(input_ids=ids, position_ids=positions, **way).logits.detach().log_softmax(-1)


def apart(one, other):
    """The largest distance, in nats."""
    return float((one - other).abs().max())


def look(name, model, gap):
    positions = places(gap)
    whole = logprobs(model, positions, attention_mask=WHOLE, use_cache=False)
    alone = logprobs(model, positions[:, HALF:], ids=TEXT[:, HALF:], use_cache=False)
    cached = logprobs(model, positions)
    uncached = logprobs(model, positions, use_cache=False)
    model.train()
    trained = logprobs(model, positions)
    model.gradient_checkpointing_enable()
    checkpointed = logprobs(model, positions)
    model.gradient_checkpointing_disable()
    model.eval()
    print(f"{name}, a gap of {gap}: from the whole text {apart(cached, whole):.1g} nats with a cache, "
          f"{apart(uncached, whole):.2g} without; {apart(trained, whole):.1g} in training, "
          f"{apart(checkpointed, whole):.2g} checkpointed; without a cache {apart(uncached[:, HALF:], alone):.1g} from "
          "the second part alone")
    assert apart(cached, whole) < 1e-4 and apart(trained, whole) < 1e-4, name
    is_cut = gap > 0
    for each in (uncached, checkpointed):
        assert (apart(each, whole) > 0.5) is is_cut and (is_cut or apart(each, whole) < 1e-4), name
        assert (apart(each[:, HALF:], alone) < 1e-4) is is_cut, name


with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for kind in MODELS:
        look(kind, model_of(kind), 12)
    for gap in (0, 1):
        look("llama", model_of("llama"), gap)
    look("llama with eager attention", model_of("llama", attn_implementation="eager"), 12)
told = [str(each.message) for each in said if "position" in str(each.message) or "pack" in str(each.message)]
print("warnings about positions or packing:", told)
assert not told
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
