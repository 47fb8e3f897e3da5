"""Claims: two workers, of Ray or of this machine, write the rows that one process writes, in its
order and to the last digit, for every op; also if a worker is killed in the middle; each has a
trace of its own and every pass is in one of them; an unfinished run goes on with other workers;
what can't be done is one clear error.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from forwardcache import distributed
from forwardcache.distributed import scoring
from forwardcache.distributed.scoring import TeamScoring, make_job, team_for
from forwardcache.distributed.team import Team
from forwardcache.distributed.wire import options_of, packed_value
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.job import Scoring
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.jobs.planning import make_job as single_job
from forwardcache.jobs.prompts import Prompt, PromptSet, read_prompts
from forwardcache.jobs.rows import Row
from forwardcache.jobs.session import Session, load
from forwardcache.jobs.views import parse_views
from tests.cli.conftest import ASSETS, Run, read_rows, run
from tests.tolerance import TOLERANCE

__all__ = ["run"]

MODEL, ADAPTER = str(ASSETS / "model"), str(ASSETS / "adapter")
LINES = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines()[:40]
OPTIONS = ModelOptions(model=MODEL, adapters=(NamedAdapter(None, ADAPTER),), dtype="float32")
VIEWS = parse_views("base,ft,null:7", has_adapter=True)
OPS = ("next_token_dist", "rolling_logprob", "logprob_of")


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)


@pytest.fixture(scope="module")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(LINES), "utf-8")
    return path


@pytest.fixture(scope="module")
def source(prompts_file: Path) -> PromptSet:
    return read_prompts(str(prompts_file))


@pytest.fixture(scope="module")
def team(cluster: None) -> Iterator[Team]:
    with team_for(OPTIONS, workers=2, address="local") as team:
        assert isinstance(team, Team)
        yield team


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    session = load(OPTIONS)
    yield session
    session.close()


class Sink:
    """Keeps rows."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def write(self, rows: Any) -> None:
        self.rows += rows

    def publish(self, meta: Any = None) -> None: ...

    def close(self) -> None: ...

    def settle(self, tokens: int, prompts: int) -> None: ...


def rows_of_one_process(session: Session, source: PromptSet, op: str) -> list[Row]:
    sink, job = Sink(), single_job(session, source, op, VIEWS, top_k=8)
    Scoring(session.backend, session.recorder, job).run(sink, sink)
    # Parts of JSON, as they come from a worker.
    kept: list[Row] = json.loads(json.dumps(sink.rows))
    return kept


def rows_of(team: Team, source: PromptSet, op: str, done: int = 0) -> list[Row]:
    sink, job = Sink(), make_job(team, source, op, VIEWS, top_k=8)
    TeamScoring(team, job).run(sink, sink, done=done)
    return sink.rows


@pytest.mark.parametrize("op", OPS)
def test_two_workers_give_the_rows_of_one_process(
    team: Team, session: Session, source: PromptSet, op: str
) -> None:
    expected = rows_of_one_process(session, source, op)
    assert len(expected) == 3 * len(LINES)
    assert rows_of(team, source, op) == expected


