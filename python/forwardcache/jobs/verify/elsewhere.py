"""Is it the arithmetic that the rows were computed with? Another one moves their last digits."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from forwardcache.jobs.metadata import versions

_PACKAGES = ("forwardcache", "torch", "transformers", "peft", "tokenizers")


def differing(
    recorded: Mapping[str, Any], here: Mapping[str, Any], recorded_versions: Mapping[str, Any]
) -> list[str]:
    """What is another than when the rows were made, in words.

    Args:
        recorded: Dtype, device and kernels of the run.
        here: Those of this one.
        recorded_versions: By package, of the run.
    """
    said = []
    for name in ("dtype", "device", "gpu", "cpu_capability", "attention"):
        was, now = (_plain(name, each) for each in (recorded, here))
        if was != now and not (name == "cpu_capability" and here.get("gpu")):
            said.append(f"{_WORDS.get(name, name)} {was} then, {now} here")
    now_of = versions()
    return said + [
        f"{name} {recorded_versions.get(name)} then, {now_of[name]} here"
        for name in _PACKAGES
        if recorded_versions.get(name) != now_of[name]
    ]


_WORDS = {"cpu_capability": "kernels", "gpu": "GPU"}


def _plain(name: str, facts: Mapping[str, Any]) -> str:
    """A fact as text; of a device its kind."""
    value = str(facts.get(name))
    return value.partition(":")[0] if name == "device" else value
