"""The checks by name, in the order in which they run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from forwardcache.conformance import media, seed
from forwardcache.conformance.seed import Failures
from forwardcache.conformance.strict import counts, leftovers, stops, together
from forwardcache.conformance.subject import Subject

__all__ = [
    "CHECKS",
    "ENCODE",
    "PROFILES",
    "RAW",
    "START",
    "Check",
    "checks_of",
    "names_of_checks",
    "start_of",
]

PROFILES = ("seed", "strict", "encode", "raw")
"""``strict`` has all checks of ``seed``; the other two are for engines of another kind."""

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
RAW_START = Check("raw_start", media.raw_start, needs="new")

CHECKS = (
    START,
    Check("kv_event_sources", seed.kv_event_sources),
    Check("setup_metrics", seed.setup_metrics),
    Check("single_generate", seed.single_generate),
    Check("concurrent_generates", seed.concurrent_generates),
    Check("cancellation", seed.cancellation),
    Check("token_ids", counts.token_ids, profile="strict"),
    Check("usage", counts.usage, profile="strict"),
    Check("token_limits", counts.token_limits, profile="strict"),
    Check("mid_stream_cancellation", stops.mid_stream_cancellation, profile="strict"),
    Check("cancel_while_opening", stops.cancel_while_opening, profile="strict"),
    Check("concurrent_streams", together.concurrent_streams, profile="strict"),
    Check("cross_talk", together.cross_talk, profile="strict"),
    Check("shared_prefixes", together.shared_prefixes, profile="strict"),
    Check("neighbours", together.neighbours, profile="strict"),
    Check("dropped_streams", leftovers.dropped_streams, profile="strict"),
    Check("cancelled_waiter", stops.cancelled_waiter, profile="strict"),
    Check("event_loop", leftovers.event_loop, profile="strict"),
    Check("cleanup", seed.cleanup),
    Check("left_behind", leftovers.left_behind, needs="cleaned", profile="strict"),
    Check("cleanup_without_start", seed.cleanup_without_start, needs="nothing"),
    Check(
        "cleanup_after_failed_start",
        leftovers.cleanup_after_failed_start,
        needs="nothing",
        profile="strict",
    ),
)


ENCODE = (
    START,
    Check("kv_event_sources", seed.kv_event_sources),
    Check("setup_metrics", seed.setup_metrics),
    Check("encode_generate", media.encode_generate),
    Check("encode_concurrent_generates", media.encode_concurrent_generates),
    Check("encode_cancellation", media.encode_cancellation),
    Check("cleanup", seed.cleanup),
    Check("cleanup_without_start", seed.cleanup_without_start, needs="nothing"),
)

RAW = (
    RAW_START,
    Check("raw_generate", media.raw_generate),
    Check("raw_concurrent_generates", media.raw_concurrent_generates),
    Check("raw_cancellation", media.raw_cancellation),
    Check("cleanup", seed.cleanup),
    Check("cleanup_without_start", seed.cleanup_without_start, needs="nothing"),
)


def checks_of(profile: str) -> tuple[Check, ...]:
    """The checks of ``profile``, in order.

    Raises:
        ValueError: there is no such profile.
    """
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    if profile == "encode":
        return ENCODE
    if profile == "raw":
        return RAW
    wanted = PROFILES[: PROFILES.index(profile) + 1]
    return tuple(check for check in CHECKS if check.profile in wanted)


def start_of(profile: str) -> Check:
    """The check that starts the engine."""
    return RAW_START if profile == "raw" else START


def names_of_checks() -> tuple[str, ...]:
    """The names of all checks of all profiles."""
    return tuple(dict.fromkeys(check.name for check in (*CHECKS, *ENCODE, *RAW)))
