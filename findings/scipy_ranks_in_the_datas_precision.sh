#!/usr/bin/env bash
# scipy 1.17.1 (numpy 2.4.6): rank tests of values in float32 and float16.
#
# Expected: a rank test depends on the order of the values alone, so the same values in float64, float32 and float16, with
# the same ties, have the same statistic and p-value.
# Seen: kruskal, friedmanchisquare and wilcoxon put ranks and numbers of ties into the data's type and compute with them
# there. Kruskal's and Friedman's statistics are small differences of large numbers, divided by 1 less the share of ties.
# Of models that are right on 99 of 100 items, with the answers as 0 and 1 in float32, they are off by units: some
# p-values become significant, some cease to be, and a statistic below zero comes up too. No warning is raised. Half
# precision overflows with a few dozen items: two models of which one is clearly better have p = 1 by wilcoxon, two that
# hardly differ p = 0 by kruskal, with NumPy's warning of an overflow. (That mannwhitneyu's sums of
# ranks are rounded, which matters less, is scipy's issue 24777.)
#
# Whom it bites: whoever compares models by ranks of scores that come as tensors do, in float32 or float16. Cast to
# float64 first.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet scipy==1.17.1 numpy==2.4.6
cd "$work"
cat >seen.py <<'PY'
import math
import warnings

import numpy as np
from scipy import stats

DRAWS = 40


def as_type(kind, values):
    return [each.astype(kind) for each in values]


def both(test, values, kind):
    """Statistic and p-value in float64 and in the other type, of equal values."""
    narrow = as_type(kind, values)
    assert all(np.array_equal(one, other) for one, other in zip(values, narrow, strict=True))
    found = [test(*values), test(*narrow)]
    return [(float(each.statistic), float(each.pvalue)) for each in found]


random = np.random.default_rng(0)
ITEMS = 100_000
print(f"three models, {ITEMS} items, 99 of 100 answers right, in float64 and float32:")
for test in (stats.kruskal, stats.friedmanchisquare):
    changed, invalid, off, said = 0, 0, [], []
    for _ in range(DRAWS):
        right = [(random.random(ITEMS) < share).astype(float) for share in (0.99, 0.9903, 0.9906)]
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            (wide, wide_p), (narrow, narrow_p) = both(test, right, np.float32)
        said += warned
        off.append(abs(wide - narrow))
        invalid += narrow < 0 or math.isnan(narrow_p)
        changed += not math.isnan(narrow_p) and (wide_p < 0.05) != (narrow_p < 0.05)
    print(f"{test.__name__}: statistic off by {np.median(off):.2g} in the median and {max(off):.2g} at most; of {DRAWS}, "
          f"{changed} p-values change sides of 0.05, {invalid} are of a statistic below zero; {len(said)} warnings")
    assert max(off) > 1 and changed + invalid >= 2 and not said

ITEMS = 60
worse = -random.uniform(1, 3, ITEMS).astype(np.float16).astype(float)
better = (worse + random.uniform(0.1, 0.5, ITEMS)).astype(np.float16).astype(float)
same = (worse + random.normal(0, 0.1, ITEMS)).astype(np.float16).astype(float)
for test, values, wanted in ((stats.wilcoxon, (worse, better), 1.0), (stats.kruskal, (worse, same), 0.0)):
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        (wide, wide_p), (narrow, narrow_p) = both(test, values, np.float16)
    print(f"{test.__name__} of {ITEMS} items: p = {wide_p:.2g} in float64, {narrow_p:.2g} in float16;",
          sorted({str(each.message) for each in warned}))
    assert narrow_p == wanted and (wide_p < 1e-6 if wanted else wide_p > 0.1) and warned
print("as described")
PY
"$work/venv/bin/python" seen.py
