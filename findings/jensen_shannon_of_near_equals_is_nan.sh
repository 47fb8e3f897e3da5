#!/usr/bin/env bash
# scipy 1.17.1 with numpy 2.4.6.
#
# Expected: scipy.spatial.distance.jensenshannon of two distributions that are nearly the same is nearly 0.
# Seen: the sum under its square root is a small difference of rounded terms, and for two next-token distributions over
# 50,000 tokens whose logits differ by 1e-8 it is below 0 for about one pair in ten: the distance is NaN, with numpy's
# RuntimeWarning about a square root and nothing else.
#
# Whom it bites: whoever measures an adapter that changes little position by position: one NaN makes the mean NaN, and
# nanmean drops just the smallest distances.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
from scipy.spatial.distance import jensenshannon


def softmax(logits):
    powers = np.exp(logits - logits.max())
    return powers / powers.sum()


draws, found = np.random.default_rng(0), []
for _ in range(200):
    logits = 3 * draws.normal(size=50_000)
    found.append(jensenshannon(softmax(logits), softmax(logits + 1e-8 * draws.normal(size=50_000))))
lost = int(np.isnan(found).sum())
print(f"{lost} of {len(found)} distances are NaN, the others at most {np.nanmax(found):.1g}")
assert lost and np.nanmax(found) < 1e-6, "this behaviour has changed"
PY
