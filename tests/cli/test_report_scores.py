"""``forwardcache report --scores``: distances by view, factor, prompt and token.

Checked: every figure on rows whose distances are known; the same from parquet; rows of an op that
has no distribution; the prompts' texts; files that aren't rows of ``score``; a real run's rows.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from forwardcache.jobs.differences import Comparison, differences
from forwardcache.jobs.job import Totals
from forwardcache.jobs.summary import as_json, notes
from forwardcache.jobs.views import parse_views
from forwardcache.operations import operation
from forwardcache.statistics.sentences import OTHER_NORM
from tests.cli.conftest import Run
from tests.cli.test_trace import line, trace


def row(id_: int, view: str, nats: float | None, chances: dict[int, float]) -> dict[str, Any]:
    head = {"id": id_, "view": view, "op": "next_token_dist", "hit": False, "top_k": 2}
    logprobs = [math.log(chance) for chance in chances.values()]
    values = {"token_ids": list(chances), "logprobs": logprobs, "vocab_size": 9}
    against = {} if view == "base" else {"kl_base_nats": nats}
    return {**head, **values, **against, "input": {"anything": [id_]}}


ROWS = [
    row(0, "base", None, {1: 0.5, 2: 0.25}),
    row(0, "ft", 0.5, {1: 0.25, 2: 0.5}),
    row(0, "scaled_0.5", 0.2, {1: 0.4, 2: 0.3}),
    row(0, "null_7", 0.01, {1: 0.5, 2: 0.25}),
    row(0, "null_8", 0.02, {1: 0.5, 2: 0.25}),
    row(3, "base", None, {1: 0.5, 2: 0.25}),
    row(3, "ft", 1.5, {5: 0.75, 1: 0.125}),
    row(3, "scaled_0.5", None, {1: 0.5, 2: 0.25}),
    row(3, "null_7", 0.03, {1: 0.5, 2: 0.25}),
    row(3, "null_8", 0.04, {1: 0.5, 2: 0.25}),
]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return path


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    return written(tmp_path / "rows.jsonl", ROWS)


def scores(run: Run, path: Path, *more: object) -> dict[str, Any]:
    ended = run("report", "--scores", path, *more, "--format", "json")
    assert ended.code == 0, ended.err
    said: dict[str, Any] = json.loads(ended.out)["scores"]
    return said


def test_distances_by_view_and_factor(run: Run, rows: Path) -> None:
    said = scores(run, rows)
    views = {one["view"]: one for one in said["views"]}
    assert list(views) == ["ft", "scaled_0.5", "null_7", "null_8"]
    assert (views["ft"]["mean_nats"], views["ft"]["max_nats"]) == (1.0, 1.5)
    assert (views["scaled_0.5"]["prompts"], views["scaled_0.5"]["not_finite"]) == (1, 1)
    assert said["null_band"] == {"least_nats": pytest.approx(0.02), "most_nats": 0.03}
    assert [(one["factor"], one["mean_nats"]) for one in said["sweep"]] == [
        (0.0, 0.0),
        (0.5, 0.2),
        (1.0, 1.0),
    ]
    assert said["sorted_nats"]["ft"] == [0.5, 1.5]
    assert said["verdict"] == (
        "ft is 1 nats from base, averaged over 2 prompts. Null views with a deviation have a "
        "weight norm of their own, so they don't say how far a random change of the adapter's norm "
        "moves the model; null:SEED:matched does."
    )


def test_the_verdict_counts_what_it_averages_and_names_what_is_no_number(
    run: Run, tmp_path: Path
) -> None:
    def said(*nats: float | None) -> str:
        lines = [row(at, "ft", one, {1: 0.5}) for at, one in enumerate(nats)]
        bases = [row(at, "base", None, {1: 0.5}) for at in range(len(nats))]
        verdict: str = scores(run, written(tmp_path / "r.jsonl", [*bases, *lines]))["verdict"]
        return verdict

    assert said(1.0, None, 3.0, None, None).startswith(
        "ft is 2 nats from base, averaged over 2 prompts (3 more had NaN or infinity: is the "
        "adapter sound in this dtype?);"
    )
    assert said(None) == (
        "ft is at no finite distance from base: NaN or infinity at 1 prompt. Is the adapter sound "
        "in this dtype?"
    )


def test_the_verdict_places_ft_among_random_changes_of_its_norm(run: Run, tmp_path: Path) -> None:
    nulls = {"null_7": "null_7_matched", "null_8": "null_8_matched"}
    lines = [{**one, "view": nulls.get(one["view"], one["view"])} for one in ROWS]
    said = scores(run, written(tmp_path / "r.jsonl", lines))["verdict"]
    assert "random change of the same weight norm? Too few to say" in said
    assert "ft is first of 3" in said


def test_bounds_are_read_and_called_so_also_in_rows_of_earlier_versions(
    run: Run, rows: Path, tmp_path: Path
) -> None:
    # Two of nine tokens, and no line: an earlier version had one name for both.
    assert scores(run, rows)["measure"] == "KL(base‖view), lower bound, nats"
    now = [{"line": one["id"] + 1, **one} for one in ROWS]
    exact = scores(run, written(tmp_path / "exact.jsonl", now))
    assert exact["measure"] == "KL(base‖view), nats"
    bounds = [
        {
            ("kl_lower_bound" if name == "kl_base_nats" else name): value
            for name, value in one.items()
        }
        for one in now
    ]
    found = scores(run, written(tmp_path / "bounds.jsonl", bounds))
    assert found["measure"] == "KL(base‖view), lower bound, nats"
    assert found["views"] == exact["views"]


def test_differences_that_cancel_are_seen(run: Run, tmp_path: Path) -> None:
    head = {"op": "logprob_of", "hit": False, "logprob": -1.0, "input": {}}
    lines = []
    for n in range(4):
        lines.append({"id": n, "line": n + 1, "view": "base", **head})
        for view, size in (("ft", 2.0), ("null_1", 0.5)):
            delta = size if n % 2 else -size
            lines.append({"id": n, "line": n + 1, "view": view, "delta_nats": delta, **head})
    said = scores(run, written(tmp_path / "r.jsonl", lines))
    tuned = said["views"][0]
    assert (tuned["mean_nats"], tuned["mean_abs_nats"]) == (0.0, 2.0)
    assert (tuned["better_rate"], tuned["worse_rate"]) == (0.5, 0.5)
    assert "ft is 2 nats from base, absolute differences averaged" in said["verdict"]


@pytest.mark.parametrize(
    ("op", "field"),
    [("next_token_dist", "kl_base_nats"), ("next_token_dist", "kl_lower_bound"),
     ("logprob_of", "delta_nats")],
)  # fmt: skip
def test_the_figures_of_a_view_are_those_of_score_s_summary(
    op: str, field: str, run: Run, tmp_path: Path
) -> None:
    """Of 60 prompts that are 30 texts; without these, what doesn't depend on them."""
    chance = np.random.default_rng(1)
    texts = {n + 1: f"text {n % 30}" for n in range(60)}
    lines: list[dict[str, Any]] = []
    totals = Totals(operation(op).figure)
    for at in texts:
        head = {"id": at, "line": at, "op": op}
        lines.append({**head, "view": "base"})
        for view, most in (("ft", 1.0), ("null_7", 0.01)):
            value = most * chance.normal() if field == "delta_nats" else most * chance.exponential()
            lines.append({**head, "view": view, field: value})
    for one in lines:
        totals.note(one)
    views = parse_views("base,ft,null:7", has_adapter=True)
    comparison = Comparison(op, differences(views, totals, texts=texts), is_bound="lower" in field)
    summary = {one["view"]: one[field] for one in as_json(comparison)}

    rows, prompts = written(tmp_path / "rows.jsonl", lines), tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{text}\n" for text in texts.values()))
    [with_texts, without] = [
        {one["view"]: one for one in scores(run, rows, *more)["views"]}
        for more in (["--prompts", prompts], [])
    ]
    for view, told in summary.items():
        page = with_texts[view]
        assert [page["low_nats"], page["high_nats"]] == pytest.approx(told["interval"])
        assert [without[view]["low_nats"], without[view]["high_nats"]] == [None, None]
        for name in {"mean", "median", "p90", "p99", "max", "mean_abs"} & set(told):
            assert page[f"{name}_nats"] == pytest.approx(told[name])
            assert without[view][f"{name}_nats"] == pytest.approx(told[name])
        for name in {"better", "worse"} & set(told):
            assert page[f"{name}_rate"] == pytest.approx(told[name])


