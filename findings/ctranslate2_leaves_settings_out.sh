#!/usr/bin/env bash
# ctranslate2 4.8.5 converting models of transformers 5.24.0 (torch 2.15.0).
#
# Expected: TransformersConverter keeps what config.json says, or refuses it, as it does for a rotary scaling that it
# doesn't have. (Llama's rotary base and linear scaling, epsilon, biases and tied heads are kept.)
# Seen: many settings are left out without a word. The converted model has the logits of the same weights without the
# setting: of Gemma 2 the caps of attention and logits, the scale query_pre_attn_scalar, the sliding window and the
# rotary base; of Gemma 3 the rotary base, its linear scaling (the published models from 4B on have 8; the
# documentation's own example converts the 12B) and the epsilon; of Llama, Mistral and Qwen2 the activation (hidden_act);
# of Qwen2 the sliding window; of Falcon the rotary base and the epsilon; of GPT-2 the scaling of attention. The list of
# supported models tells of no such limit.
# Where a loader doesn't read a field, a constant stands in its place; and where it asks for rope_theta, which the
# configurations of transformers 5 no longer have, it takes the default that it has for that.
#
# Whom it bites: whoever takes the converted model as the fast copy of one that is compared, quantised or scored.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet ctranslate2==4.8.5 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import logging
import shutil

import ctranslate2
import numpy as np
import torch
from tokenizers import Tokenizer, models
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

VOCAB, IDS = 128, list(range(5, 65))
TOKENS = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(4, VOCAB))]
SIZES = dict(vocab_size=VOCAB, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, max_position_embeddings=256, pad_token_id=0, bos_token_id=1, eos_token_id=2)
LLAMA = SIZES | {"rms_norm_eps": 1e-6}
GEMMA2 = SIZES | dict(head_dim=16, query_pre_attn_scalar=16, attn_logit_softcapping=None, final_logit_softcapping=None)
GEMMA3 = SIZES | dict(head_dim=16, query_pre_attn_scalar=16, sliding_window=128,
                      layer_types=["sliding_attention", "full_attention"])
FALCON = dict(vocab_size=VOCAB, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, pad_token_id=0,
              bos_token_id=1, eos_token_id=2)
GPT2 = dict(vocab_size=VOCAB, n_embd=64, n_layer=2, n_head=4, n_positions=256, bos_token_id=1, eos_token_id=2)


def rope(theta, **more):
    return {"rope_parameters": {"rope_type": "default", "rope_theta": theta} | more}


def two_ropes(full, **more):
    sliding = {"rope_type": "default", "rope_theta": 1e4}
    return {"rope_parameters": {"sliding_attention": sliding,
                                "full_attention": {"rope_type": "default", "rope_theta": full} | more}}


KEPT = [
    ("llama", LLAMA, rope(5e5)),
    ("llama", LLAMA, rope(1e4, rope_type="linear", factor=4.0)),
    ("llama", LLAMA, {"rms_norm_eps": 0.1}),
    ("gemma2", GEMMA2, {"rms_norm_eps": 0.1}),
]
LEFT_OUT = [
    ("gemma2", GEMMA2, {"final_logit_softcapping": 2.0}),
    ("gemma2", GEMMA2, {"attn_logit_softcapping": 1.0}),
    ("gemma2", GEMMA2, {"query_pre_attn_scalar": 64}),
    ("gemma2", GEMMA2, {"sliding_window": 8}),
    ("gemma2", GEMMA2, rope(5e5)),
    ("gemma3_text", GEMMA3, two_ropes(1e6, rope_type="linear", factor=8.0)),
    ("gemma3_text", GEMMA3, two_ropes(5e4)),
    ("gemma3_text", GEMMA3, {"rms_norm_eps": 0.1}),
    ("llama", LLAMA, {"hidden_act": "relu"}),
    ("mistral", LLAMA | {"sliding_window": None}, {"hidden_act": "relu"}),
    ("qwen2", LLAMA, {"hidden_act": "relu"}),
    ("qwen2", LLAMA, {"use_sliding_window": True, "sliding_window": 8, "max_window_layers": 0}),
    ("falcon", FALCON, rope(5e5)),
    ("falcon", FALCON, {"layer_norm_epsilon": 0.1}),
    ("gpt2", GPT2, {"scale_attn_by_inverse_layer_idx": True}),
    ("gpt2", GPT2, {"scale_attn_weights": False}),
]


def load(family, settings, weights=None):
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **settings), attn_implementation="eager")
    if weights is not None:
        model.load_state_dict(weights)
    return model.eval()


def logits(model):
    with torch.no_grad():
        return model(input_ids=torch.tensor([IDS])).logits[0].numpy()


def converted(model):
    for folder in ("model", "converted"):
        shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained("model")
    words = Tokenizer(models.WordLevel({token: number for number, token in enumerate(TOKENS)}, unk_token="<unk>"))
    PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>",
                            pad_token="<pad>").save_pretrained("model")
    ctranslate2.converters.TransformersConverter("model").convert("converted")
    generator = ctranslate2.Generator("converted", compute_type="float32")
    return np.array(generator.forward_batch([[TOKENS[number] for number in IDS]]))[0]


logging.disable(logging.CRITICAL)
for left_out, cases in ((False, KEPT), (True, LEFT_OUT)):
    for family, base, setting in cases:
        torch.manual_seed(0)
        without = load(family, base)
        with torch.no_grad():
            for parameter in without.parameters():
                if parameter.ndim == 2:
                    parameter.mul_(8)
        model = load(family, base | setting, without.state_dict())
        right, plain, got = logits(model), logits(without), converted(model)
        moved, off, same = (float(np.abs(left - other).max()) for left, other in
                            ((right, plain), (got, right), (got, plain)))
        print(f"{family} {setting}: the setting moves logits by {moved:.2g}; the converted model is {off:.2g} from the "
              f"model and {same:.2g} from the one without the setting", flush=True)
        assert moved > 0.02
        assert same < 0.02 * moved if left_out else off < 0.02 * moved
print("as described")
PY
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
