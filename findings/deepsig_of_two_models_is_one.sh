#!/usr/bin/env bash
# deep-significance (deepsig) 1.2.8 with numpy 2.4.6 and scipy 1.17.1: almost stochastic order, aso and multi_aso.
#
# Expected: multi_aso of two models, which is one comparison, gives what aso gives for them; its Bonferroni correction,
# on by default, changes nothing there. With m comparisons the confidence is 1 - 0.05/m: the more, the stricter.
# Seen: multi_aso of two models is 1 whatever their scores are, "not better" both ways. And num_comparisons=100 is
# hardly stricter than no correction at all, and laxer than num_comparisons=2. The level becomes 0.95 + 0.05/m where
# 1 - 0.05/m is meant: 100 % for one comparison, whose bound is the trivial one, right for two, and nearly 95 % for
# many.
#
# Whom it bites: whoever compares two models with the function that is made for several (never better), and whoever
# compares many (better too often).
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet deepsig==1.2.8 numpy==2.4.6 scipy==1.17.1
"$work/venv/bin/python" -W ignore - <<'PY'
import numpy as np
from deepsig import aso, multi_aso

draws = np.random.default_rng(0)
options = {"seed": 1, "show_progress": False, "num_bootstrap_iterations": 200}
better, worse = (draws.normal(mean, 1.0, 30) for mean in (0.6, 0.0))
alone = aso(better, worse, **options)
two = multi_aso({"better": better.tolist(), "worse": worse.tolist()}, **options)
plain = multi_aso({"better": better.tolist(), "worse": worse.tolist()}, use_bonferroni=False, **options)
print(f"aso {alone:.3f}; multi_aso {two[0, 1]:.3f}, without its correction {plain[0, 1]:.3f}")
found, meant = {}, {}
for comparisons in (1, 2, 3, 10, 100):
    found[comparisons] = aso(better, worse, num_comparisons=comparisons, **options)
    meant[comparisons] = aso(better, worse, confidence_level=1 - 0.05 / comparisons, **options)
    print(f"{comparisons} comparisons: {found[comparisons]:.3f}, at 1 - 0.05/{comparisons} {meant[comparisons]:.3f}")
assert two[0, 1] == two[1, 0] == 1.0 and np.isclose(plain[0, 1], alone) and alone < 0.5, "this behaviour has changed"
assert np.isclose(found[2], meant[2]) and found[2] > found[3] > found[10] > found[100] > found[1]
assert meant[100] > meant[10] > meant[2] and found[100] - found[1] < 0.1 * (meant[100] - meant[1])
print("as described")
PY
