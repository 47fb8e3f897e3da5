#!/usr/bin/env bash
# mlxtend 0.25.0 with numpy 2.4.6 and scipy 1.17.1: evaluate.permutation_test.
#
# Expected: the p-value of a permutation test is the same in nats and in nanonats: it compares values with each other.
# Seen: the exact test of ten texts whose divergences are all three times as large in one model gives 0.002 for values
# around 1, and 1 for the same ones times 1e-9; 1e-8 is in between. A permutation counts as extreme where its statistic
# is more than the one seen or close to it, and close is numpy.isclose with its default absolute tolerance of 1e-8,
# under which every permutation is. The approximate method is the same. (scipy's tolerance is a relative one.)
#
# Whom it bites: whoever tests divergences of nearly equal models: a LoRA of one small step is 1e-8 nats away.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet mlxtend==0.25.0 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" - <<'PY'
import numpy as np
from mlxtend.evaluate import permutation_test
from scipy import stats

one = np.random.default_rng(0).lognormal(size=10)
found = {}
for unit in (1.0, 1e-6, 1e-8, 1e-9):
    pair = one * unit, 3 * one * unit
    exact = permutation_test(*pair, paired=True, method="exact")
    rounds = permutation_test(*pair, paired=True, method="approximate", num_rounds=1000, seed=0)
    of_scipy = stats.permutation_test(
        pair, lambda x, y, axis: np.mean(x - y, axis=axis), permutation_type="samples", n_resamples=2000
    ).pvalue
    found[unit] = exact, rounds
    print(f"in units of {unit:g}: p = {exact:.4f} exactly, {rounds:.4f} approximately; scipy {of_scipy:.4f}")
    assert of_scipy == 2 / 2**10
assert found[1.0][0] == found[1e-6][0] == 2 / 2**10 and found[1.0][1] < 0.01
assert found[1e-9] == (1.0, 1.0) and found[1e-8][0] > 0.05, "this behaviour has changed"
print("as described")
PY
