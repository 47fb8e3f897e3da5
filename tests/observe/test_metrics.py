"""``metrics()`` through the reference parser: names, labels, numerators and denominators."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from forwardcache import BackendInstrumentation, BackendStats, CallStats, Report
from forwardcache.observe.metrics import prometheus_text
from tests.instrumentation.doubles import raising
from tests.patience import PATIENCE_S

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parsed(text: str) -> Samples:
    """Each sample under its name and labels; none twice."""
    samples: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            name = (sample.name, tuple(sorted(sample.labels.items())))
            assert name not in samples
            samples[name] = sample.value
    return samples


def at(samples: Samples, name: str, op: str | None = None, view: str | None = None) -> float:
    labels = () if op is None or view is None else (("op", op), ("view", view))
    return samples[f"forwardcache_{name}", labels]


def worked() -> BackendInstrumentation:
    """Ops and views with hits, misses, a failure and a batch."""
    inst = BackendInstrumentation(cache_maxsize=2, cache_max_bytes=1 << 20)
    for view in ("base", "ft", "ft", "null_7", "base"):
        inst.cached("dist", view, "prompt", 8, lambda: b"value")
    inst.cached_batch("roll", "ft", ["a", "b", "a"], 8, lambda indices: indices)
    with pytest.raises(ValueError, match="no"):
        inst.cached("roll", "ft", "c", 8, raising(ValueError("no")))
    return inst


def test_the_samples_are_the_figures_of_the_report() -> None:
    inst = worked()
    report, samples = inst.report(), parsed(inst.metrics())
    assert set(report.calls) == {
        ("dist", "base"),
        ("dist", "ft"),
        ("dist", "null_7"),
        ("roll", "ft"),
    }
    for (op, view), figures in report.calls.items():
        expected = {
            "lookups_total": figures.hits + figures.misses,
            "hits_total": figures.hits,
            "misses_total": figures.misses,
            "failed_total": figures.failed,
            "waits_total": figures.waits,
            "wait_seconds_total": figures.wait_s,
            "compute_seconds_total": figures.compute_s,
            "saved_seconds_total": figures.saved_s,
            "evictions_total": figures.evictions,
            "recomputed_total": figures.recomputed,
            "entries": figures.entries,
            "held_bytes": figures.bytes,
        }
        assert {name: at(samples, name, op, view) for name in expected} == expected
    stats = inst.stats
    assert at(samples, "forward_passes_total") == stats.forward_passes == 6
    assert at(samples, "scoring_seconds_total") == stats.scoring_wall_s > 0
    assert at(samples, "batches_total") == 1
    assert at(samples, "batched_prompts_total") == at(samples, "largest_batch") == 2
    assert at(samples, "failed_total", "roll", "ft") == 1
    assert at(samples, "evictions_total", "dist", "base") == 2


def test_numerators_and_denominators_give_the_rates_of_the_statistics() -> None:
    inst = worked()
    samples = parsed(inst.metrics())

    def total(metric: str) -> float:
        return sum(value for (name, _), value in samples.items() if name == metric)

    hits, lookups = total("forwardcache_hits_total"), total("forwardcache_lookups_total")
    assert hits / lookups == inst.stats.hit_rate
    mean = at(samples, "batched_prompts_total") / at(samples, "batches_total")
    assert mean == inst.stats.avg_batch_size


def test_counters_end_in_total_gauges_do_not_and_each_has_its_help() -> None:
    text = worked().metrics()
    kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    helps = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    assert kinds.keys() == helps.keys()
    assert len(re.findall(r"^# TYPE", text, re.MULTILINE)) == len(kinds)
    for name, kind in kinds.items():
        assert kind == ("counter" if name.endswith("_total") else "gauge")
        assert not re.search(r"_(ms|milliseconds|kb|mb)(_|$)", name)
    assert {name for name, _ in parsed(text)} == kinds.keys()


def test_an_instrumentation_without_calls_has_its_totals() -> None:
    samples = parsed(BackendInstrumentation().metrics())
    assert at(samples, "forward_passes_total") == 0
    assert not [name for name, labels in samples if ("op", "dist") in labels]


def test_counters_of_two_looks_never_fall() -> None:
    inst = worked()
    first = parsed(inst.metrics())
    inst.cached("dist", "base", "another", 8, lambda: 1)
    inst.invalidate()
    second = parsed(inst.metrics())
    falling = {name for name, _ in first if any(
        second[key] < value for key, value in first.items() if key[0] == name)}  # fmt: skip
    assert falling == {"forwardcache_entries", "forwardcache_held_bytes"}


def test_a_look_alike_of_the_statistics_is_refused() -> None:
    inst = BackendInstrumentation()
    inst.stats = object()
    with pytest.raises(TypeError, match="BackendStats"):
        inst.metrics()


@given(st.lists(st.tuples(st.text(max_size=5), st.text('\\n"\n\r{},=é', max_size=5)), unique=True))
def test_any_name_comes_back_through_the_parser(calls: list[tuple[str, str]]) -> None:
    figures = {call: CallStats(hits=number) for number, call in enumerate(calls)}
    samples = parsed(prometheus_text(Report(BackendStats(), figures)))
    for number, (op, view) in enumerate(calls):
        assert at(samples, "hits_total", op, view) == number


def test_names_that_are_no_text_are_escaped_and_counted_together_where_they_meet() -> None:
    figures = {("\ud800", "v"): CallStats(hits=1), ("\\ud800", "v"): CallStats(hits=2)}
    text = prometheus_text(Report(BackendStats(), figures))
    text.encode("utf-8")
    assert at(parsed(text), "hits_total", "\\ud800", "v") == 3


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, 0.1 + 0.2, 2**60])
def test_any_number_comes_back_through_the_parser(value: Any) -> None:
    stats = BackendStats()
    stats.scoring_wall_s = value
    read = at(parsed(prometheus_text(Report(stats))), "scoring_seconds_total")
    assert read == value or (math.isnan(read) and math.isnan(value))


def test_it_needs_nothing_but_the_base_install() -> None:
    script = (
        "import sys; from forwardcache import BackendInstrumentation\n"
        "assert BackendInstrumentation().metrics()\n"
        "names = {'torch', 'numpy', 'rich', 'polars', 'prometheus_client', 'typer'}\n"
        "assert not names & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=PATIENCE_S)


def test_names_that_utf_8_does_not_have_stand_once_with_all_their_figures() -> None:
    inst = BackendInstrumentation()
    for view_id in ("\ud83e", "a\udc80b", "\ud83e" + "\udd14", "\U0001f914"):
        inst.cached("op", view_id, "a", 8, lambda: 1)
    inst.cached("\udc80", "base", "a", 8, lambda: 1)
    text = inst.metrics()
    for name in ("lookups_total", "misses_total", "entries"):
        found = re.findall(rf'^forwardcache_{name}{{op="(.*)",view="(.*)"}} (.*)$', text, re.M)
        assert sorted(found) == [
            (r"\\udc80", "base", "1"),
            ("op", r"\\ud83e", "1"),
            ("op", r"\\ud83e\\udd14", "1"),
            ("op", r"a\\udc80b", "1"),
            ("op", "\U0001f914", "1"),
        ]
