"""Claims: of many views each is a row, an adapter's together, with a step where the names have
one; the figures are those of JSON; the table of a run of checkpoints has room in 80 letters, and
what has not follows below; each question is answered once, with the views of the rarer verdict
named.
"""

from __future__ import annotations

import io
from dataclasses import replace

import pytest

from forwardcache.cli.diff_table import show_diff
from forwardcache.statistics import DiffResult
from forwardcache.statistics.result import MOST_SIDE_BY_SIDE
from forwardcache.statistics.sweep import answers_of_all
from tests.statistics.made_result import result_of, sweep_of

RUN = ["checkpoint-100", "checkpoint-200", "checkpoint-1000"]
LAMBDAS = [0.25, 1.0, 1.5]


@pytest.fixture(autouse=True)
def _a_plain_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.delenv("FORCE_COLOR", raising=False)


def shown(result: DiffResult) -> list[str]:
    stream = io.StringIO()
    show_diff(stream, result)
    return stream.getvalue().splitlines()


def rows_of(lines: list[str]) -> list[list[str]]:
    return [line.split() for line in lines if line.startswith("checkpoint-")]


def test_a_run_of_checkpoints_is_one_table_of_eighty_letters() -> None:
    found = sweep_of(RUN, LAMBDAS, nulls=20)
    lines = shown(found)
    told = found.as_json()["views"]
    rows = rows_of(lines)
    assert [row[:3] for row in rows] == [
        [name, name.rpartition("-")[2], f"{lam:g}"] for name in RUN for lam in LAMBDAS
    ]
    table = lines[: next(at for at, line in enumerate(lines) if line.startswith("Is it"))]
    assert max(map(len, table)) <= 80
    for row, one in zip(rows, told.values(), strict=True):
        assert float(row[3]) == pytest.approx(one["kl"]["mean"], rel=1e-3)
        assert row[4] == f"{one['same_top']:.2%}"
        assert row[5] == {True: "yes", False: "no"}[one["floor"]["distinguishable"]]
        assert " ".join(row[6:]) in {"first of 21", "21st of 21"}
        assert (row[6] == "first") == (one["nulls"]["rank"] == 1)
    # What an adapter's rows are ends with an empty line.
    assert sum(not line.strip() for line in table) == len(RUN) - 1


def test_what_has_no_room_follows_below(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "65")
    rows = rows_of(shown(sweep_of(RUN, LAMBDAS, nulls=20)))
    assert len(rows) == 2 * len(RUN) * len(LAMBDAS)
    assert {row[0] for row in rows} == set(RUN)


def test_a_column_is_there_for_what_tells_views_apart() -> None:
    heads = {
        "step and λ": shown(sweep_of(RUN, LAMBDAS))[1],
        "λ": shown(sweep_of(["one", "two"], LAMBDAS))[1],
        "step": shown(sweep_of(RUN, [1.0]))[1],
    }
    for which, head in heads.items():
        assert ("step" in head, "λ" in head.split()) == ("step" in which, "λ" in which)
    several = result_of({f"null_{seed}": 0.1 for seed in range(MOST_SIDE_BY_SIDE + 1)})
    assert any(line.startswith("null_0 ") for line in shown(several))


def test_each_question_is_answered_once() -> None:
    found = sweep_of(RUN, [0.0001, 1.0], nulls=20)
    is_there, is_more, how_little = answers_of_all(found.views)
    assert is_there.words.startswith("3 of 6 views are distinguishable from floating-point")
    assert "not distinguishable: scaled_0.00:checkpoint-100, " in is_there.words
    assert "would have been seen" in is_there.words
    assert is_more.words.startswith("Too few to say: 3 of 6 views are farther than all of their 20")
    assert "over 6 comparisons takes 119 of them" in is_more.words
    assert how_little.words == "Not measured."
    lines = shown(found)
    assert sum(line.startswith("Is it there at all?") for line in lines) == 1


def test_nulls_enough_give_a_verdict_and_scales_a_line_an_adapter() -> None:
    found = sweep_of(RUN[:2], [0.0001, 1.0], nulls=79)
    views = tuple(
        replace(one, visible_from_lambda=0.07, detect_least=2**-10) if one.lam == 1.0 else one
        for one in found.views
    )
    _, is_more, how_little = answers_of_all(views)
    assert is_more.words.startswith("2 of 4 views are, significant at 0.05 after Holm over 4 comp")
    assert "not shown for scaled_0.00:checkpoint-100, " in is_more.words
    assert how_little.words == (
        "checkpoint-100 is distinguishable from λ = 0.07 on; "
        "checkpoint-200 is distinguishable from λ = 0.07 on."
    )


def test_many_names_are_counted() -> None:
    found = sweep_of([f"run-{step}" for step in range(1, 11)], [1e-4])
    is_there, _, _ = answers_of_all(found.views)
    assert "run-6 and 4 more" in is_there.words
