#!/usr/bin/env bash
# trl 1.16.0, transformers 5.24.0, torch 2.15.0, datasets 5.2.0, accelerate 1.15.0.
#
# Expected: a preference dataset that has ref_chosen_logps and ref_rejected_logps, which the collator of DPOTrainer
# documents as optional fields of an example and passes on, spares the trainer the reference: it uses them.
# Seen: without precompute_ref_log_probs they reach the batch and are ignored without a word: the loss is that of a
# reference model, which is loaded beside the trained one. With it they are computed again, and then the run fails: the
# table can't have duplicated columns.
#
# Whom it bites: whoever computes the reference once, on other machines or with another tool, to train several policies on
# it: the columns look as if they were used, and the second model stays in memory. Returning the dataset from
# _precompute_ref_logps of a subclass uses them.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet trl==1.16.0 transformers==5.24.0 torch==2.15.0 datasets==5.2.0 accelerate==1.15.0
cd "$work"
HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error HF_DATASETS_DISABLE_PROGRESS_BARS=1 "$work/venv/bin/python" - <<'PY'
import torch
from datasets import Dataset
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import DPOConfig, DPOTrainer

WORDS = ["</s>", "<unk>", "hello", "world", "fox", "dog"]
inner = Tokenizer(models.WordLevel({word: at for at, word in enumerate(WORDS)}, unk_token="<unk>"))
inner.add_special_tokens(["</s>"])
inner.pre_tokenizer = pre_tokenizers.Whitespace()
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="</s>", unk_token="<unk>")
torch.manual_seed(0)
sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
LlamaForCausalLM(LlamaConfig(vocab_size=len(WORDS), **sizes)).save_pretrained("model")
PAIR = {"prompt": "hello", "chosen": " world", "rejected": " dog"}
GIVEN = {**PAIR, "ref_chosen_logps": -1.0, "ref_rejected_logps": -9.0}


def trainer(kind, row, **options):
    config = DPOConfig(output_dir="out", bf16=False, use_cpu=True, report_to=[], **options)
    model = LlamaForCausalLM.from_pretrained("model", dtype=torch.float32)
    return kind(model=model, args=config, processing_class=tokenizer, train_dataset=Dataset.from_list([row]))


def loss(one):
    batch = next(iter(one.get_train_dataloader()))
    return one.compute_loss(one.model, batch).item(), batch.get("ref_chosen_logps")


class GivenReference(DPOTrainer):
    def _precompute_ref_logps(self, dataset, name, batch_size):
        return dataset


plain, _ = loss(trainer(DPOTrainer, PAIR))
ignored, seen = loss(trainer(DPOTrainer, GIVEN))
used, _ = loss(trainer(GivenReference, GIVEN, precompute_ref_log_probs=True))
print(f"loss without columns {plain:.4f}, with columns {ignored:.4f} (in the batch: {seen}), used {used:.4f}")
assert plain == ignored and abs(used - plain) > 0.1 and seen is not None
try:
    trainer(DPOTrainer, GIVEN, precompute_ref_log_probs=True)
    raise SystemExit("the columns were taken")
except ValueError as error:
    print("with precompute_ref_log_probs:", error)
    assert "duplicated columns" in str(error)
print("as described: ignored without a word, or refused")
PY
