#!/usr/bin/env bash
# dcor 0.7 and permute 0.2, each with numpy 2.4.6 and scipy 1.17.1: permutation tests of data with ties.
#
# Expected: where two models have the very same score on every item, the p-value of a permutation test is 1: each
# arrangement of the scores is as extreme as the one seen.
# Seen: it is the smallest there is. dcor's energy_test counts the arrangements that are farther than the one seen and
# leaves out those that are just as far, so 999 ties out of 999 give p = 0.001. In permute's stratified_two_sample and
# stratified_permutationtest "less" is taken to be 1 minus "greater", which leaves out all ties and the data as well:
# less and two-sided are 0. One right item of twelve, which can't tell two models apart, is significant in dcor, too.
# (permute's spearman_corr isn't Spearman's, besides: it correlates the orders that would sort each variable, which are
# no ranks. It is about 0 where the correlation of the ranks is 0.77.)
#
# Whom it bites: whoever compares two models on right-or-wrong items or on rounded scores, where ties are the rule:
# a task that neither can do is a certain difference.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dcor==0.7 permute==0.2 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" -W ignore - <<'PY'
import itertools

import dcor
import numpy as np
from permute.core import spearman_corr
from permute.stratified import stratified_permutationtest, stratified_two_sample
from scipy import stats


def exactly(one, other):
    """The share of all arrangements whose energy distance is as large as the one seen, or larger."""
    joined, found = np.concatenate([one, other]), []
    for first in itertools.combinations(range(len(joined)), len(one)):
        is_first = np.isin(np.arange(len(joined)), first)
        found.append(stats.energy_distance(joined[is_first], joined[~is_first]))
    return float(np.mean(np.array(found) >= stats.energy_distance(one, other) - 1e-9))


nothing, one_right, some = np.zeros(6), np.array([1.0, 0, 0, 0, 0, 0]), np.array([1.0, 1, 1, 0, 0, 0])
for name, one, right in (("none", nothing, 1.0), ("one", one_right, 1.0), ("three", some, 2 * 20 / 220)):
    p = dcor.homogeneity.energy_test(one, nothing, num_resamples=999, random_state=0).pvalue
    exact = exactly(one, nothing)
    print(f"dcor, {name} of 6 right and none of 6: p = {p:.3f}, of all arrangements {exact:.3f}")
    assert np.isclose(exact, right) and p == 0.001, "this behaviour has changed"

sides = ("greater", "less", "two-sided")
task, model, wrong = np.repeat([0, 1, 2], 8), np.tile([0, 1], 12), np.zeros(24)
for test in (stratified_two_sample, stratified_permutationtest):
    found = [float(test(task, model, wrong, alternative=side, reps=200, seed=1)[0]) for side in sides]
    print(f"permute, {test.__name__}, equal: {dict(zip(sides, found, strict=True))}")
    assert found == [1.0, 0.0, 0.0], "this behaviour has changed"

draws = np.random.default_rng(0)
x = draws.normal(size=20)
y = x + draws.normal(size=20)
ours, of_ranks = float(spearman_corr(x, y, reps=10, seed=1)[0]), float(stats.spearmanr(x, y).statistic)
print(f"permute, spearman_corr {ours:.2f}, of the ranks {of_ranks:.2f}")
assert abs(ours) < 0.05 and of_ranks > 0.7, "this behaviour has changed"
PY
