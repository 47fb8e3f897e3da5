#!/usr/bin/env bash
# mlx-lm 0.32.2 (mlx 0.32.4 on a Linux CPU): the rotary scaling "longrope" (or "su") of Phi-3 and Phi-4-mini, MiniCPM3.
#
# Expected: such a model has two lists of factors. A text that fits into original_max_position_embeddings is read with
# short_factor, a longer one with long_factor; so do transformers and the model's own code, and the class of mlx-lm that
# does it, SuScaledRoPE, describes its two arguments in these words.
# Seen: short_factor is taken and never used. Texts of every length get the long factors: the short ones, which are nearly
# all, have other rotary embeddings from the second position on than those the model was trained with. Texts beyond the
# original length are right.
#
# Whom it bites: whoever holds mlx-lm's scores of a Phi against those of another engine, or its quantised copy against
# the original in transformers.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet "mlx[cpu]==0.32.4" mlx-lm==0.32.2 transformers==5.24.0
cd "$work"
cat >seen.py <<'PY'
import math

import mlx.core as mx
import numpy as np
from mlx_lm.models import phi3

BASE, WIDTH, ORIGINAL, MOST = 10000.0, 16, 64, 256
SHORT, LONG = [1.0 + 0.1 * place for place in range(WIDTH // 2)], [4.0 + place for place in range(WIDTH // 2)]


def of(short, long):
    """The rotary embedding of a Phi-3 with these factors, as mlx-lm makes it."""
    return phi3.Model(phi3.ModelArgs(
        model_type="phi3", hidden_size=4 * WIDTH, num_hidden_layers=1, intermediate_size=96, num_attention_heads=4,
        rms_norm_eps=1e-5, vocab_size=128, num_key_value_heads=4, rope_theta=BASE, max_position_embeddings=MOST,
        original_max_position_embeddings=ORIGINAL,
        rope_scaling={"type": "longrope", "short_factor": short, "long_factor": long},
    )).layers[0].self_attn.rope


def by_hand(rows, factors):
    """The same in float64, after its definition: halves turned against each other, both scaled for the longer context."""
    places = np.arange(len(rows))[:, None]
    angles = places / (np.array(factors) * BASE ** (np.arange(0, WIDTH, 2) / WIDTH))
    scale = math.sqrt(1 + math.log(MOST / ORIGINAL) / math.log(ORIGINAL))
    left, right = rows[:, : WIDTH // 2], rows[:, WIDTH // 2 :]
    cosine, sine = scale * np.cos(angles), scale * np.sin(angles)
    return np.concatenate([left * cosine - right * sine, right * cosine + left * sine], axis=1)


for length in (ORIGINAL - 7, ORIGINAL + 36):
    rows = np.random.default_rng(0).normal(size=(length, WIDTH))
    query = mx.array(rows[None, None].astype(np.float32))
    got, other = (np.array(of(short, LONG)(query))[0, 0] for short in (SHORT, LONG))
    from_short, from_long = (float(np.abs(got - by_hand(rows, factors)).max()) for factors in (SHORT, LONG))
    print(f"{length} tokens, of {ORIGINAL} originally: {from_short:.2g} from the short factors, "
          f"{from_long:.2g} from the long ones; other short factors change it by {np.abs(got - other).max():.2g}")
    assert from_long < 1e-4 and from_short > 1 and (got == other).all()
print("as described: the short factors are never used")
PY
"$work/venv/bin/python" seen.py
