#!/usr/bin/env bash
# deep-significance (deepsig) 1.2.8 and permute 0.2, each with numpy 2.4.6 and scipy 1.17.1.
#
# Expected: of p-values that are corrected for being compared together, each comparison gets its own back; none is
# below the p-value that went in, and the order of the comparisons is of no matter.
# Seen: deepsig.bonferroni_correction and permute.npc.fwer_minp hand corrected p-values to other comparisons. Both sort
# and correct, and then apply the sorting order a second time where its inverse is needed. That is right for two
# comparisons, and for any that arrive sorted or with a swap; three in a cycle go wrong. A comparison of p = 0.5 comes
# back as 0.03, one of 0.7 as 0.0007, and the one that was there is lost.
# (deepsig's factors are those of Holm without his maximum, besides: the smallest of three near ones gets the largest.)
#
# Whom it bites: whoever compares three or more models, or one model by three or more metrics, and corrects.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet deepsig==1.2.8 permute==0.2 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" -W ignore - <<'PY'
import itertools

import numpy as np
from deepsig import bonferroni_correction
from permute.npc import fwer_minp

single = np.array([0.03, 0.5, 0.01])
corrected = bonferroni_correction(single)
print(f"deepsig: {single} becomes {corrected}; Holm's are [0.06 0.5 0.03]")
assert np.allclose(corrected, [0.5, 0.03, 0.06]), "this behaviour has changed"
near = np.array([0.01, 0.011, 0.012])
print(f"deepsig, sorted ones: {near} become {bonferroni_correction(near)}")
assert np.allclose(bonferroni_correction(near), [0.03, 0.022, 0.012])

# Two models on 12 texts, by three metrics: the second tells nothing, the third clearly. All 4,096 flips of signs.
texts = 12
differences = np.random.default_rng(0).normal(size=(texts, 3)) + [0.6, 0.0, 1.5]
flips = np.array(list(itertools.product((1, -1), repeat=texts)))
means = flips @ differences / texts
single = (means >= means[0] - 1e-12).mean(axis=0)
found = {}
for order in itertools.permutations(range(3)):
    corrected = fwer_minp(single[list(order)], means[:, list(order)], combine="tippett", plus1=False)
    found[order] = dict(zip(order, corrected.tolist(), strict=True))
print(f"permute: single p-values of the metrics {single.round(4)}")
for order, of_metric in found.items():
    print(f"  given in the order {order}: corrected {[round(of_metric[metric], 4) for metric in range(3)]}")
right = found[2, 0, 1]  # that arrives sorted
assert all(right[metric] >= single[metric] - 1e-12 for metric in range(3))
wrong = [order for order, of_metric in found.items() if of_metric != right]
assert wrong == [(0, 1, 2), (1, 2, 0)], wrong
assert found[0, 1, 2][1] < 0.001 < 0.7 < single[1] and found[0, 1, 2][2] > 0.1, "this behaviour has changed"
print("as described")
PY
