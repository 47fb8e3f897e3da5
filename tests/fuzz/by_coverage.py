"""A target under atheris: ``python -m tests.fuzz.by_coverage TARGET`` and libFuzzer's arguments."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["forwardcache"]):
    from tests.fuzz.targets import TARGETS

if __name__ == "__main__":
    atheris.Setup([sys.argv[0], *sys.argv[2:]], TARGETS[sys.argv[1]])
    atheris.Fuzz()
