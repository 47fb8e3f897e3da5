"""The checks by name, in the order in which they run, and what each rests on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from forwardcache.conformance.adapter import company, single
from forwardcache.conformance.adapter.session import Findings, Session

__all__ = ["CHECKS", "IGNORED", "PROFILES", "Check", "checks_of"]

IGNORED = "all_linear, as a whole"
"""Has failed where an engine ignores adapters or can't load them: each part would say it again."""

PROFILES = ("quick", "full")
"""``full`` asks for more and longer texts, and has all checks."""


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Its name, as in reports and test ids.
        find: Yields the failures that it finds in an engine.
        needs: Checks after whose failure this one would say the same again.
        profile: The first profile that has it.
    """

    name: str
    find: Callable[[Session], Findings]
    needs: tuple[str, ...] = ("base", "base_kept", IGNORED)
    profile: str = "quick"


def _planted(name: str, profile: str = "quick") -> Check:
    return Check(name, partial(single.planted, name=name), profile=profile)


_ALONE = ("base", "base_kept", "all_linear")
_BESIDE = (*_ALONE, "two_adapters")
_KINDS = ("q", "k", "v", "qkv", "o", "gate", "up", "gate_up", "down", "embedding", "head")
_SETTINGS = ("first_layer", "last_layer", "rank_pattern", "alpha_pattern", "rslora")

CHECKS = (
    Check("base", single.base, needs=()),
    Check("all_linear", partial(single.planted, name="all_linear"), needs=("base",)),
    Check("base_kept", single.base_kept, needs=("base",)),
    *(_planted(name) for name in (*_KINDS, *_SETTINGS)),
    _planted("lora_bias", "full"),
    Check("two_adapters", company.two_adapters, _ALONE),
    Check("reload", company.reload, _BESIDE),
    Check("reload_after_unload", company.reload_after_unload, _BESIDE),
    Check("same_adapter", company.same_adapter, _ALONE),
    Check("concurrency", company.concurrency, (*_BESIDE, "same_adapter")),
    Check("prefixes", company.prefixes, _BESIDE),
)


def checks_of(profile: str) -> tuple[Check, ...]:
    """The checks of ``profile``, in order.

    Raises:
        ValueError: there is no such profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    return tuple(each for each in CHECKS if profile == "full" or each.profile == "quick")
