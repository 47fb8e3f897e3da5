"""Claims: each chunk of a job has one part and the manifest names it once, whatever was there
before: nothing, some of it, parts that were cut, parts of other prompts; only what is lacking is
computed, and it is found by its content; a folder is of one job, and what is foreign in it, another
driver or a file system that says no is one line; every option works or is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import chdir, contextmanager
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from forwardcache.distributed.parts.folder import SUCCESS, PartsFolder
from forwardcache.distributed.parts.lock import locked
from forwardcache.distributed.parts.manifest import Manifest
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.distributed.parts.receipts import Receipt, float64s, uint64s
from forwardcache.distributed.parts.table import PartRows
from forwardcache.distributed.parts.tally import Kept, Tally
from forwardcache.distributed.parts.work import PartsJob, _figures, lengths_of_lines, packed_lines
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.differences import comparison_of
from forwardcache.jobs.job import CHUNK_PROMPTS, Job, Scoring
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.prompts import Prompt, read_prompts
from forwardcache.jobs.rows import RawRow, encoded
from forwardcache.jobs.skips import Skipped
from forwardcache.jobs.summary import as_json
from forwardcache.jobs.views import parse_views
from forwardcache.operations import operation
from tests.cli.conftest import ASSETS, Ended, Run, run
from tests.distributed.parts.here import Crew
from tools.stand_in import VOCABULARY, StandIn, session_of

__all__ = ["run"]

assert CHUNK_PROMPTS == 256
LINES = [
    json.dumps({"prompt": f"prompt {at}", "id": f"p{at}", "tags": [at, None]}) for at in range(30)
]
CHUNKS = 8


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    found = Crew()
    monkeypatch.setattr("forwardcache.distributed.scoring.team_for", lambda *_, **__: found)
    return found


@pytest.fixture
def prompts(tmp_path: Path) -> Path:
    path = tmp_path / "prompts.jsonl"
    path.write_text("\n".join(LINES), "utf-8")
    return path


Score = Callable[..., Ended]


@pytest.fixture
def score(run: Run, crew: Crew, prompts: Path, tmp_path: Path) -> Score:
    """``score --parts`` into ``out``, with workers of this process."""

    def call(*words: object, out: object = tmp_path / "out", **keywords: Any) -> Ended:
        model = ["--model", ASSETS / "model", "--adapter", ASSETS / "adapter", "--top-k", 8]
        given = [] if "--prompts" in words else ["--prompts", prompts]
        crew.calls.clear()
        ended = run("score", *model, *given, "--parts", "--out", out, *words, **keywords)
        said = f"forwardcache: {crew.shared_out}\n"
        return Ended(ended.code, ended.out, ended.err.replace(said, ""))

    return call


def rows(out: object) -> list[tuple[int, str, str]]:
    """Line, view and carried fields of each row of a job that is done, in order."""
    folder = open_folder(str(out))
    found = []
    for chunk in Manifest(folder).chunks():
        part, lines = PartRows(folder.read(chunk.file)), chunk.lines()
        assert len(part) == chunk.rows
        for position, view, carried in zip(part.positions, part.views, part.input, strict=True):
            found.append((lines[position], part.facts.views[int(view)], part.inputs[int(carried)]))
    return found


def expected(lines: list[str], first: int = 1) -> list[tuple[int, str, str]]:
    """What ``rows`` gives for lines of JSON."""
    found = []
    for number, line in enumerate(lines, first):
        fields = json.loads(line)
        fields.pop("prompt")
        found += [(number, view, json.dumps(fields)) for view in ("base", "ft")]
    return found


def test_each_chunk_has_one_part(score: Score, crew: Crew, tmp_path: Path) -> None:
    assert score().code == 0
    assert crew.calls["part"] == CHUNKS
    assert rows(tmp_path / "out") == expected(LINES)
    folder = open_folder(str(tmp_path / "out"))
    assert folder.top() == ["_SUCCESS.json", "_job.json", "parts", "receipts"]
    facts = Manifest(folder).facts
    assert facts["counts"] == {"prompts": 30, "rows": 60, "hits": 0, "skipped": 0}
    assert facts["options"]["top_k"] == 8


def test_the_summary_and_the_merged_rows_are_those_of_one_process(
    score: Score, run: Run, prompts: Path, tmp_path: Path
) -> None:
    """Of a job that nothing is computed for, too: receipts hold what it needs."""
    session = session_of(ModelOptions(model="stand-in"))
    source = read_prompts(str(prompts))
    views = parse_views("base,ft", has_adapter=True)
    lengths = session.backend.token_lengths(source.items("next_token_dist"), op="")
    job = Job(source, lengths, "next_token_dist", views, 8, VOCABULARY)
    scoring = Scoring(session.backend, session.recorder, job)
    raw = b""
    for chunk in job.chunks():
        found = scoring.rows_of(chunk)[0]
        raw += encoded(found)
        for each in found:
            scoring.totals.note(each)
    expected_views = as_json(comparison_of(job, scoring.totals))

    whole = json.loads(score("--format", "json").out)
    assert whole["views"] == json.loads(json.dumps(expected_views))
    again = json.loads(score("--format", "json", "--resume").out)
    assert again["views"] == whole["views"]
    assert again["run"]["forward_passes"] == 0
    assert run("merge", tmp_path / "out", "-o", tmp_path / "rows.jsonl").code == 0
    assert (tmp_path / "rows.jsonl").read_bytes() == raw


@pytest.mark.parametrize("dies_after", [0, 1, CHUNKS - 1])
def test_what_was_done_is_not_done_again(
    score: Score, crew: Crew, tmp_path: Path, dies_after: int
) -> None:
    crew.dies_after = dies_after
    ended = score()
    ended.refused("interrupted", f"{dies_after * 4:,} of 30 prompts", "--resume", code=130)
    assert not (tmp_path / "out" / SUCCESS).exists()
    score().refused(f"{tmp_path / 'out'} holds an unfinished job: --resume goes on with it")
    crew.dies_after = None
    ended = score("--resume", "--workers", 3)
    assert ended.code == 0
    assert crew.calls["part"] == CHUNKS - dies_after
    assert rows(tmp_path / "out") == expected(LINES)
    score().refused("holds a job that is done")


def test_parts_are_found_by_their_content(
    score: Score, crew: Crew, prompts: Path, tmp_path: Path
) -> None:
    score()
    # A chunk more at the beginning, and blank lines: all others are what they were.
    more = [json.dumps({"prompt": f"new {at}"}) for at in range(4)]
    prompts.write_text("\n".join([*more, "", "", *LINES]), "utf-8")
    assert score("--resume").code == 0
    assert crew.calls["part"] == 1
    assert rows(tmp_path / "out") == expected(more) + expected(LINES, 7)
    # A carried field of one prompt: the same value, another row.
    changed = [*LINES]
    changed[9] = changed[9].replace("p9", "other")
    prompts.write_text("\n".join(changed), "utf-8")
    assert score("--resume").code == 0
    assert crew.calls["part"] == 1
    assert rows(tmp_path / "out") == expected(changed)
    # As it was at first: nothing to compute.
    prompts.write_text("\n".join(LINES), "utf-8")
    assert score("--resume").code == 0
    assert crew.calls["part"] == 0
    assert rows(tmp_path / "out") == expected(LINES)


def test_a_job_that_goes_on_with_more_prompts_is_not_done(
    score: Score, crew: Crew, run: Run, prompts: Path, tmp_path: Path
) -> None:
    score()
    prompts.write_text("\n".join([*LINES, json.dumps({"prompt": "one more"})]), "utf-8")
    crew.dies_after = 0
    assert score("--resume").code == 130
    run("merge", tmp_path / "out", "-o", tmp_path / "rows.jsonl").refused("isn't done")


def test_what_is_there_stays_until_the_new_job_can_begin(
    score: Score, prompts: Path, tmp_path: Path
) -> None:
    prompts.write_text("no JSON")
    score().refused("line 1")
    prompts.write_text("\n".join(LINES), "utf-8")
    assert score().code == 0
    prompts.write_text("no JSON")
    score("--force").refused("line 1")
    assert rows(tmp_path / "out") == expected(LINES)
    prompts.write_text("\n".join(LINES[:4]), "utf-8")
    assert score("--force").code == 0
    assert rows(tmp_path / "out") == expected(LINES[:4])
    assert len(open_folder(str(tmp_path / "out")).sizes("parts")) == 1


@pytest.mark.parametrize("which", [0, CHUNKS - 1])
def test_a_part_that_only_its_worker_sees_is_none(
    score: Score, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    part = crew._worker.part

    def elsewhere(task: bytes) -> bytes:
        result = part(task)
        if crew.calls["part"] == which + 1:
            (tmp_path / "out" / Receipt.of(result).file).unlink()
        return result

    monkeypatch.setattr(crew._worker, "part", elsewhere)
    score().refused("which isn't there as seen from here", "a folder that all workers")
    assert crew.calls["part"] == which + 1
    assert not (tmp_path / "out" / SUCCESS).exists()


def test_the_manifest_is_of_the_prompts_that_were_read(
    score: Score, crew: Crew, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    digest, part = sha256(prompts.read_bytes()).hexdigest(), crew._worker.part

    def growing(task: bytes) -> bytes:
        with prompts.open("a") as file:
            file.write("\n" + LINES[0])
        return part(task)

    monkeypatch.setattr(crew._worker, "part", growing)
    assert score().code == 0
    assert Manifest(open_folder(str(tmp_path / "out"))).facts["prompts"]["sha256"] == digest


def test_rows_do_not_go_among_the_prompts(score: Score, prompts: Path, tmp_path: Path) -> None:
    (folder := tmp_path / "prompts").mkdir()
    prompts.rename(folder / prompts.name)
    ended = score("--prompts", folder, out=folder / "out")
    ended.refused(f"--out {folder / 'out'} is in the folder of --prompts")
    assert not (folder / "out").exists()


@pytest.mark.parametrize("reads_ahead", [False, True])
def test_equal_chunks_are_computed_once(
    score: Score, crew: Crew, prompts: Path, tmp_path: Path, reads_ahead: bool
) -> None:
    lines = [*LINES[:8], *LINES[:8], *LINES[:8]]
    prompts.write_text("\n".join(lines), "utf-8")
    crew.dies_after, crew.reads_ahead = 1, reads_ahead
    score()
    crew.dies_after = None
    ended = score("--resume")
    assert ended.code == 0
    assert "12 of 24 prompts are there already" in ended.err
    assert crew.calls["part"] == 1
    assert rows(tmp_path / "out") == expected(lines)
    assert len({chunk.file for chunk in Manifest(open_folder(str(tmp_path / "out"))).chunks()}) == 2
    assert score("--force").code == 0
    assert crew.calls["part"] == 2
    assert rows(tmp_path / "out") == expected(lines)


@pytest.mark.parametrize("harm", ["cut", "gone"])
def test_a_part_that_is_harmed_is_computed_again(
    score: Score, crew: Crew, tmp_path: Path, harm: str
) -> None:
    score()
    victim = sorted((tmp_path / "out" / "parts").glob("*/*"))[3]
    whole = victim.read_bytes()
    victim.unlink() if harm == "gone" else victim.write_bytes(whole[:-1])
    assert score("--resume").code == 0
    assert crew.calls["part"] == 1
    assert rows(tmp_path / "out") == expected(LINES)


def test_a_folder_is_of_one_job(
    score: Score, crew: Crew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    score()
    crew.calls.clear()
    score("--resume", "--views", "base").refused("belongs to another job (other views)", "--force")
    assert crew.calls["part"] == 0
    monkeypatch.setattr("forwardcache.jobs.metadata.folder_fingerprint", lambda _: "other weights")
    score("--resume").refused("belongs to another job (other model, adapter)", "--force")
    assert rows(tmp_path / "out") == expected(LINES)
    (tmp_path / "out" / "_job.json").write_bytes(b"{")
    score("--resume").refused("_job.json is broken", "--force")
    before = set((tmp_path / "out" / "parts").glob("*/*"))
    assert score("--force").code == 0
    assert not before & set((tmp_path / "out" / "parts").glob("*/*"))
    assert rows(tmp_path / "out") == expected(LINES)


def test_foreign_files_are_left_alone(score: Score, crew: Crew, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    mine = tmp_path / "out" / "thesis.tex"
    mine.write_text("all of it")
    for words in ([], ["--force"], ["--resume"]):
        score(*words).refused("holds thesis.tex, which is of no job of parts")
    assert mine.read_text() == "all of it"
    assert list((tmp_path / "out").iterdir()) == [mine]


def test_two_drivers_on_one_folder(score: Score, tmp_path: Path) -> None:
    score()
    with locked(open_folder(str(tmp_path / "out")), take_over=False):
        for word in ("--resume", "--force"):
            score(word).refused(f"another run writes {tmp_path / 'out'} (process ")
    assert rows(tmp_path / "out") == expected(LINES)


def test_in_a_bucket(score: Score, crew: Crew, s3: str) -> None:
    out = f"{s3}/job"
    crew.dies_after = 3
    assert score(out=out).code == 130
    crew.dies_after = None
    score(out=out).refused("holds an unfinished job")
    assert score("--resume", out=out).code == 0
    assert crew.calls["part"] == CHUNKS - 3
    assert rows(out) == expected(LINES)
    folder = open_folder(out)
    assert folder.top() == ["_SUCCESS.json", "_job.json", "parts", "receipts"]
    with locked(folder, take_over=False):
        score("--resume", out=out).refused(f"another run writes {out} (process ")
    score(out="s3://no-such-bucket/x").refused("can't", "s3://no-such-bucket/x")


def test_prompts_that_fail_are_skipped_or_refused(
    score: Score, crew: Crew, prompts: Path, tmp_path: Path
) -> None:
    lines = [*LINES]
    lines[5] = '{"no": "prompt"}'
    prompts.write_text("\n".join(lines), "utf-8")
    score().refused(f'{prompts} line 6: no "prompt"')
    ended = score("--resume", "--on-error", "skip", "--strict")
    assert ended.code == 1
    assert "1 prompt was skipped; the first, line 6" in ended.err
    assert {line for line, _, _ in rows(tmp_path / "out")} == {*range(1, 31)} - {6}
    facts = Manifest(open_folder(str(tmp_path / "out"))).facts
    assert facts["counts"] == {"prompts": 30, "rows": 58, "hits": 0, "skipped": 1}
    assert [each["line"] for each in facts["skipped"]] == [6]


def test_prompts_that_the_model_fails_on(
    score: Score, crew: Crew, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is skipped stands in the receipt, and is asked for again where none is to be skipped."""
    from tools import stand_in

    whole = stand_in._View.values

    def failing(self: Any, op: Any, items: Any, *, on_error: str) -> list[Any]:
        from forwardcache.errors import ModelMemoryError

        found: list[Any] = whole(self, op, items, on_error=on_error)
        pairs = zip(items, found, strict=True)
        return [ModelMemoryError("too big") if a == "prompt 13" else b for a, b in pairs]

    with monkeypatch.context() as patch:
        patch.setattr(stand_in._View, "values", failing)
        score().refused(f"{prompts} line 14: too big")
        assert score("--resume", "--on-error", "skip").code == 0
        ended = score("--resume", "--on-error", "skip")
        assert crew.calls["part"] == 0
        assert "1 prompt was skipped; the first, line 14: too big" in ended.err
        assert {line for line, _, _ in rows(tmp_path / "out")} == {*range(1, 31)} - {14}
        assert Manifest(open_folder(str(tmp_path / "out"))).facts["skipped"][0]["id"] == "p13"
    assert score("--resume").code == 0
    assert crew.calls["part"] == 1
    assert rows(tmp_path / "out") == expected(LINES)