def test_the_verdict_says_of_nulls_what_score_s_summary_says(run: Run, tmp_path: Path) -> None:
    chance = np.random.default_rng(2)
    texts = {n + 1: f"text {n}" for n in range(30)}
    head = {"op": "next_token_dist"}
    # The matched null moves nothing beyond rounding, which has no multiple.
    nats = {
        "ft": chance.exponential(size=30),
        "null_7": 0.1 * chance.exponential(size=30),
        "null_8_matched": 1e-9 * (0.3 + chance.normal(size=30)),
    }
    lines: list[dict[str, Any]] = []
    for at in texts:
        own = [{"view": view, "kl_base_nats": each[at - 1]} for view, each in nats.items()]
        lines += [{"id": at, "line": at, **head, **one} for one in [{"view": "base"}, *own]]
    totals = Totals(operation("next_token_dist").figure)
    for one in lines:
        totals.note(one)
    views = parse_views("base,ft,null:7,null:8:matched", has_adapter=True)
    comparison = Comparison("next_token_dist", differences(views, totals, texts=texts))
    of_nulls = [note for note in notes(comparison) if "of the same weight norm" in note]
    assert len(of_nulls) == 1
    assert "can't be told from rounding" in of_nulls[0]
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("".join(f"{text}\n" for text in texts.values()))
    said = scores(run, written(tmp_path / "rows.jsonl", lines), "--prompts", prompts)["verdict"]
    assert said.endswith(f" {of_nulls[0]} {OTHER_NORM}")
    assert OTHER_NORM in notes(comparison)


