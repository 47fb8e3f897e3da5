#!/usr/bin/env bash
# lighteval 0.13.0 with transformers 5.24.0, peft 0.21.2, datasets 5.2.0, inspect-ai 0.3.285 (torch 2.15.0): its cache
# of predictions, which is on by default.
#
# Expected: a model with other weights gets answers of its own. The page on caching says so: a new cache is made when
# the model's weights change (another revision, another checkpoint).
# Seen: the key is the configuration (the path, the revision's name, settings) and the task; nothing of the weights is
# in it. A folder that another checkpoint was saved to gets the old one's answers, and so does a model in memory
# (TransformersModel.from_model, as in the README): a model with an adapter is given the base's numbers to the last
# digit if the base went first, and the other way round. Nothing is said of it; the model isn't run.
#
# Whom it bites: whoever compares a model before and after fine-tuning, or several adapters on one base: no difference
# is found. A cache_dir for each, or deleting it in between, gives the right numbers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lighteval==0.13.0 transformers==5.24.0 peft==0.21.2 datasets==5.2.0 \
  inspect-ai==0.3.285 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import copy

import torch
from lighteval.models.transformers.transformers_model import TransformersModel, TransformersModelConfig
from lighteval.tasks.requests import Doc
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

WORDS = ["<s>", "<unk>", "the", "cat", "sat", "a", "dog", "ran"]
inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
inner.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
tokenizer = PreTrainedTokenizerFast(
    tokenizer_object=inner, bos_token="<s>", eos_token="<s>", pad_token="<s>", unk_token="<unk>"
)
sizes = dict(hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2, initializer_range=0.3)


def fresh(seed):
    torch.manual_seed(seed)
    return LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **sizes)).eval()


def saved(model):
    model.save_pretrained("model")
    tokenizer.save_pretrained("model")


def adapted(base):
    model = get_peft_model(copy.deepcopy(base), LoraConfig(r=4, target_modules=["q_proj", "v_proj", "o_proj"]))
    torch.manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter))
    return model.eval()


def asked(cache, model=None):
    """The log-probabilities of two last words by a model in memory, or by the folder's."""
    config = TransformersModelConfig(
        model_name="model", batch_size=1, device="cpu", dtype="float32", max_length=32, cache_dir=cache
    )
    one = TransformersModel(config) if model is None else TransformersModel.from_model(copy.deepcopy(model), config)
    texts = [("the cat", " sat"), ("a dog", " ran")]
    docs = [
        Doc(query=query, choices=[word], gold_index=0, task_name="last_word", id=str(at))
        for at, (query, word) in enumerate(texts)
    ]
    return [answer.logprobs[0] for answer in one.loglikelihood(docs)]


base = fresh(0)
saved(base)
tuned = adapted(base)
found = {
    "base, in memory": asked("one", base),
    "with the adapter, in memory, same cache": asked("one", tuned),
    "with the adapter, a cache of its own": asked("two", tuned),
    "base, the adapter's cache": asked("two", base),
    "folder, first checkpoint": asked("three"),
}
saved(fresh(1))
found["folder, second checkpoint, same cache"] = asked("three")
found["folder, second checkpoint, a cache of its own"] = asked("four")
for name, value in found.items():
    print(f"{name}: {value}")
first, same, own, other, old, again, right = found.values()
assert first == same != own == other
assert first == old == again != right
print("as described")
PY
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" seen.py
