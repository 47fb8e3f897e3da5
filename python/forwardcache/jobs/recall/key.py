"""What the note on a model is kept under: all options of a run, but those that are named here.

An option that is new counts, until somebody says here why it needn't. The names of adapters count
with their folders: views are called by them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from forwardcache.jobs.options import ModelOptions, ScoreOptions
from forwardcache.jobs.recall.note import key_of

FREE_OF_LOADING = {
    "trace": "where events are written",
    "store": "where the note itself and all values are",
    "cache_bytes": "how many values are in memory, which come from the store again",
}
"""Options of loading that decide no view's place, no count of tokens and no fact; and why."""

FREE_OF_SCORING = {
    "loading": "each of its own counts",
    "prompts": "the prompts themselves are in the key of their tokens",
    "limit": "so are those that are left",
    "on_error": "a run that skipped a prompt keeps no note",
    "op": "its form is in the key of the tokens, the rest in the key of each value",
    "top_k": "it is in the key of each value",
    "views": "each is looked up in the note with all its parameters",
    "noise_floor": "what it comes to is in the note by what was asked",
    "ray": "a run of a cluster neither reads nor keeps a note",
    "workers": "as ray",
    "worker_cpus": "as ray",
    "dry_run": "it neither reads nor keeps a note",
    "out": "where rows are written",
    "force": "as out",
    "resume": "as out",
    "json": "how the comparison is written",
    "strict": "the exit code",
}
"""The same of the other options."""


def key_of_model(options: ScoreOptions, folders: Sequence[Path]) -> bytes:
    """What the note on the model of these options is kept under.

    Args:
        options: What was asked for.
        folders: Those that are read, by their whole paths: a name may be one of the folder that the
            process is in.
    """
    loading: ModelOptions = options.loading
    counted = _without(loading, FREE_OF_LOADING), _without(options, FREE_OF_SCORING)
    return key_of("model", *counted, list(map(str, folders)))


def _without(options: ModelOptions | ScoreOptions, free: dict[str, str]) -> dict[str, Any]:
    """All options by name, as JSON values, but the free ones."""
    plain = asdict(options)
    return {each.name: plain[each.name] for each in fields(options) if each.name not in free}


__all__ = ["FREE_OF_LOADING", "FREE_OF_SCORING", "key_of_model"]