def test_the_prompts_and_tokens_that_moved_most(run: Run, rows: Path) -> None:
    said = scores(run, rows)
    assert [(one["id"], one["ft_nats"]) for one in said["prompts"]] == [(3, 1.5), (0, 0.5)]
    moved = [(one["id"], one["token_id"]) for one in said["moved"]]
    assert moved == [(3, 5), (3, 1), (3, 2), (0, 1), (0, 2)]
    gained, _, left = said["moved"][:3]
    # base lists nothing below 0.25, so that token 5 gained at least the rest.
    assert gained["base_logprob"] is None
    assert gained["probability_change"] == pytest.approx(0.5)
    assert left["ft_logprob"] is None
    assert left["probability_change"] == pytest.approx(-0.125)


def test_parquet_says_the_same(run: Run, rows: Path, tmp_path: Path) -> None:
    table = tmp_path / "rows.parquet"
    narrow = [{name: value for name, value in one.items() if name != "input"} for one in ROWS]
    pl.DataFrame(narrow, infer_schema_length=None).write_parquet(table)
    assert scores(run, table) == scores(run, rows)


def test_texts_of_prompts(run: Run, rows: Path, tmp_path: Path) -> None:
    prompts = tmp_path / "p.txt"
    prompts.write_text("first\n\nthird line\nlast\n")
    found = scores(run, rows, "--prompts", prompts)["prompts"]
    assert [(one["id"], one["prompt"]) for one in found] == [(3, "last"), (0, "first")]


def test_prompts_have_their_own_ids_and_are_told_apart_by_line(run: Run, tmp_path: Path) -> None:
    """Two prompts of one id are two; their texts are those of their lines."""
    own = {0: "same", 3: "same"}
    new = [{**one, "id": own[one["id"]], "line": one["id"] + 1} for one in ROWS]
    prompts = tmp_path / "p.txt"
    prompts.write_text("first\n\nthird line\nlast\n")
    said = scores(run, written(tmp_path / "new.jsonl", new), "--prompts", prompts)
    assert [(one["id"], one["line"], one["prompt"]) for one in said["prompts"]] == [
        ("same", 4, "last"),
        ("same", 1, "first"),
    ]
    before = scores(run, written(tmp_path / "old.jsonl", ROWS), "--prompts", prompts)
    assert before["views"] == said["views"]
    assert [one["line"] for one in before["moved"]] == [one["line"] for one in said["moved"]]


