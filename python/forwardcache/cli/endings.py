"""What commands say at their end: of values, of traces, of the store, of how to go on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from forwardcache.cli.exits import say

if TYPE_CHECKING:
    from forwardcache.jobs.session import Session


def tell_of_nonfinite(values: int) -> None:
    """Say how many values are not finite, if any."""
    if values:
        say(
            f"{values:,} values are not finite (null in the rows): "
            "is the model sound in this dtype?"
        )


def tell_of_missing(events: int) -> None:
    """Say how many events the traces lack, if any."""
    if events:
        say(f"{events:,} events are missing in the trace: it could not be written")


def tell_of_traces(trace: Path | None) -> None:
    """Say where the workers' traces are.

    Args:
        trace: The one that was asked for; None for none.
    """
    if trace is not None:
        from forwardcache.distributed.scoring import trace_of

        say(f"each worker has a trace, {trace_of(trace, '*')}: see trace merge")


def tell_of_store(session: Session) -> None:
    """Say what the store had, and what was kept there, if there is one."""
    if session.store is None:
        return
    figures = session.backend.store
    say(f"store: {figures.hits:,} values found, {figures.kept:,} computed and kept")
    if figures.damaged:
        say(f"{figures.damaged:,} values in the store were damaged, and were computed again")
    if figures.not_kept:
        say(f"{figures.not_kept:,} values could not be kept in the store")
    if figures.verified:
        share = f"{figures.mismatches:,} of {figures.verified:,}"
        say(f"verified: {share} values that were computed again are not what was kept")


def how_to_go_on(out: Path, done: str) -> str:
    """What to say of a run that was interrupted and left rows.

    Args:
        out: Where they would have gone.
        done: Of what there are rows, such as ``3 of 5 prompts``.
    """
    from forwardcache.jobs.outfile import part_of

    force = " --force" if out.exists() else ""
    return (
        f"interrupted; the rows of {done} are in {part_of(out)}, the same command with "
        f"--resume{force} goes on"
    )
