#!/usr/bin/env bash
# trl 1.16.0 with transformers 5.24.0 (torch 2.15.0, datasets 5.2.0, accelerate 1.15.0): losses and log-probabilities.
#
# Expected: what trainers compute is what the model's forward gives: SFTTrainer's eval_loss is the model's own loss (the
# source says so of its fused head), and a model whose head can't be fused is refused, as an adapter on it is.
# Seen: the trainers multiply the last hidden states by the matrix of the output embedding themselves. They know some
# names of settings for what else a head does (final_logit_softcapping, logit_scale, lm_head_multiplier,
# logits_scaling); whatever has another name or is a module is left out, without a word: the soft caps of RecurrentGemma
# and xLSTM, the scale of Inkling, the learned scale of each token of Dory, and the layer before the matrix in
# ModernBERT's decoder and in decoders with BERT's or RoBERTa's head. Of 188 causal types 21 are wrong. SFT, DPO,
# KTO, GRPO and RLOO share this code.
#
# Whom it bites: whoever fine-tunes such a model, or reads its perplexity or log-probabilities from a trainer: another
# model is trained and measured than the one that is served.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.24.0 torch==2.15.0 datasets==5.2.0 accelerate==1.15.0
cd "$work"
cat >seen.py <<'PY'
import warnings

import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast, PrinterCallback
from trl import SFTConfig, SFTTrainer

WORDS = ["</s>", "<unk>", *(f"word{number}" for number in range(62))]
inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", pad_token="</s>", unk_token="<unk>")

SMALL = dict(
    vocab_size=64, hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2,
    num_key_value_heads=2, head_dim=16, max_position_embeddings=64, pad_token_id=0, bos_token_id=0, eos_token_id=0,
)
RIGHT = ["llama", "gemma2", "cohere", "granite"]
WRONG = {
    "recurrent_gemma": dict(num_hidden_layers=3, lru_width=32, attention_window_size=32),
    "xlstm": dict(embedding_dim=32, num_heads=2, num_blocks=2, chunkwise_kernel="chunkwise--native_autograd",
                  sequence_kernel="native_sequence__native", step_kernel="native"),
    "dory": {},
    "modernbert-decoder": {},
    "roberta": dict(is_decoder=True, max_position_embeddings=80),
    "bert": dict(is_decoder=True),
}


def made(kind, settings):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **{**SMALL, **settings}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim >= 2 and parameter.std() < 0.1:
                parameter.mul_(8.0)  # As large as those of a trained model.
            elif "logit_scale" in name:
                parameter.mul_(torch.empty_like(parameter).uniform_(0.5, 1.5))
        model.get_output_embeddings().weight.mul_(4.0)
    return model.eval()


def losses(kind, settings):
    model = made(kind, settings)
    ids = torch.randint(2, 64, (1, 24))
    with torch.no_grad():
        logits = model(input_ids=ids, use_cache=False).logits.double()
    own = torch.nn.functional.cross_entropy(logits[0, :-1], ids[0, 1:]).item()
    rows = Dataset.from_list([{"input_ids": ids[0].tolist()}])
    options = SFTConfig(output_dir="out", use_cpu=True, bf16=False, report_to=[], max_length=None, disable_tqdm=True,
                        eos_token="</s>")
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        trainer = SFTTrainer(model=model, args=options, processing_class=tokenizer, train_dataset=rows,
                             eval_dataset=rows)
        trainer.pop_callback(PrinterCallback)
        theirs = trainer.evaluate()["eval_loss"]
    said = [str(each.message) for each in warned if "head" in str(each.message) or "logit" in str(each.message)]
    print(f"{kind}: the model's own loss {own:.4f}, the trainer's {theirs:.4f}; said of it: {said}")
    assert not said
    return own, theirs


for kind in RIGHT:
    own, theirs = losses(kind, {})
    assert abs(own - theirs) < 1e-4 * own, kind
for kind, settings in WRONG.items():
    own, theirs = losses(kind, settings)
    assert abs(own - theirs) > 0.005 * own, kind
print("as described")
PY
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" seen.py
