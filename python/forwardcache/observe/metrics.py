"""Figures as Prometheus text (exposition format 0.0.4).

A rate is left to whoever reads: ``forwardcache_hits_total`` has ``forwardcache_lookups_total``
next to it, with the same labels. Seconds and bytes are the units, and counters end in ``_total``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import inf, isnan
from typing import NamedTuple

from forwardcache._core import BackendStats, __version__
from forwardcache._figures import CallStats, Report

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""What an endpoint says of the text in the header ``Content-Type``."""


class _OfCalls(NamedTuple):
    """A metric of each op and view."""

    name: str
    kind: str
    help: str
    value: Callable[[CallStats], float]


class _OfStats(NamedTuple):
    """A metric of the whole instrumentation."""

    name: str
    kind: str
    help: str
    value: Callable[[BackendStats], float]


_CALLS = (
    _OfCalls("lookups_total", "counter", "Prompts looked up.", lambda of: of.hits + of.misses),
    _OfCalls("hits_total", "counter", "Lookups that found a value.", lambda of: of.hits),
    _OfCalls("misses_total", "counter", "Lookups that found none.", lambda of: of.misses),
    _OfCalls("failed_total", "counter", "Prompts whose computation raised.", lambda of: of.failed),
    _OfCalls("waits_total", "counter", "Hits that waited for another thread.", lambda of: of.waits),
    _OfCalls("wait_seconds_total", "counter", "Time of those waits.", lambda of: of.wait_s),
    _OfCalls("compute_seconds_total", "counter", "Time of computations.", lambda of: of.compute_s),
    _OfCalls(
        "saved_seconds_total",
        "counter",
        "Time of computations that hits did not repeat.",
        lambda of: of.saved_s,
    ),
    _OfCalls("evictions_total", "counter", "Values that went for others.", lambda of: of.evictions),
    _OfCalls(
        "recomputed_total",
        "counter",
        "Values computed again after they were evicted.",
        lambda of: of.recomputed,
    ),
    _OfCalls("entries", "gauge", "Values that the cache holds.", lambda of: of.entries),
    _OfCalls(
        "held_bytes",
        "gauge",
        "Bytes that they count for; 0 where bytes are not counted.",
        lambda of: of.bytes,
    ),
)
_STATS = (
    _OfStats("forward_passes_total", "counter", "Prompts computed.", lambda of: of.forward_passes),
    _OfStats(
        "scoring_seconds_total",
        "counter",
        "Time of lookups and computations.",
        lambda of: of.scoring_wall_s,
    ),
    _OfStats("batches_total", "counter", "Batches computed.", lambda of: of.batches_sent),
    _OfStats("batched_prompts_total", "counter", "Prompts in them.", lambda of: of.batched_prompts),
    _OfStats("largest_batch", "gauge", "Most prompts in one.", lambda of: of.max_batch_size),
    _OfStats(
        "duplicate_computes_total",
        "counter",
        "Values computed though another thread was at it.",
        lambda of: of.duplicate_computes,
    ),
    _OfStats(
        "trace_lost_events_total",
        "counter",
        "Events that could not be written into the trace.",
        lambda of: of.trace_lost,
    ),
)


def prometheus_text(report: Report) -> str:
    """The figures of ``report``; each op and view has its labels ``op`` and ``view``.

    Args:
        report: What ``BackendInstrumentation.report`` gives; reports of several add up.

    Returns:
        Lines in UTF-8 text; half a surrogate pair in a name is written as its escape.
    """
    lines = _family("build_info", "gauge", "The version.", [(f'{{version="{__version__}"}}', 1)])
    text = [*lines]
    calls = _by_labels(report)
    for of_calls in _CALLS:
        samples = [(labels, of_calls.value(figures)) for labels, figures in calls.items()]
        text += _family(of_calls.name, of_calls.kind, of_calls.help, samples)
    for of_stats in _STATS:
        samples = [("", of_stats.value(report.stats))]
        text += _family(of_stats.name, of_stats.kind, of_stats.help, samples)
    return "".join(f"{line}\n" for line in text)


def _by_labels(report: Report) -> dict[str, CallStats]:
    """The figures under their labels; two names that are written alike are one."""
    found: dict[str, CallStats] = {}
    for (op, view_id), figures in sorted(report.calls.items()):
        labels = f'{{op="{_escaped(op)}",view="{_escaped(view_id)}"}}'
        found[labels] = found.get(labels, CallStats()) + figures
    return found


def _family(
    name: str, kind: str, meaning: str, samples: Iterable[tuple[str, float]]
) -> Iterator[str]:
    yield f"# HELP forwardcache_{name} {meaning}"
    yield f"# TYPE forwardcache_{name} {kind}"
    for labels, value in samples:
        yield f"forwardcache_{name}{labels} {_number(value)}"


def _escaped(name: str) -> str:
    encodable = name.encode("utf-8", "backslashreplace").decode("utf-8")
    return encodable.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _number(value: float) -> str:
    if isnan(value):
        return "NaN"
    return {inf: "+Inf", -inf: "-Inf"}.get(value) or repr(value)
