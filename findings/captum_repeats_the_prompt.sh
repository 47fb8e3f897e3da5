#!/usr/bin/env bash
# captum 0.9.0 with transformers 5.24.0 (torch 2.15.0): LLMAttribution of a target of several tokens.
#
# Expected: use_cached_outputs=True, the default, spares time and gives the log-probabilities of the target's tokens
# that the model gives in one forward, to rounding.
# Seen: the first token is right, every later one is another number, nats away, and so are the attributions of these
# tokens and of the whole target. The whole text so far is read again behind the cache that already holds it. captum
# asks prepare_inputs_for_generation of the model for the new token, by cache_position; transformers 5 no longer cuts by
# that, and wants next_sequence_length. No error, no warning. use_cached_outputs=False or forward_in_tokens=False is
# right.
#
# Whom it bites: whoever asks which part of a prompt an answer comes from, or what a model thinks of an answer, in the
# way of captum's tutorial.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet captum==0.9.0 transformers==5.24.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import warnings

import torch
from captum.attr import FeatureAblation, LLMAttribution, TextTokenInput
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedTokenizerFast,
)

WORDS = ["<unk>", "the", "cat", "sat", "on", "a", "mat", "and", "dog", "ran"]
inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>")
PROMPT, TARGET = "the cat sat", "on a mat and"
WAYS = {
    "as by default": {},
    "without the cache": {"use_cached_outputs": False},
    "in one forward": {"forward_in_tokens": False},
}


def own(model):
    prompt, target = (tokenizer(text)["input_ids"] for text in (PROMPT, TARGET))
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prompt + target])).logits[0].double()
    known = logits.log_softmax(-1)[len(prompt) - 1 : -1]
    return known[range(len(target)), target]


def of_captum(model, **options):
    """The target's log-probabilities by captum, and the attributions of its tokens."""
    asked = []
    kept = LLMAttribution(FeatureAblation(model), tokenizer)
    inside = kept._forward_func

    def listening(*arguments):
        asked.append(inside(*arguments))
        return asked[-1]

    kept.attr_method.forward_func = listening
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        result = kept.attribute(TextTokenInput(PROMPT, tokenizer), target=TARGET, **options)
    # The first that is asked for is the prompt as it is.
    return asked[0][0, 1:].double(), result.token_attr, [str(each.message) for each in warned]


sizes = dict(vocab_size=len(WORDS), initializer_range=0.3, bos_token_id=0, eos_token_id=0)
for make in (
    lambda: LlamaForCausalLM(
        LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, **sizes)
    ),
    lambda: GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=2, **sizes)),
):
    torch.manual_seed(0)
    model = make().eval()
    right = own(model)
    print(type(model).__name__, "itself:", [round(each, 3) for each in right.tolist()])
    found = {way: of_captum(model, **options) for way, options in WAYS.items()}
    for way, (values, shares, warned) in found.items():
        print(f"  captum {way}:", [round(each, 3) for each in values.tolist()], "warnings:", warned)
    default, shares, warned = found["as by default"]
    true_shares = found["without the cache"][1]
    print(f"  attributions differ by {float((shares - true_shares)[1:].abs().max()):.3f} nats, the first token's by "
          f"{float((shares - true_shares)[0].abs().max()):.1g}")
    assert not warned
    assert all((found[way][0] - right).abs().max() < 1e-4 for way in ("without the cache", "in one forward"))
    assert abs(default[0] - right[0]) < 1e-4 and (default - right)[1:].abs().max() > 0.1
    assert (shares - true_shares)[1:].abs().max() > 0.1 > 1e-4 > (shares - true_shares)[0].abs().max()
print("as described")
PY
TRANSFORMERS_VERBOSITY=error "$work/venv/bin/python" seen.py
