"""The demo's model as somebody's backend."""

from __future__ import annotations

from forwardcache.hf import HFBackend


def make_backend() -> HFBackend:
    return HFBackend.load("MODEL_FOLDER", "ADAPTER_FOLDER", dtype="float32")