def test_a_worker_killed_in_the_middle_changes_no_row(
    team: Team, session: Session, source: PromptSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_tasks = Team.run
    killed: list[int] = []
    session.backend.instrumentation.cache.clear()

    def killing(one: Team, method: str, tasks: int, task_of: Any) -> Iterator[bytes]:
        for count, result in enumerate(run_tasks(one, method, tasks, task_of)):
            if method == "rows" and count == 2:
                # One of the two may still be loading its model.
                killed.append(next(filter(None, (each.facts.get("pid") for each in one.members))))
                os.kill(killed[0], signal.SIGKILL)
            yield result

    expected = rows_of_one_process(session, source, "next_token_dist")
    monkeypatch.setattr(Team, "run", killing)
    found = rows_of(team, source, "next_token_dist")
    assert len(killed) == 1
    # Whether a pass ran before the kill, and its worker has it still, is a matter of chance.
    for row in (*found, *expected):
        row.pop("hit")
    assert found == expected
    assert sorted(member.number for member in team.members)[-1] == 2


def test_prompts_that_are_done_are_not_scored_again(team: Team, tmp_path: Path) -> None:
    # None of the prompts of other tests, which would then find them in the workers' caches.
    path = tmp_path / "others.txt"
    path.write_text("".join(f"line {number} of others\n" for number in range(1, 19)))
    rows = rows_of(team, read_prompts(str(path)), "rolling_logprob", done=12)
    assert [row["id"] for row in rows[::3]] == list(range(13, 19))


def test_a_prompt_that_can_not_be_scored_is_named(team: Team, tmp_path: Path) -> None:
    path = tmp_path / "long.txt"
    path.write_text("fine\n" + "x " * 5000)
    with pytest.raises(InvalidInputError, match=r"long.txt line 2: .*context length"):
        rows_of(team, read_prompts(str(path)), "next_token_dist")


def test_the_command_line_writes_the_same_file_and_a_trace_for_each_worker(
    cluster: None,
    run: Run,
    prompts_file: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def facts(team: Team) -> dict[str, Any]:
        # Otherwise the first that has loaded the model may be done before the second has.
        while not all(member.facts for member in team.members):
            team._wait(None)
        return team.members[0].facts

    monkeypatch.setattr(Team, "facts", facts)
    given = ["score", "--model", MODEL, "--adapter", ADAPTER, "--dtype", "float32"]
    given += ["--prompts", str(prompts_file), "--top-k", "8"]
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    trace = tmp_path / "trace.jsonl"
    assert run(*given, "--out", alone).code == 0
    ended = run(*given, "--out", shared, "--trace", trace, "--ray", "--workers", 2)
    assert ended.code == 0, ended.err
    assert shared.read_bytes() == alone.read_bytes()
    assert "80 values computed" in ended.err
    traces = sorted(tmp_path.glob("trace.*.jsonl"))
    assert [path.name for path in traces] == ["trace.0.jsonl", "trace.1.jsonl"]
    assert not trace.exists()
    events = [event for path in traces for event in read_rows(path)]
    assert sum(not event["hit"] for event in events) == 2 * len(LINES)


def test_processes_of_this_machine_write_the_file_that_one_process_writes(
    run: Run, prompts_file: Path, tmp_path: Path
) -> None:
    given = ["score", "--model", MODEL, "--adapter", ADAPTER, "--dtype", "float32"]
    given += ["--prompts", str(prompts_file), "--top-k", "8"]
    alone, shared = tmp_path / "alone.jsonl", tmp_path / "shared.jsonl"
    assert run(*given, "--out", alone).code == 0
    ended = run(*given, "--out", shared, "--workers", 2)
    assert ended.code == 0, ended.err
    assert shared.read_bytes() == alone.read_bytes()
    assert "forwardcache: 2 workers on this machine: 1 thread each" in ended.err
    assert "80 values computed" in ended.err


def test_from_python_rows_come_back(session: Session) -> None:
    pairs = [(text, " is") for text in ("A list", "Every function", "The value")]
    rows = distributed.score(
        pairs, model=MODEL, workers=1, op="logprob_of", views="base", dtype="float32"
    )
    with session.backend.as_base() as base:
        expected = base.logprob_of_batch(pairs)
    assert [(row["id"], row["view"]) for row in rows] == [(1, "base"), (2, "base"), (3, "base")]
    assert [row["logprob"] for row in rows] == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"op": "guess"}, "'guess'"),
        ({"prompts": [("a", "b", "c")]}, "'c'"),
    ],
)
def test_wrong_arguments_are_refused_before_a_worker_starts(
    options: dict[str, Any], names: str
) -> None:
    with pytest.raises(InvalidInputError, match=names):
        distributed.score(options.pop("prompts", ["a"]), model=MODEL, workers=1, **options)


def test_the_command_line_refuses_what_does_not_go_together(run: Run, prompts_file: Path) -> None:
    given = ["score", "--model", MODEL, "--prompts", prompts_file]
    run(*given, "--worker-cpus", 2).refused("--worker-cpus needs --workers")
    run(*given, "--ray").refused("--ray needs --workers")
    run(*given, "--ray", "auto").refused("--ray needs --workers")
    run(*given, "--ray", "--workers", 2, "--noise-floor").refused("--noise-floor")
    run(*given, "--workers", 2, "--noise-floor").refused("--noise-floor", "--workers")
    run(*given, "--workers", 2, "--dry-run").refused("--dry-run", "--workers")


def test_workers_are_told_whole_paths_and_have_no_copies_where_there_are_traces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[ModelOptions, dict[str, Any]]] = []

    def crew(workers: int, options: Callable[[int], bytes], **keywords: Any) -> None:
        made.append((options_of(options(3)), keywords))

    monkeypatch.setattr("forwardcache.distributed.local.LocalCrew", crew)
    monkeypatch.chdir(tmp_path)
    options = ModelOptions("m", (NamedAdapter("a", "b"),), tokenizer="t", store="values.db")
    for trace in (None, Path("trace.jsonl")):
        team_for(replace(options, trace=trace), workers=2, address=None, copies=True)
    (told, without), (traced, with_trace) = made
    assert (told.model, told.tokenizer) == (str(tmp_path / "m"), str(tmp_path / "t"))
    assert told.adapters == (NamedAdapter("a", str(tmp_path / "b")),)
    assert (told.store, told.trace) == (str(tmp_path / "values.db"), None)
    assert traced.trace == tmp_path / "trace.3.jsonl"
    assert (without["copies"], with_trace["copies"]) == (True, False)


@pytest.mark.parametrize("tokenizer", [None, "base", "adapter"])
def test_a_tokenizer_that_is_named_by_a_word_is_no_path(tokenizer: str | None) -> None:
    assert scoring._absolute(replace(OPTIONS, tokenizer=tokenizer)).tokenizer == tokenizer


def test_lengths_are_asked_for_in_parts_of_which_none_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Asked:
        def run(self, method: str, tasks: int, task_of: Callable[[int], bytes]) -> Iterator[bytes]:
            for number in range(tasks):
                _, items = json.loads(task_of(number))
                yield packed_value([len(item) for item in items])

    monkeypatch.setattr(scoring, "_LENGTHS", 2)
    prompts = PromptSet("it", tuple(Prompt(at, "x" * at) for at in range(1, 6)), sha256="")
    team: Any = Asked()
    assert scoring._lengths(team, prompts, "next_token_dist") == [1, 2, 3, 4, 5]


def test_a_trace_has_its_workers_number_in_its_name() -> None:
    assert scoring.trace_of(Path("a/trace.jsonl"), 3) == Path("a/trace.3.jsonl")
