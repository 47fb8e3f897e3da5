"""``forwardcache demo``: the embedded model through five views, twice, and then compared.

The same machinery as ``score``, on a model small enough to ship. The second run asks the same
backend again: what the cache saves is the difference. Then that of ``diff``: whether the adapter
can be told from rounding and from random changes, and how little of it can be seen.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import forwardcache
from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import SCORING, check_installed
from forwardcache.jobs.metadata import deciding, facts_of
from forwardcache.jobs.options import ModelOptions, NamedAdapter, ScoreOptions
from forwardcache.jobs.prompts import TEXTS, read_prompts
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.views import View, parse_views

if TYPE_CHECKING:
    from rich.table import Table

    from forwardcache.jobs.differences import Comparison
    from forwardcache.jobs.metadata import Facts
    from forwardcache.jobs.results import RowSink
    from forwardcache.jobs.rows import Row
    from forwardcache.jobs.summary import JobFigures
    from forwardcache.statistics import DiffResult

ASSETS = Path(forwardcache.__file__).parent / "demo"
_NAMED = "base,ft,scaled:0.5,null:7,null:8"
VIEWS = parse_views(_NAMED, has_adapter=True)
TOP_K = 256
PROMPTS = str(ASSETS / "prompts.jsonl")


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the demo found.

    Attributes:
        found: The views against base.
        first: The run that computed.
        second: The run that asked again.
        equal: Whether both gave the same rows to the last digit.
        diff: The adapter against base at every position.
    """

    found: Comparison
    first: JobFigures
    second: JobFigures
    equal: bool
    diff: DiffResult

    @property
    def seconds_saved(self) -> float:
        """How much shorter the second run was."""
        return self.first.seconds - self.second.seconds

    @property
    def answers(self) -> tuple[str, str, str]:
        """What ``diff`` says of the adapter, a sentence a question."""
        from forwardcache.statistics import verdict_sentences

        [tuned] = self.diff.views
        return verdict_sentences(tuned)


class DigestedRows:
    """Passes rows on, if to anywhere, and keeps a digest of all but where they came from."""

    def __init__(self, sink: RowSink | None) -> None:
        self._sink = sink
        self.digest = hashlib.sha256()

    def write(self, rows: Sequence[Row]) -> None:
        """Take rows."""
        from forwardcache.jobs.rows import encoded

        self.digest.update(encoded([{**row, "hit": None} for row in rows]))
        if self._sink is not None:
            self._sink.write(rows)

    def publish(self, meta: Facts | None = None) -> None:
        """All rows were written."""
        if self._sink is not None:
            self._sink.publish(meta)

    def close(self) -> None:
        """Keep what was written, as it is."""
        if self._sink is not None:
            self._sink.close()


def demo(out: Path, *, json: bool) -> int:
    """Run the command; the exit code."""
    check_installed(*SCORING)
    out.mkdir(parents=True, exist_ok=True)
    rows, trace = out / "rows.jsonl", out / "trace.jsonl"
    say("loading torch and the demo model")
    # The weights are stored in half precision, which a CPU computes slowly.
    loading = ModelOptions(
        str(ASSETS / "model"),
        (NamedAdapter(None, str(ASSETS / "adapter")),),
        trace=trace,
        dtype="float32",
    )
    session = load(loading)
    try:
        outcome = _run(session, _as_of_score(loading, rows, json=json), rows)
    finally:
        session.close()
    if json:
        _print_json(outcome, rows, trace)
    else:
        _print_tables(outcome, rows, trace)
    return ExitCode.DONE


def _as_of_score(loading: ModelOptions, rows: Path, *, json: bool) -> ScoreOptions:
    """The options with which ``score`` writes the same rows; their facts are made of them."""
    return ScoreOptions(
        loading=loading,
        prompts=PROMPTS,
        views=_NAMED,
        op="next_token_dist",
        top_k=TOP_K,
        out=rows,
        force=True,
        resume=False,
        noise_floor=False,
        json=json,
    )


