#!/usr/bin/env bash
# openvino-genai 2026.4.1.0 on a CPU, models from optimum-intel 2.2.0 (transformers 5.5.4, torch 2.15.0, peft 0.21.2).
#
# Expected: what is generated with an adapter is what the adapted model says, whatever was asked before.
# Seen:
# - LLMPipeline as it comes, on a CPU, keeps the keys and values of a prompt's beginning by its tokens alone. The same long
#   prompt with another adapter, or with none, is then answered from those of the adapter before: another token, other
#   log-probabilities. With enable_prefix_caching=False, or with ATTENTION_BACKEND=SDPA, each is right.
# - Of several adapters in one AdapterConfig a changed alpha counts only if that of the last one has changed too.
# - ContinuousBatchingPipeline.add_request ignores the adapters of its GenerationConfig and of the pipeline; generate doesn't.
# - LoRA on the token embedding and LoRA's own biases (lora_bias) are left out, without a word, and so is all that
#   adapter_config.json says: alpha / r is 1 unless the strength in AdapterConfig says it, and alpha_pattern and the smaller
#   scale of a module with another rank (rank_pattern) can't be said at all.
#
# Whom it bites: whoever serves several adapters of one model, A/B tests of an adapter against its base, blends of adapters.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.15.0 transformers==5.5.4 peft==0.21.2 optimum-intel==2.2.0 \
    openvino==2026.4.1 openvino-tokenizers==2026.4.1.0 openvino-genai==2026.4.1.0
cd "$work"
cat >made.py <<'PY'
import torch
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

torch.manual_seed(0)
model = LlamaForCausalLM(
    LlamaConfig(vocab_size=160, hidden_size=128, intermediate_size=256, num_hidden_layers=2, num_attention_heads=4,
                num_key_value_heads=4, tie_word_embeddings=False, max_position_embeddings=512, bos_token_id=0,
                eos_token_id=159, pad_token_id=159)
)
with torch.no_grad():
    for each in model.parameters():
        if each.ndim > 1:
            each.mul_(3)
model.save_pretrained("base")
words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(160)}, unk_token="w0"))
PreTrainedTokenizerFast(tokenizer_object=words, bos_token="w0", eos_token="w159", unk_token="w0").save_pretrained("base")
adapters = {"one": {}, "other": {}, "embedding": {"target_modules": ["embed_tokens"]}, "biases": {"lora_bias": True},
            "pattern": {"alpha_pattern": {"q_proj": 32}}, "alpha": {"lora_alpha": 16},
            "ranks": {"rank_pattern": {"q_proj": 16}}}
for seed, (name, options) in enumerate(adapters.items()):
    torch.manual_seed(seed)
    settings = {"r": 8, "lora_alpha": 8, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM", **options}
    adapter = LoraConfig(**settings)
    peft = get_peft_model(AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32), adapter)
    with torch.no_grad():
        for key, each in peft.named_parameters():
            if "lora_B" in key or "lora_embedding_A" in key:
                each.copy_(0.4 * torch.randn_like(each))
    peft.save_pretrained(name)
PY
cat >seen.py <<'PY'
import numpy as np
import openvino
import openvino_genai as genai
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

IDS = np.random.default_rng(0).integers(1, 150, 100).tolist()
peft = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained("base", dtype=torch.float32), "one", "one")
PARTS = ("embedding", "biases", "pattern", "alpha", "ranks")
for each in ("other", *PARTS):
    peft.load_adapter(each, each)
peft.eval()
files = {name: genai.Adapter(f"{name}/adapter_model.safetensors") for name in ("one", "other", *PARTS)}
F32 = {"INFERENCE_PRECISION_HINT": "f32", "KV_CACHE_PRECISION": "f32"}


def exact(name):
    """Log-probabilities after each token, [100, 160]; of the base for None."""
    with torch.no_grad():
        if name is None:
            with peft.disable_adapter():
                return peft(torch.tensor([IDS])).logits[0].log_softmax(-1)
        peft.set_adapter(name)
        return peft(torch.tensor([IDS])).logits[0].log_softmax(-1)


def config(**alphas):
    made = genai.AdapterConfig()
    for name, alpha in alphas.items():
        made.add(files[name], alpha)
    return made


def of(name):
    return config() if name is None else config(**{name: 1.0})


def tensor(ids):
    return openvino.Tensor(np.array([ids], dtype=np.int64))


