"""Claims: with ``--on-error skip`` a prompt that can't be scored is left out, counted and told with
its line, id and reason, and all others have the rows that they have without it; an interrupted run
keeps that; without the option the first such prompt ends the run by its line.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from forwardcache.errors import InvalidInputError, ModelMemoryError
from forwardcache.hf.scoring.scorer import Scorer
from forwardcache.jobs.results import PartFile
from tests.cli.conftest import Ended, Run, read_rows

GOOD = [json.dumps({"prompt": f"prompt number {n}", "id": f"own-{n}"}) for n in range(10)]
BAD = {
    3: ("{not json", 3, "not JSON"),
    5: ('{"id": "no-text", "text": "x"}', "no-text", 'no "prompt"'),
    6: ('{"prompt": 7, "id": 8}', 8, '"prompt" is not a string'),
    8: (json.dumps({"prompt": "far too long " * 400}), 8, "context length"),
}


def mixed() -> bytes:
    """Good lines with bad ones among them, those of ``BAD`` in their places."""
    lines, good = [], iter(GOOD)
    for number in range(1, len(GOOD) + len(BAD) + 1):
        lines.append(BAD[number][0] if number in BAD else next(good))
    return "\n".join(lines).encode() + b"\n"


def told(ended: Ended) -> list[dict[str, Any]]:
    skipped: list[dict[str, Any]] = json.loads(ended.out)["skipped"]
    return skipped


def failing(monkeypatch: pytest.MonkeyPatch, word: str, error: Exception, *, view: str) -> None:
    """Makes the model fail on prompts that hold ``word``, in one view."""
    many = Scorer.many

    def failed(self: Scorer, spec: Any, op: Any, items: Sequence[Any], on_error: Any) -> list[Any]:
        found = many(self, spec, op, items, on_error)
        here = "base" if spec is not None and spec.view_id == "base" else "ft"
        return [
            error if word in str(item) and here == view else value
            for item, value in zip(items, found, strict=True)
        ]

    monkeypatch.setattr(Scorer, "many", failed)


def test_what_can_t_be_scored_is_left_out_and_told(score: Run, tmp_path: Path) -> None:
    out, alone = tmp_path / "rows.jsonl", tmp_path / "alone.jsonl"
    options = ("--prompts", "-", "--on-error", "skip", "--format", "json", "--top-k", 8)
    ended = score(*options, "--out", out, stdin=mixed())
    assert ended.code == 0, ended.err
    found = told(ended)
    assert [(one["line"], one["id"]) for one in found] == [(n, BAD[n][1]) for n in BAD]
    for one in found:
        assert BAD[one["line"]][2] in one["reason"]
    assert "4 prompts were skipped; the first, line 3: not JSON" in ended.err
    score("--prompts", "-", "--top-k", 8, "--out", alone, stdin="\n".join(GOOD).encode())
    rows, expected = read_rows(out), read_rows(alone)
    assert [{**one, "line": 0} for one in rows] == [{**one, "line": 0} for one in expected]


def test_strict_says_so_by_its_exit_status(score: Run) -> None:
    skip = ("--prompts", "-", "--views", "base", "--on-error", "skip", "--strict")
    assert score(*skip, stdin=mixed()).code == 1
    assert score(*skip, stdin=GOOD[0].encode()).code == 0


def test_without_it_the_first_bad_prompt_ends_the_run(score: Run) -> None:
    score("--prompts", "-", stdin=mixed()).refused("standard input line 3: not JSON")
    only_long = "\n".join([GOOD[0], BAD[8][0]]).encode()
    score("--prompts", "-", stdin=only_long).refused("standard input line 2: ")


def test_a_prompt_without_completion_is_one_too(score: Run) -> None:
    lines = [GOOD[0], '{"prompt": "a", "completion": " b"}', '{"prompt": "a", "completion": ""}']
    options = ("--prompts", "-", "--op", "logprob_of", "--on-error", "skip", "--views", "base")
    ended = score(*options, stdin="\n".join(lines).encode())
    assert [row["line"] for row in ended.rows] == [2]
    assert "2 prompts were skipped; the first, line 1: no completion" in ended.err


def test_where_none_is_left_the_run_ends_by_the_first(score: Run) -> None:
    ended = score("--prompts", "-", "--on-error", "skip", stdin=b"{x\n{y\n")
    ended.refused("holds no prompt that can be scored", "2 prompts", "line 1: not JSON")


@pytest.mark.parametrize("view", ["base", "ft"])
@pytest.mark.parametrize(
    "error", [InvalidInputError("no such id"), ModelMemoryError("9 tokens don't fit")]
)
def test_the_model_s_failure_on_one_prompt_is_that_prompt_s(
    score: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, view: str
) -> None:
    failing(monkeypatch, "number 4", error, view=view)
    stdin = "\n".join(GOOD).encode()
    ended = score("--prompts", "-", "--on-error", "skip", stdin=stdin)
    assert [row["line"] for row in ended.rows[::2]] == [1, 2, 3, 4, 6, 7, 8, 9, 10]
    assert f"1 prompt was skipped; the first, line 5: {error}" in ended.err
    code = 3 if isinstance(error, ModelMemoryError) else 2
    score("--prompts", "-", stdin=stdin).refused(f"standard input line 5: {error}", code=code)


def test_a_run_that_goes_on_knows_what_was_skipped(
    score: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 4)
    failing(monkeypatch, "number 2", InvalidInputError("no such id"), view="ft")
    whole, out = tmp_path / "whole.jsonl", tmp_path / "rows.jsonl"
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_bytes(mixed())
    options = ("--prompts", prompts, "--on-error", "skip", "--format", "json")
    expected = told(score(*options, "--out", whole))
    assert [one["line"] for one in expected] == [3, 4, 5, 6, 8]

    write, written = PartFile.write, []

    def interrupting(self: PartFile, rows: list[dict[str, Any]]) -> None:
        write(self, rows)
        written.append(rows)
        if len(written) == 2:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "write", interrupting)
        score(*options, "--out", out).refused("the rows of 8 of 10 prompts", code=130)
    ended = score(*options, "--out", out, "--resume")
    assert ended.code == 0, ended.err
    assert told(ended) == expected
    assert out.read_bytes() == whole.read_bytes()


def test_a_limit_takes_the_first_prompts_and_reads_no_further(score: Run) -> None:
    stdin = b"one\n\ntwo\n\xff\n"
    rows = score("--prompts", "-", "--views", "base", "--limit", 2, stdin=stdin).rows
    assert [row["line"] for row in rows] == [1, 3]
    score("--prompts", "-", "--limit", 0, stdin=stdin).refused("--limit")


def test_a_part_of_another_limit_is_not_gone_on_with(
    score: Run, prompts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "rows.jsonl"
    write = PartFile.write

    def interrupting(self: PartFile, rows: list[dict[str, Any]]) -> None:
        write(self, rows)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PartFile, "write", interrupting)
        score("--prompts", prompts, "--limit", 5, "--out", out)
    score("--prompts", prompts, "--out", out, "--resume").refused("another job", "limit")
