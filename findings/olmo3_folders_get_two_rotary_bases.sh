#!/usr/bin/env bash
# transformers 5.24.0, an Olmo 3 folder whose config.json was written by transformers 4 (here 4.57.6).
#
# Expected: transformers 5 reads the older form, in which rope_theta stands at the top of config.json, for all layers as
# transformers 4 does: there Olmo 3 has one base, and only scaling is left out of the layers with a sliding window.
# Seen: the full-attention layers get the folder's base, and the layers with a sliding window, three in four, get 500000.
# The base is taken out of the settings when the first kind of layer is filled in, so the second finds none and gets the
# default. Olmo 3's own checkpoints have 500000 and hide it. But a configuration that 4.57.6 makes by default has 10000.
# A tiny model of random weights moves by 1.2 nats (with torch 2.15.0). Saved again, the folder has both bases for good.
# Nothing raises or warns. Olmo 2 and Llama keep their base.
#
# Whom it bites: whoever trained the architecture with a base of their own, or with the default of transformers 4, and
# now scores, compares or goes on training with transformers 5: it is another model. Write rope_parameters into the
# folder's config.json, with the base under "full_attention" and "sliding_attention".
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for version in 4.57.6 5.24.0; do
    python3 -m venv "$work/$version"
    "$work/$version/bin/pip" install --quiet "transformers==$version"
done
cd "$work"
cat >save.py <<'PY'
from transformers import LlamaConfig, Olmo2Config, Olmo3Config

for name, kind in {"olmo3": Olmo3Config, "olmo2": Olmo2Config, "llama": LlamaConfig}.items():
    kind().save_pretrained(f"{name} default")
    kind(rope_theta=20000.0).save_pretrained(f"{name} own")
Olmo3Config(rope_theta=500000.0).save_pretrained("olmo3 500000")
PY
cat >seen.py <<'PY'
import json
import logging
import warnings
from pathlib import Path

from transformers import AutoConfig

lines = []
listener = logging.Handler()
listener.emit = lambda record: lines.append(record.getMessage())
logging.getLogger("transformers").addHandler(listener)


def bases(config):
    """The rotary base by kind of layer."""
    parameters = config.rope_parameters
    nested = {kind: each["rope_theta"] for kind, each in parameters.items() if isinstance(each, dict)}
    return nested or {"all": parameters["rope_theta"]}


read = {}
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    for folder in sorted(each for each in Path().iterdir() if (each / "config.json").is_file()):
        written = json.loads((folder / "config.json").read_text())
        config = AutoConfig.from_pretrained(folder)
        config.save_pretrained(f"{folder} again")
        again = bases(AutoConfig.from_pretrained(f"{folder} again"))
        read[folder.name] = bases(config)
        print(f"{folder}: written {written['rope_theta']}, read {read[folder.name]}, saved and read again {again}")
        assert again == read[folder.name]
        if "olmo3" in folder.name:
            kinds = config.layer_types
            print(f"    {kinds.count('sliding_attention')} of its {len(kinds)} layers have a sliding window")
told = [*lines, *(str(each.message) for each in said)]
about = [each for each in told if "rope" in each.lower() or "theta" in each.lower()]
print("said about rotary settings:", about)
assert not about
assert read["olmo3 default"] == {"full_attention": 10000.0, "sliding_attention": 500000.0}
assert read["olmo3 own"] == {"full_attention": 20000.0, "sliding_attention": 500000.0}
assert read["olmo3 500000"] == {"full_attention": 500000.0, "sliding_attention": 500000.0}
assert read["olmo2 own"] == read["llama own"] == {"all": 20000.0}
assert read["olmo2 default"] == read["llama default"] == {"all": 10000.0}
print("as described")
PY
4.57.6/bin/python save.py
5.24.0/bin/python seen.py
