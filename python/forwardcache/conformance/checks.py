"""The checks by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from forwardcache.conformance import seed, strict
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.subject import Subject

__all__ = ["CHECKS", "PROFILES", "START", "Check", "checks_of"]

PROFILES = ("seed", "strict")
"""The profiles, each with all checks of the one before it."""

Needs = Literal["new", "started", "cleaned", "nothing"]


@dataclass(frozen=True)
class Check:
    """One check.

    Attributes:
        name: Its name, as in reports and test ids.
        find: Yields the failures that it finds in a subject.
        needs: The state in which the engine must be.
        profile: The first profile that has it.
    """

    name: str
    find: Callable[[Subject], Failures]
    needs: Needs = "started"
    profile: str = "seed"


START = Check("start", seed.start, needs="new")

CHECKS = (
    START,
    Check("kv_event_sources", seed.kv_event_sources),
    Check("setup_metrics", seed.setup_metrics),
    Check("single_generate", seed.single_generate),
    Check("concurrent_generates", seed.concurrent_generates),
    Check("cancellation", seed.cancellation),
    Check("token_ids", strict.token_ids, profile="strict"),
    Check("usage", strict.usage, profile="strict"),
    Check("mid_stream_cancellation", strict.mid_stream_cancellation, profile="strict"),
    Check("cancel_while_opening", strict.cancel_while_opening, profile="strict"),
    Check("concurrent_streams", strict.concurrent_streams, profile="strict"),
    Check("cross_talk", strict.cross_talk, profile="strict"),
    Check("neighbours", strict.neighbours, profile="strict"),
    Check("dropped_streams", strict.dropped_streams, profile="strict"),
    Check("event_loop", strict.event_loop, profile="strict"),
    Check("cleanup", seed.cleanup),
    Check("left_behind", strict.left_behind, needs="cleaned", profile="strict"),
    Check("cleanup_without_start", seed.cleanup_without_start, needs="nothing"),
    Check(
        "cleanup_after_failed_start",
        strict.cleanup_after_failed_start,
        needs="nothing",
        profile="strict",
    ),
)


def checks_of(profile: str) -> tuple[Check, ...]:
    """The checks of ``profile``, in order.

    Raises:
        ValueError: there is no such profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    wanted = PROFILES[: PROFILES.index(profile) + 1]
    return tuple(check for check in CHECKS if check.profile in wanted)
