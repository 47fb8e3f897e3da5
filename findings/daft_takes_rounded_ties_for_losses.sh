#!/usr/bin/env bash
# daft 0.7.26 with numpy 2.4.6.
#
# Expected: a negative zero equals zero and isn't below it, as IEEE 754 says and as numpy, SQL engines and Python do.
# Seen: Daft's comparisons order floats by their bits, so that -0.0 is below 0.0 and equals only -0.0: in where, in its
# SQL, in is_in and between, and in joins; groups are two. Negative zeros come of ordinary steps: Daft's own round gives
# one for every small negative difference, and so does the log-probability 0 of a certain token times -1. The
# documentation of these comparisons doesn't say so.
#
# Whom it bites: whoever counts wins, ties and losses of two models in Daft with differences that were rounded first:
# every second tie is a loss. "surprisal == 0" finds no certain token, and "surprisal < 0" finds them all.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet daft==0.7.26 numpy==2.4.6
cd "$work"
cat >seen.py <<'PY'
import daft
import numpy as np
from daft import col

# 1,000 texts for which two models agree up to rounding, and 10 that one of them really reads worse.
delta = np.random.default_rng(0).normal(scale=1e-9, size=1_000).tolist() + [-0.5] * 10
texts = daft.from_pydict({"delta": delta}).with_column("rounded", col("delta").round(6))
rounded = np.array(texts.to_pydict()["rounded"])
count = {
    "ties": texts.where(col("rounded") == 0).count_rows(),
    "losses": texts.where(col("rounded") < 0).count_rows(),
    "losses in SQL": daft.sql("SELECT * FROM texts WHERE rounded < 0", texts=texts).count_rows(),
    "joined with 0": texts.join(daft.from_pydict({"rounded": [0.0]}), on="rounded").count_rows(),
    "groups": texts.groupby("rounded").agg(col("delta").count()).count_rows(),
}
right = {"ties": int((rounded == 0).sum()), "losses": int((rounded < 0).sum()), "groups": len(np.unique(rounded))}
print("Daft:", count)
print("numpy of the same column:", right)
surprisals = daft.from_pydict({"logprob": [0.0, -1.5]}).select((col("logprob") * -1.0).alias("surprisal"))
certain = surprisals.where(col("surprisal") == 0).count_rows(), surprisals.where(col("surprisal") < 0).count_rows()
print("of one certain token, surprisal == 0 finds %d, surprisal < 0 finds %d" % certain)
assert right == {"ties": 1_000, "losses": 10, "groups": 2}
assert 400 < count["ties"] < 600 and count["losses"] == count["losses in SQL"] == 1_010 - count["ties"]
assert count["joined with 0"] == count["ties"] and count["groups"] == 3
assert certain == (0, 1)
print("as described")
PY
DO_NOT_TRACK=true "$work/venv/bin/python" seen.py