def test_rows_without_a_distribution(run: Run, tmp_path: Path) -> None:
    head = {"op": "logprob_of", "hit": False, "input": {}}
    path = written(
        tmp_path / "r.jsonl",
        [
            {"id": 0, "view": "base", "logprob": -1.0, **head},
            {"id": 0, "view": "ft", "logprob": -3.0, "delta_nats": -2.0, **head},
        ],
    )
    said = scores(run, path)
    assert said["measure"] == "view - base, nats"
    assert said["views"][0]["mean_nats"] == -2.0
    assert said["moved"] == []
    assert "no null view" in said["verdict"]


def test_the_page_has_the_plots_and_a_trace_beside_them(
    run: Run, rows: Path, tmp_path: Path
) -> None:
    alone = run("report", "--scores", rows, "--format", "html").out
    assert alone.count('<svg role="img"') == 2
    path = trace(tmp_path / "t.jsonl", *(line(at, run="r", key="k") for at in (1.0, 2.0)))
    both = run("report", path, "--scores", rows, "--format", "html").out
    assert both.count('<svg role="img"') == 4
    assert "ft is 1 nats from base" in run("report", path, "--scores", rows).out


@pytest.mark.parametrize(
    "text", ["", "no JSON\n", "[1]\n", '{"view": "ft"}\n', '{"id": "x", "view": "ft"}\n']
)
def test_another_file_is_refused(run: Run, tmp_path: Path, text: str) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(text)
    run("report", "--scores", path).refused("r.jsonl", "no rows of score")


def test_what_else_is_refused(run: Run, rows: Path, tmp_path: Path) -> None:
    run("report").refused("--scores")
    run("report", "--scores", tmp_path / "no.jsonl").refused("no.jsonl")
    over = ["--out", rows, "--force", "--format", "json"]
    run("report", "--scores", rows, *over).refused("also read")
    mixed = written(tmp_path / "m.jsonl", [*ROWS, {**ROWS[0], "op": "rolling_logprob"}])
    run("report", "--scores", mixed).refused("more than one op")
    broken = tmp_path / "r.parquet"
    broken.write_bytes(b"PAR1")
    run("report", "--scores", broken).refused("r.parquet")


def _tokenizer(folder: Path) -> Path:
    from tokenizers import Tokenizer, decoders, models

    vocabulary = {"<s>": 0, "Ġthe": 1, "Ċ": 2, "Ã": 3, "<b>": 5}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<s>"))
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


def test_tokens_that_moved_are_shown_by_their_text(run: Run, rows: Path, tmp_path: Path) -> None:
    said = scores(run, rows, "--tokenizer", _tokenizer(tmp_path))
    texts = {row["token_id"]: row["token"] for row in said["moved"]}
    assert texts == {1: '" the"', 2: '"\\n"', 5: '"<b>"'}
    page = run("report", "--scores", rows, "--tokenizer", tmp_path, "--format", "html").out
    assert "&lt;b&gt;" in page
    # Without it a browser would show tokens of two and of four spaces alike.
    assert ".token { white-space: pre-wrap;" in page
    assert 'class="token" data-value' in page
    assert "<b>" not in page


def test_special_tokens_and_parts_of_characters_are_seen(tmp_path: Path) -> None:
    from forwardcache.observe.report.tokens import token_text

    text = token_text(_tokenizer(tmp_path))
    assert [text(at) for at in (0, 3, 77)] == ['"<s>"', '"Ã"', None]


def test_a_folder_without_a_tokenizer_is_refused(run: Run, rows: Path, tmp_path: Path) -> None:
    ended = run("report", "--scores", rows, "--tokenizer", tmp_path)
    assert ended.code == 2
    assert "tokenizer.json" in ended.err


def test_a_prompts_text_stands_before_the_views(run: Run, rows: Path, tmp_path: Path) -> None:
    prompts = written(tmp_path / "p.jsonl", [{"prompt": f"text {at}"} for at in range(4)])
    first = scores(run, rows, "--prompts", prompts)["prompts"][0]
    assert list(first)[:3] == ["id", "line", "prompt"]
