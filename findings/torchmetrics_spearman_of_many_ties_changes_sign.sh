#!/usr/bin/env bash
# torchmetrics 1.9.0 with torch 2.15.0 and scipy 1.17.1: SpearmanCorrCoef.
#
# Expected: the rank correlation of a model's confidence in a token and whether it was right is about the same over
# 50,000 tokens and over 100,000.
# Seen: it is 0.57 over 50,000 and -0.57 over 100,000, the magnitude being right; no error and no warning. Tied values
# share the mean of their ranks, and these ranks are summed in 32-bit integers: the ranks of the 50,000 right tokens
# among 100,000 add up to 3.7 billion, which wraps below 0, and the right ones stand before the wrong ones. Of more
# than two values the magnitude is wrong too: grades from 0 to 4 give -0.56 over 200,000 tokens, and 0.68 is right.
#
# Whom it bites: whoever correlates figures of each token over a test set with something of few values: right or wrong,
# the same top token or not, grades, kinds of token.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.15.0 scipy==1.17.1
"$work/venv/bin/python" -W ignore - <<'PY'
import torch
from scipy.stats import spearmanr
from torchmetrics.functional.regression import spearman_corrcoef
from torchmetrics.regression import SpearmanCorrCoef


def both(left, right):
    metric = SpearmanCorrCoef()
    for parts in zip(left.split(10_000), right.split(10_000), strict=True):
        metric.update(*parts)
    found = float(metric.compute())
    assert found == float(spearman_corrcoef(left, right))
    return found, float(spearmanr(left, right).statistic)


torch.manual_seed(0)
found = {}
for tokens in (50_000, 100_000):
    confidence = torch.rand(tokens)
    is_right = (torch.rand(tokens) < confidence).float()
    found[tokens] = both(confidence, is_right)
    print(f"confidence and right or wrong, {tokens:,} tokens: {found[tokens][0]:.3f}, scipy {found[tokens][1]:.3f}")
confidence = torch.rand(200_000)
grade = ((confidence + torch.rand(200_000)) * 2.5).floor()
found["grades"] = both(confidence, grade)
print(f"confidence and five grades, 200,000 tokens: {found['grades'][0]:.3f}, scipy {found['grades'][1]:.3f}")
assert abs(found[50_000][0] - found[50_000][1]) < 1e-3 and found[50_000][0] > 0.5
assert abs(found[100_000][0] + found[100_000][1]) < 1e-3 and found[100_000][1] > 0.5, "this behaviour has changed"
assert found["grades"][0] < 0.0 < 0.6 < found["grades"][1], "this behaviour has changed"
print("as described")
PY
