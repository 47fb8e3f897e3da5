"""Claims: each chunk of a job has one part and the manifest names it once, whatever was there
before: nothing, some of it, parts that were cut, parts of other prompts; only what is lacking is
computed, and it is found by its content; a folder is of one job, and what is foreign in it, another
driver or a file system that says no is one line; every option works or is refused.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from forwardcache.distributed.parts.folder import SUCCESS
from forwardcache.distributed.parts.lock import locked
from forwardcache.distributed.parts.manifest import Manifest
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.distributed.parts.table import PartRows
from forwardcache.jobs.differences import comparison_of
from forwardcache.jobs.job import CHUNK_PROMPTS, Job, Scoring
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.prompts import read_prompts
from forwardcache.jobs.rows import encoded
from forwardcache.jobs.summary import as_json
from forwardcache.jobs.views import parse_views
from tests.cli.conftest import ASSETS, Ended, Run, run
from tests.distributed.parts.here import Crew
from tools.stand_in import VOCABULARY, session_of

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