def test_what_workers_counted_is_told(
    score: Score, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of this run alone: a worker's own counts may be of more."""
    from tools import stand_in

    whole = stand_in._View.values

    def not_finite(self: Any, op: Any, items: Any, *, on_error: str) -> list[Any]:
        self._backend.nonfinite_results += 1
        found: list[Any] = whole(self, op, items, on_error=on_error)
        return found

    monkeypatch.setattr(stand_in._View, "values", not_finite)
    monkeypatch.setattr(stand_in._Backend, "nonfinite_results", 100)
    monkeypatch.setattr(crew, "close", lambda: 7)
    crew.dies_after = 3
    assert score().code == 130
    crew.dies_after = None
    ended = score("--resume", "--format", "json")
    # Of each chunk both views.
    assert f"{2 * (CHUNKS - 3)} values are not finite" in ended.err
    assert "7 events are missing in the trace" in ended.err
    tokens = sum(len(f"prompt {at}") // 4 + 1 for at in range(12, 30))
    assert json.loads(ended.out)["run"]["tokens_run"] == 2 * tokens


def test_force_with_resume_keeps_what_is_done(
    score: Score, crew: Crew, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    taken: list[bool] = []

    @contextmanager
    def noted(folder: object, *, take_over: bool) -> Iterator[None]:
        taken.append(take_over)
        yield

    monkeypatch.setattr("forwardcache.distributed.parts.lock.locked", noted)
    crew.dies_after = 3
    assert score().code == 130
    crew.dies_after = None
    assert score("--resume", "--force").code == 0
    assert crew.calls["part"] == CHUNKS - 3
    assert rows(tmp_path / "out") == expected(LINES)
    assert taken == [False, True]


def test_what_another_driver_did_before_the_lock_was_had_is_seen(
    score: Score, crew: Crew, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def late(folder: PartsFolder, *, take_over: bool) -> Iterator[None]:
        folder.put(SUCCESS, b"{}")
        yield

    monkeypatch.setattr("forwardcache.distributed.parts.lock.locked", late)
    score().refused("holds a job that is done")
    assert crew.calls["part"] == 0


@pytest.mark.parametrize("out", ["out", "file://out"])
def test_a_worker_in_another_folder_writes_to_the_same_one(
    score: Score, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, out: str
) -> None:
    part = StandIn.part

    def elsewhere(self: StandIn, task: bytes) -> bytes:
        with chdir("/"):
            return part(self, task)

    monkeypatch.setattr(StandIn, "part", elsewhere)
    monkeypatch.chdir(tmp_path)
    assert score(out=out).code == 0
    assert rows(tmp_path / "out") == expected(LINES)


def test_a_folder_is_of_one_template_and_of_no_facts_that_are_new(
    score: Score, crew: Crew, tmp_path: Path
) -> None:
    crew._facts["template"] = "one"
    score()
    crew._facts["template"] = "other"
    score("--resume").refused("belongs to another job (other text of the chat template)")
    crew._facts["template"] = "one"
    assert score("--resume").code == 0
    job = tmp_path / "out" / "_job.json"
    job.write_text(json.dumps({**json.loads(job.read_text()), "more": 1}))
    score("--resume").refused("belongs to another job (other more)")


def test_what_dead_writers_left_is_removed_at_the_end(score: Score, tmp_path: Path) -> None:
    left = tmp_path / "out" / "parts" / ".one.parquet.0123abcd.tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    assert score("--resume").code == 0
    assert not left.exists()


def test_what_receipts_come_to() -> None:
    one = Receipt(
        "ab" * 32, "parts/a", "", 1, rows=3, hits=1, tokens_run=5, nonfinite=1,
        skipped=[[1, 0, "first"], [2, None, "second"]], fewest_tokens=7, most_outside=0.5,
    )  # fmt: skip
    other = replace(one, rows=2, hits=2, tokens_run=6, fewest_tokens=9, most_outside=0.25)
    tally = Tally(operation("next_token_dist").figure)
    for receipt, lines in ((one, [4, 5, 9]), (replace(other, skipped=[]), [12])):
        tally.note_work(receipt)
        tally.note_rows(Kept.of(receipt), lines)
    assert (tally.rows, tally.hits, tally.tokens_run, tally.nonfinite) == (5, 3, 11, 2)
    assert (tally.fewest_tokens, tally.most_outside) == (7, 0.5)
    assert tally.skipped == [Skipped(5, 0, "first"), Skipped(9, 9, "second")]


def test_what_the_summary_needs_of_rows() -> None:
    found: list[dict[str, Any]] = [
        {"kl_lower_bound": 0.5, "mass_outside": 0.1, "compared_tokens": 8},
        {"kl_lower_bound": math.inf, "mass_outside": 0.3, "compared_tokens": 4},
        {"kl_base_nats": None},
        {"kl_lower_bound": 0.2, "mass_outside": math.inf, "compared_tokens": 6},
    ]
    raw = [RawRow(at, "ft", False, fields) for at, fields in enumerate(found)]
    texts = (("a", " b"), ("a", " c"), ("", " b"), ("", " c"))
    prompts = [Prompt(at, *pair) for at, pair in enumerate(texts, 1)]
    views = parse_views("base,ft", has_adapter=True)
    figures = _figures(operation("next_token_dist").figure, raw, prompts, views)
    assert figures["fields"] == ["kl_base_nats", "kl_lower_bound"]
    assert (figures["fewest_tokens"], figures["most_outside"]) == (4, 0.3)
    [(view, packed)] = figures["differences"].items()
    assert view == "ft"
    np.testing.assert_array_equal(float64s(packed), [0.5, math.nan, math.nan, 0.2])
    # A prompt with several completions is one text; a completion without a prompt is its own.
    first, same, third, fourth = uint64s(figures["texts"]).tolist()
    assert first == same
    assert len({first, third, fourth}) == 3


@pytest.mark.parametrize("op", ["logprob_of", "next_token_dist"])
def test_lengths_are_of_what_can_be_scored(op: str) -> None:
    """A line that lacks what the operation needs, or that the tokenizer refuses, has a reason."""

    def token_lengths(items: list[Any], *, op: str) -> list[Any]:
        return [InvalidInputError("too long") if "long" in str(each) else 1 for each in items]

    session: Any = SimpleNamespace(backend=SimpleNamespace(token_lengths=token_lengths))
    lines = [b'{"prompt": "a", "completion": "b"}', b'{"prompt": "long"}', b"{"]
    job = PartsJob("out", "cd" * 32, "json", op, (), 8, 8)
    found = lengths_of_lines(session, packed_lines(job.packed(), None, lines))
    lacking = "too long" if op == "next_token_dist" else "no completion"
    assert found[0] == 1
    assert lacking in str(found[1])
    assert all(isinstance(each, str) for each in found[1:])


def test_limit_and_standard_input(score: Score, crew: Crew, tmp_path: Path) -> None:
    piped = "\n".join(LINES).encode()
    assert score("--limit", 8, "--prompts", "-", stdin=piped).code == 0
    assert rows(tmp_path / "out") == expected(LINES[:8])
    assert score("--resume", "--prompts", "-", stdin=piped).code == 0
    assert crew.calls["part"] == CHUNKS - 2
    assert rows(tmp_path / "out") == expected(LINES)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--noise-floor"], "--noise-floor runs the model in this process"),
        (["--dry-run", "--resume"], "--dry-run doesn't go with --resume"),
        (["--ray"], "--ray needs --workers"),
    ],
)
def test_options_that_do_not_go_with_parts(score: Score, words: list[str], said: str) -> None:
    score(*words).refused(said)


def test_where_the_rows_go(score: Score, run: Run, prompts: Path, tmp_path: Path) -> None:
    model = ["score", "--model", ASSETS / "model", "--prompts", prompts]
    run(*model, "--parts").refused("--parts needs --out FOLDER")
    run(*model, "--out", "s3://bucket/rows.jsonl").refused("is a URL", "--parts")
    score(out=prompts).refused("is a file: --parts writes a folder")
    score(out=tmp_path / "none" / "out").refused("there is no folder")
    score("--trace", tmp_path / "out" / "trace.jsonl").refused("there is no folder")
    (tmp_path / "out").mkdir()
    score("--trace", tmp_path / "out" / "trace.jsonl").refused("--trace", "in the folder of --out")
    score("--store", tmp_path / "out" / "values.db").refused("--store", "in the folder of --out")
