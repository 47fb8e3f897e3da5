#!/usr/bin/env bash
# llama-cpp-python 0.3.36 with gguf 0.19.0, numpy 2.4.6; built from source, which needs a C++ compiler.
#
# Expected: an echo with log-probabilities (echo=True, logprobs=1, in Python as in the server's /v1/completions) gives each
# token of the prompt its log-probability after the tokens before it, and null for the first, before which nothing stands.
# Seen: so it is for a model whose tokenizer puts BOS in front. For one without BOS, as Qwen's and GPT-2's, and for any
# prompt of token ids that doesn't begin with BOS, each token has the log-probability of coming once more, after itself;
# its candidates are those of the next place too. Tokens that are generated have their own. Nothing says so.
#
# Whom it bites: whoever scores texts over this server: perplexities, log-likelihood tasks, distances to another model.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6 gguf==0.19.0
CMAKE_ARGS="-DLLAVA_BUILD=OFF -DGGML_OPENMP=OFF" "$work/venv/bin/pip" install --quiet llama-cpp-python==0.3.36
cd "$work"
"$work/venv/bin/python" - <<'PY'
import gguf
import numpy as np
from llama_cpp import Llama

HIDDEN, HEADS, INNER = 32, 4, 64
SIGNS = [" ", *map(chr, range(33, 127))]
TEXT = "The quick brown fox"


def model(name, *, bos):
    """A GGUF file of random weights, with a token a character."""
    random = np.random.default_rng(0)
    writer = gguf.GGUFWriter(name, "llama")
    writer.add_context_length(128)
    writer.add_embedding_length(HIDDEN)
    writer.add_block_count(1)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(1e-6)
    tokens = ["<s>", "</s>", *(sign.replace(" ", "\u0120") for sign in SIGNS)]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([3, 3] + [1] * len(SIGNS))
    writer.add_token_merges(["~ }"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_add_bos_token(bos)
    shapes = {"token_embd": (len(tokens), HIDDEN), "output": (len(tokens), HIDDEN)}
    shapes |= {f"blk.0.attn_{part}": (HIDDEN, HIDDEN) for part in ("q", "k", "v", "output")}
    shapes |= {"blk.0.ffn_gate": (INNER, HIDDEN), "blk.0.ffn_up": (INNER, HIDDEN), "blk.0.ffn_down": (HIDDEN, INNER)}
    for each, shape in shapes.items():
        writer.add_tensor(f"{each}.weight", random.normal(scale=0.3, size=shape).astype(np.float32))
    for each in ("output_norm", "blk.0.attn_norm", "blk.0.ffn_norm"):
        writer.add_tensor(f"{each}.weight", np.ones(HIDDEN, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return Llama(name, logits_all=True, verbose=False, n_threads=1)


def distances(llm):
    """Largest gaps of the echo to the tokens' values before and after themselves, nats."""
    ids = llm.tokenize(TEXT.encode(), special=True)
    shown = ids[-len(TEXT):]
    llm.reset()
    llm.eval(ids)
    rows = np.asarray(llm.scores[: len(ids)], np.float64)
    rows -= np.log(np.exp(rows).sum(-1, keepdims=True))
    rows = rows[-len(TEXT):]
    llm.reset()
    echo = llm(TEXT, max_tokens=1, echo=True, logprobs=1, temperature=0.0)["choices"][0]["logprobs"]
    given = echo["token_logprobs"][: len(TEXT)]
    assert "".join(echo["tokens"][: len(TEXT)]) == TEXT
    assert given[0] is None
    before = [rows[at - 1, token] for at, token in enumerate(shown)][1:]
    after = [rows[at, token] for at, token in enumerate(shown)][1:]
    return [float(np.abs(np.array(given[1:]) - each).max()) for each in (before, after)]


for bos in (True, False):
    before, after = distances(model(f"bos-{bos}.gguf", bos=bos))
    print(f"{'with' if bos else 'without'} BOS: {before:.5f} nats from the value after the tokens before,"
          f" {after:.5f} from the value after itself", flush=True)
    assert (before < 1e-3 < 0.1 < after) if bos else (after < 1e-3 < 0.1 < before)
print("as described: without BOS each token has the log-probability of coming once more")
PY