def _run(session: Session, options: ScoreOptions, rows: Path) -> Outcome:
    """Score the shipped prompts twice on one backend, then compare the adapter with base."""
    from forwardcache.cli.timing import timed_job
    from forwardcache.jobs.differences import comparison_of, update_norms
    from forwardcache.jobs.job import Scoring
    from forwardcache.jobs.planning import make_job
    from forwardcache.jobs.results import PartFile

    source = read_prompts(PROMPTS)
    job = make_job(session, source, options.op, VIEWS, top_k=options.top_k)
    say(f"{len(source.prompts)} prompts through {len(VIEWS)} views, twice")
    job_facts = deciding(options, source, VIEWS)
    sinks = DigestedRows(PartFile(rows, job_facts, force=True, resume=False)), DigestedRows(None)
    runs = []
    for name, sink in zip(("first run", "second run"), sinks, strict=True):
        scoring = Scoring(session.backend, session.recorder, job)
        try:
            with session.instrumentation.probe(name):
                runs.append(timed_job(session, scoring, sink))
            sink.publish(
                facts_of(
                    options,
                    job,
                    scoring.totals,
                    job_facts=job_facts,
                    skipped=scoring.totals.skipped,
                    arithmetic=session.arithmetic(),
                    noise_floor=None,
                )
            )
        finally:
            sink.close()
    norms = update_norms(session.backend, VIEWS)
    found = comparison_of(job, scoring.totals, norms=norms)
    equal = sinks[0].digest.digest() == sinks[1].digest.digest()
    return Outcome(found, runs[0], runs[1], equal, _diff(session, options.loading))


def _diff(session: Session, loading: ModelOptions) -> DiffResult:
    """The adapter against base, rounding, random changes of its norm, and its own fractions."""
    from forwardcache.jobs.diff.options import DiffOptions
    from forwardcache.jobs.diff.plan import make_plan
    from forwardcache.jobs.diff.run import run_diff

    options = DiffOptions(loading=loading, texts=PROMPTS, detect=True)
    plan = make_plan(
        session,
        read_prompts(PROMPTS, words=TEXTS),
        (View("ft"),),
        View("base"),
        in_windows=False,
    )
    return run_diff(session, plan, options, steps=_Said())


class _Said:
    """Says each step of ``diff``."""

    def begin(self, step: str) -> None:
        """``step`` begins."""
        say(step)


def _print_tables(outcome: Outcome, rows: Path, trace: Path) -> None:
    from forwardcache.cli import tables

    tables.show_comparison(sys.stdout, outcome.found, _runs_table(outcome))
    same = "the same values to the last digit" if outcome.equal else "OTHER VALUES"
    print(
        f"The second run took every value from the cache, {same}, and saved "
        f"{outcome.seconds_saved:.1f} of {outcome.first.seconds:.1f} s."
    )
    print(
        f"What forwardcache diff says of the adapter (ft), at {outcome.diff.positions:,} positions "
        f"of {outcome.diff.texts:,} texts:"
    )
    print("\n".join(outcome.answers))
    print(f"Rows: {rows}")
    print(f"Trace: {trace}")


def _runs_table(outcome: Outcome) -> Table:
    from rich.table import Table

    shown = Table("run", "computed", "hits", "hit rate", "seconds", "tokens/s")
    for column in shown.columns[1:]:
        column.justify = "right"
    for name, run in (("first", outcome.first), ("second", outcome.second)):
        stats = run.stats
        shown.add_row(
            name,
            f"{stats['forward_passes']:,}",
            f"{stats['cache_hits']:,}",
            f"{stats['hit_rate']:.0%}",
            f"{run.seconds:.2f}",
            f"{run.tokens_per_s:,.0f}" if run.tokens_run else "-",
        )
    return shown


def _print_json(outcome: Outcome, rows: Path, trace: Path) -> None:
    from forwardcache.cli import tables
    from forwardcache.jobs import summary

    told: dict[str, Any] = {
        "op": "next_token_dist",
        "views": summary.as_json(outcome.found),
        "notes": summary.notes(outcome.found),
        "runs": [outcome.first.as_json(), outcome.second.as_json()],
        "equal": outcome.equal,
        "seconds_saved": outcome.seconds_saved,
        "diff": outcome.diff.as_json(),
        "answers": list(outcome.answers),
        "rows": str(rows),
        "trace": str(trace),
    }
    tables.show_json(sys.stdout, told)
