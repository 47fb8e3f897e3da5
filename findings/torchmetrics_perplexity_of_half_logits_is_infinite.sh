#!/usr/bin/env bash
# torchmetrics 1.9.0 with torch 2.15.0: Perplexity of logits in float16.
#
# Expected: the perplexity of a text whose tokens all have a probability is a number, in half precision about that of
# the same logits in float32: log-probabilities of -20 nats are well within float16.
# Seen: the logits become probabilities in their own precision, and the logarithm is taken of those. In float16 a
# probability below 3e-8 (-17.3 nats) is 0: one such token makes the perplexity infinite, of the batch and, for good,
# of the metric that batches are added to. cross_entropy of the same float16 logits is finite.
#
# Whom it bites: whoever compares models that run in float16 on real text, where a token of -18 nats is nothing rare.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.15.0
cd "$work"
cat >seen.py <<'PY'
import math

import torch
from torch.nn.functional import cross_entropy
from torchmetrics.text import Perplexity

torch.manual_seed(0)
TOKENS, VOCABULARY = 100, 1000
logits = torch.randn(1, TOKENS, VOCABULARY)
target = logits.argmax(-1)
# One token that the model is sure of not seeing.
logits[0, 50] = 0.0
logits[0, 50, 7], target[0, 50] = 20.0, 8
found = {}
for dtype in (torch.float32, torch.float16):
    metric = Perplexity()
    given = logits.to(dtype)
    metric.update(given, target)
    loss = float(cross_entropy(given[0], target[0]))
    found[dtype] = float(metric.compute()), math.exp(loss)
    print(f"{dtype}: Perplexity {found[dtype][0]:.4g}, exp of cross_entropy {found[dtype][1]:.4g}")
metric.update(logits[:, :50].half(), target[:, :50])
after = float(metric.compute())
print("the same metric after another batch without such a token:", after)
(single, right), (half, its_right) = found[torch.float32], found[torch.float16]
assert math.isclose(single, right, rel_tol=1e-3) and math.isclose(its_right, right, rel_tol=0.02)
assert half == after == math.inf
print("as described")
PY
"$work/venv/bin/python" seen.py