def batching(adapters, prefix_caching=False):
    scheduler = genai.SchedulerConfig()
    scheduler.cache_size, scheduler.enable_prefix_caching = 1, prefix_caching
    return genai.ContinuousBatchingPipeline("openvino", scheduler, "CPU", {**F32, "adapters": adapters})


def echoed(pipe, **options):
    """What the model says of the prompt's own tokens."""
    asked = genai.GenerationConfig(max_new_tokens=0, echo=True, logprobs=1, **options)
    handle = pipe.add_request(1, tensor(IDS), asked)
    while pipe.has_non_finished_requests():
        pipe.step()
    return np.array(handle.read_all()[0].generated_log_probs[1:])


def choose(pipe, adapters):
    pipe.generate([tensor([0])], [genai.GenerationConfig(max_new_tokens=1, adapters=adapters)])


def apart(values, name):
    """Root mean square from the exact values, nats."""
    rows = exact(name)
    return float(np.sqrt(np.mean((values - rows[range(99), IDS[1:]].numpy()) ** 2)))


def first_tokens(title, **properties):
    """How far off the token after the prompt is, nats: of one adapter, the other, and neither, asked in turn."""
    pipe = genai.LLMPipeline("openvino", "CPU", adapters=config(one=1.0, other=1.0), **F32, **properties)
    off = []
    for name in ("one", "other", None):
        asked = genai.GenerationConfig(max_new_tokens=1, logprobs=1)
        given = pipe.generate(tensor(IDS), asked, adapters=of(name))
        token, right = given.tokens[0][0], exact(name)[-1]
        print(f"{title:<18}{name!s:<7} token {token:>3}, {given.scores[0]:.3f} nats; exact: {float(right[token]):.3f}, and"
              f" the likeliest is {int(right.argmax()):>3}", flush=True)
        off.append(abs(given.scores[0] - float(right[token])))
    return off


first, *others = first_tokens("as it comes")
assert first < 1e-3 and min(others) > 0.02
for title, properties in (("ATTENTION_BACKEND", {"ATTENTION_BACKEND": "SDPA"}),
                          ("no prefix cache", {"scheduler_config": genai.SchedulerConfig()})):
    assert max(first_tokens(title, **properties)) < 1e-3

pipe = batching(config(one=1.0, other=1.0))
choose(pipe, config(one=1.0, other=1.0))
both = echoed(pipe)
choose(pipe, config(one=0.0, other=1.0))
changed = echoed(pipe)
print(f"alphas 1, 1 and then 0, 1: moved by {np.abs(changed - both).max():.3f} nats,"
      f" {apart(changed, 'other'):.3f} from what is asked for")
assert np.abs(changed - both).max() == 0 and apart(changed, "other") > 0.1
choose(pipe, config())
choose(pipe, config(one=0.0, other=1.0))
print(f"the same, asked after none: {apart(echoed(pipe), 'other'):.6f} from what is asked for")
assert apart(echoed(pipe), "other") < 1e-4

pipe = batching(of("one"))
ignored = echoed(pipe, adapters=of("one"))
choose(pipe, of("one"))
print(f"add_request with an adapter: {apart(ignored, None):.6f} nats from the base, {apart(ignored, 'one'):.3f} from the"
      f" adapter; after generate with it {apart(echoed(pipe), 'one'):.6f}")
assert apart(ignored, None) < 1e-4 < 0.1 < apart(ignored, "one") and apart(echoed(pipe), "one") < 1e-4

for part in PARTS:
    pipe = batching(of(part))
    choose(pipe, of(part))
    lost = echoed(pipe)
    print(f"LoRA with {part:<9} {apart(lost, None):.6f} nats from the base, {apart(lost, part):.3f} from the adapter")
    assert apart(lost, part) > 0.1 and (part != "embedding" or apart(lost, None) < 1e-4)
pipe = batching(config(alpha=2.0))
choose(pipe, config(alpha=2.0))
print(f"lora_alpha / r = 2, and the strength too: {apart(echoed(pipe), 'alpha'):.6f} nats from the adapter")
assert apart(echoed(pipe), "alpha") < 1e-4
print("as described: adapters are mixed up, left out, and kept at an old strength")
PY
export HF_HUB_OFFLINE=1 PATH="$work/venv/bin:$PATH"
python made.py
optimum-cli export openvino --model base --task text-generation-with-past --weight-format fp32 \
    --disable-convert-tokenizer openvino >export.log 2>&1 || { cat export.log; exit 1; }
python seen.py
