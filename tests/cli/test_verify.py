"""``forwardcache verify``: somebody's table, checked without trusting it.

Checked: sound tables of every op pass, as JSON lines and as Parquet; every kind of edit is found
where its row is chosen; which rows are chosen is the seed's doing; other arithmetic is told and
fails nothing up to a wide bound; in half precision the bound is measured and not read.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from forwardcache.__main__ import main
from forwardcache.jobs.verify.bound import ELSEWHERE, OF_BATCHES, TIMES_FLOOR, bound_of
from tests.cli.conftest import ASSETS, Run
from tests.cli.verify_tables import (
    LINES,
    Made,
    Rows,
    Verify,
    add,
    facts_of,
    other,
    rewrite,
    row,
    set_facts,
    table_maker,
    verifier,
)
from tests.tolerance import TOLERANCE

OPS = ["next_token_dist", "logprob_of", "rolling_logprob"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return table_maker(tmp_path_factory)


@pytest.fixture
def verify(run: Run) -> Verify:
    return verifier(run)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("op", OPS)
def test_a_sound_table_passes(name: str, op: str, made: Made, verify: Verify) -> None:
    out = made(name, "--op", op)
    before = sorted(os.listdir(out.parent))
    ended, said = verify(out)
    assert (ended.code, said["ok"], said["findings"]) == (0, True, [])
    assert (said["rows"], said["rows_checked"], said["prompts"]) == (5 * LINES, 5 * LINES, LINES)
    assert said["lines_checked"] == list(range(1, LINES + 1))
    assert said["largest"]["nats"] <= TOLERANCE == said["bound_nats"]
    assert sorted(os.listdir(out.parent)) == before


@pytest.mark.parametrize(
    "options",
    [
        ("--op", "rolling_logprob", "--windows", "--views", "base"),
        ("--no-add-bos-token", "--prefix-token", "0", "--op", "rolling_logprob"),
        ("--limit", "3", "--token-budget", "64"),
        ("--no-special-tokens", "--tokenizer", "base"),
    ],
    ids=" ".join,
)
def test_the_options_of_the_run_are_taken_from_its_facts(
    options: tuple[str, ...], made: Made, verify: Verify
) -> None:
    ended, said = verify(made("rows.jsonl", *options))
    assert ended.code == 0, ended.err
    assert said["largest"]["nats"] <= TOLERANCE


def test_one_sentence_says_what_was_checked(made: Made, run: Run) -> None:
    ended = run("verify", made(), "--share", 0.2, "--seed", 5)
    assert ended.code == 0
    assert ended.out.startswith("15 of 60 rows scored again (lines ")
    sentence, unchecked = ended.out.splitlines()
    assert "; --seed 5): all as recorded; furthest off is " in sentence
    # Of a divergence it is another bound than a log-probability's.
    assert re.search(r", by \S+ nats where \S+ is allowed\.$", sentence)
    assert unchecked.startswith("Not checked, of its facts: command, date, threads, seeds, counts.")
    assert ended.err.count("\n") == 1
    assert "3 prompts of 12 are scored again with" in ended.err


def swap_tokens(rows: Rows) -> None:
    ids = row(rows, 3, "ft")["token_ids"]
    ids[0], ids[1] = ids[1], ids[0]


EDITS: dict[str, tuple[str, Callable[[Rows], object], str]] = {
    "one log-probability": ("next_token_dist", add("logprobs", -1e-2), "logprobs[id "),
    "two tokens swapped": ("next_token_dist", swap_tokens, "logprobs[id "),
    "the tail": ("next_token_dist", add("tail_logprob", 1e-2), "tail_logprob"),
    "the divergence": ("next_token_dist", add("kl_base_nats", 1e-2), "kl_base_nats"),
    "a divergence that is none": ("next_token_dist", other("kl_base_nats", None), "kl_base_nats"),
    "the vocabulary": ("next_token_dist", add("vocab_size", 1), "vocab_size"),
    "a token twice": ("next_token_dist", other("token_ids", [1] * 16), "token_ids"),
    "tokens out of order": (
        "next_token_dist",
        lambda rows: [row(rows, 3, "ft")[name].reverse() for name in ("token_ids", "logprobs")],
        "logprobs",
    ),
    "a completion's sum": ("logprob_of", add("logprob", 1e-2), "logprob"),
    "how many tokens it has": ("logprob_of", add("num_tokens", 1), "num_tokens"),
    "a difference from base": ("logprob_of", add("delta_nats", 1e-2), "delta_nats"),
    "a truth": ("logprob_of", other("spans_boundary", True), "spans_boundary"),
    "one of many": ("rolling_logprob", add("logprobs", 1e-2), "logprobs[4]"),
    "one id": ("rolling_logprob", add("token_ids", 1), "token_ids[4]"),
    "a text's sum": ("rolling_logprob", add("total_logprob", 1.0), "total_logprob"),
    "an id of the input": ("logprob_of", other("id", 99), "id"),
}


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
@pytest.mark.parametrize("edit", EDITS)
def test_an_edited_value_is_found(name: str, edit: str, made: Made, verify: Verify) -> None:
    op, change, field = EDITS[edit]
    out = made(name, "--op", op)
    rewrite(out, change)
    ended, said = verify(out)
    assert (ended.code, said["ok"]) == (1, False)
    [found] = said["findings"]
    assert (found["line"], found["view"], found["is_excused"]) == (3, "ft", False)
    assert found["field"].startswith(field)
    assert found["recorded"] != found["computed"]
    if found["difference"] is not None:
        assert found["difference"] > found["bound"] > 0.0


def drop(rows: Rows) -> None:
    rows.remove(row(rows, 3, "ft"))


ROW_EDITS: dict[str, tuple[Callable[[Rows], object], set[tuple[int | None, str]]]] = {
    "removed": (drop, {(None, "rows"), (3, "no row")}),
    "twice": (
        lambda rows: rows.append(row(rows, 3, "ft")),
        {(None, "rows"), (3, "rows of it")},
    ),
    "another view": (
        other("view", "ft2"),
        {(3, "no row"), (3, "no such row in this run")},
    ),
    "another line": (
        other("line", 99),
        {(3, "no row"), (99, "no such row in this run")},
    ),
    "another order": (lambda rows: rows.reverse(), {(12, "another order from this row on")}),
    "another op": (other("op", "x"), {(3, "op")}),
    "another input": (other("input", {"style": "mine"}), {(3, "input")}),
    "one field more": (other("accuracy", 1.0), {(3, "a field accuracy")}),
}


@pytest.mark.parametrize("edit", ROW_EDITS)
def test_an_edited_row_is_found(edit: str, made: Made, verify: Verify) -> None:
    out = made()
    change, expected = ROW_EDITS[edit]
    rewrite(out, change)
    ended, said = verify(out)
    assert ended.code == 1
    assert {(each["line"], each["field"]) for each in said["findings"]} == expected


def test_rows_of_a_prompt_that_was_not_chosen_are_counted_all_the_same(
    made: Made, verify: Verify
) -> None:
    out = made()
    rewrite(out, drop)
    ended, said = verify(out, "--share", 0.01, "--seed", next(seeds_without(3, made, verify)))
    assert ended.code == 1
    assert {each["field"] for each in said["findings"]} == {"rows", "no row"}


def seeds_without(line: int, made: Made, verify: Verify) -> Iterator[int]:
    out = made()
    for seed in range(20):
        if verify(out, "--share", 0.01, "--seed", seed)[1]["lines_checked"] != [line]:
            yield seed


def test_which_rows_are_checked_is_the_seeds_doing(made: Made, verify: Verify) -> None:
    out = made()
    rewrite(out, add("logprobs", -1e-2))
    seen: dict[bool, int] = {}
    for seed in range(8):
        ended, said = verify(out, "--share", 0.25, "--seed", seed)
        again = verify(out, "--share", 0.25, "--seed", seed)[1]
        assert said["lines_checked"] == again["lines_checked"]
        assert (len(said["lines_checked"]), said["rows_checked"]) == (3, 15)
        is_chosen = 3 in said["lines_checked"]
        assert ended.code == int(is_chosen)
        seen[is_chosen] = seed
        if len(seen) == 2:
            break
    assert seen.keys() == {True, False}
    assert verify(out, "--share", 1e-9)[1]["rows_checked"] == 5
    assert verify(out, "--share", 1e-9)[1]["seed"] != verify(out, "--share", 1e-9)[1]["seed"]


def test_a_share_of_nothing_is_refused(made: Made, run: Run) -> None:
    run("verify", made(), "--share", 0).refused("--share 0.0", "above 0 to 1")


@pytest.fixture(scope="module")
def made_diff(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A file of ``diff``'s rows, in a folder of its own."""
    scored = tmp_path_factory.mktemp("differences")
    first, *lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)[:LINES]
    whole = json.dumps({"text": json.loads(first)["prompt"], "style": "whole"}) + "\n"
    (scored / "texts.jsonl").write_text("".join([whole, *lines]), "utf-8")

    def of(name: str) -> Path:
        if not (scored / name).exists():
            words = ["diff", "--model", ASSETS / "model", "--adapter", ASSETS / "adapter",
                     "--texts", scored / "texts.jsonl", "--out", scored / name,
                     "--dtype", "float32", "--views", "ft,scaled:0.5", "--nulls", "0"]  # fmt: skip
            assert main([*map(str, words)]) == 0
        folder = tmp_path_factory.mktemp("copied")
        shutil.copytree(scored, folder, dirs_exist_ok=True)
        return folder / name

    return of


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_of_diff_are_checked_too(
    name: str, made_diff: Callable[[str], Path], verify: Verify
) -> None:
    ended, said = verify(made_diff(name))
    assert (ended.code, said["findings"], said["rows_checked"]) == (0, [], 2 * LINES)
    assert said["largest"]["nats"] <= TOLERANCE


def flip(rows: Rows) -> None:
    tops = row(rows, 3, "ft")["same_top"]
    tops[4] = not tops[4]


DIFF_EDITS: dict[str, tuple[Callable[[Rows], object], str]] = {
    "a divergence": (add("kl", 1e-2), "kl[4]"),
    "another": (add("js", 1e-2), "js[4]"),
    "a log-probability": (add("logprob", -1e-2), "logprob[4]"),
    "the reference's": (add("logprob_reference", 1e-2), "logprob_reference[4]"),
    "the entropy": (add("entropy_reference", 1e-2), "entropy_reference[4]"),
    "a flip": (flip, "same_top[4]"),
    "an agreement": (add("top_k_agreement", -0.2), "top_k_agreement[4]"),
    "an id": (add("token_ids", 1), "token_ids[4]"),
    "a text": (lambda rows: row(rows, 3, "ft")["tokens"].__setitem__(4, "x"), "tokens[4]"),
    "fewer positions": (lambda rows: row(rows, 3, "ft")["kl"].pop(), "kl"),
    "the reference": (other("reference", "scaled_0.50"), "reference"),
}


@pytest.mark.parametrize("edit", DIFF_EDITS)
def test_an_edited_row_of_diff_is_found(
    edit: str, made_diff: Callable[[str], Path], verify: Verify
) -> None:
    out = made_diff("rows.jsonl")
    change, field = DIFF_EDITS[edit]
    rewrite(out, change)
    ended, said = verify(out)
    assert ended.code == 1
    [found] = said["findings"]
    assert (found["line"], found["view"], found["field"]) == (3, "ft", field)


def test_table_and_sentence_count_a_difference_alike(made: Made, verify: Verify, run: Run) -> None:
    out = made("rows.jsonl", "--op", "rolling_logprob")
    rewrite(out, add("total_logprob", 8.6))
    said = verify(out)[1]
    [found] = said["findings"]
    largest = said["largest"]
    assert found["unit"] == "nats"
    assert (largest["difference"], largest["allowed"]) == (found["difference"], found["bound"])
    assert largest["nats"] < largest["difference"]
    told = run("verify", out, "--share", 1)
    assert told.out.count(f"{found['bound']:.3g}") == 2
    assert f"total_logprob (line 3, ft), by 8.6 nats where {found['bound']:.3g} is" in told.out


def test_flips_are_positions_and_no_nats(
    made_diff: Callable[[str], Path], verify: Verify, run: Run
) -> None:
    out = made_diff("rows.jsonl")
    rewrite(out, flip)
    said = verify(out)[1]
    [found] = said["findings"]
    assert (found["difference"], found["unit"]) == (1, "positions")
    assert said["largest"]["nats"] <= TOLERANCE
    told = run("verify", out, "--share", 1).out
    assert "1 position" in told
    assert "0 positions" in told
    assert "1 thing not as recorded; furthest off is " in told


def test_facts_that_decide_no_row_are_told_as_unchecked(
    made_diff: Callable[[str], Path], verify: Verify, run: Run
) -> None:
    out = made_diff("rows.jsonl")
    facts = facts_of(out)
    facts["floor"]["mean"] = 5.0
    facts["accuracy\n"] = 0.99
    set_facts(out, facts)
    ended, said = verify(out)
    assert ended.code == 0
    assert {"command", "date", "floor", "accuracy\n"} < set(said["facts_unchecked"])
    assert not {"versions", "model", "views", "prompts", "counts.rows"} & set(
        said["facts_unchecked"]
    )
    told = run("verify", out, "--share", 1).out.splitlines()[-2:]
    assert told[-1].startswith("Not checked, of its facts: ")
    assert ", floor, accuracy\\n, " in told[-1]


def test_other_arithmetic_is_said_and_not_failed(made: Made, verify: Verify, run: Run) -> None:
    out = made("rows.jsonl", "--op", "rolling_logprob")
    facts = facts_of(out)
    facts["versions"]["torch"] = "1.0"
    facts["device"], facts["gpu"] = "cuda:0", "a GPU"
    set_facts(out, facts)
    ended, said = verify(out, "--device", "cpu")
    assert (ended.code, said["bound_elsewhere_nats"]) == (0, ELSEWHERE)
    assert "torch 1.0 then, " in ended.err
    assert "device cuda then, cpu here; GPU a GPU then, None here" in ended.err
    rewrite(out, add("logprobs", 5e-4))
    ended, said = verify(out, "--device", "cpu")
    [found] = said["findings"]
    assert (ended.code, said["ok"], found["is_excused"]) == (0, True, True)
    told = run("verify", out, "--share", 1, "--device", "cpu").out
    assert "another device, dtype or version may explain" in told
    rewrite(out, add("logprobs", 1e-2))
    assert verify(out, "--device", "cpu")[0].code == 1
    # The same edit is no rounding where the arithmetic is the recorded one.
    out = made("rows.jsonl", "--op", "rolling_logprob")
    rewrite(out, add("logprobs", 5e-4))
    assert verify(out)[0].code == 1


def test_in_half_precision_the_floor_is_measured_and_no_table_can_widen_it(
    made: Made, verify: Verify, run: Run
) -> None:
    out = made("rows.jsonl", "--op", "rolling_logprob", dtype="bfloat16")
    ended, said = verify(out)
    assert ended.code == 0, ended.err
    assert said["floor_dtype"] == "bfloat16"
    told = run("verify", out, "--share", 1).out
    assert "all within what rounding in bfloat16 may move; furthest off" in told
    assert "A smaller edit can't be told from rounding" in told
    assert "as recorded" not in told
    assert said["bound_nats"] == pytest.approx(OF_BATCHES + TIMES_FLOOR * said["floor_nats"])
    assert 1e-4 < said["floor_nats"] < 0.1
    facts = facts_of(out)
    facts["floor"] = {"mean_abs_delta_logprob": 1e3}
    set_facts(out, facts)
    rewrite(out, add("logprobs", 2.0))
    for words in ((), ("--dtype", "float32")):
        ended, said = verify(out, *words)
        assert (ended.code, len(said["findings"])) == (1, 1)
        assert said["floor_nats"] < 0.1


def test_prompts_that_were_skipped_have_no_rows(
    run: Run, verify: Verify, prompts: Path, tmp_path: Path
) -> None:
    prompts.write_text("no prompt\n" + prompts.read_text("utf-8") + '{"prompt": ""}\n', "utf-8")
    out = tmp_path / "rows.jsonl"
    model = ["--model", ASSETS / "model", "--dtype", "float32", "--views", "base"]
    ended = run("score", *model, "--prompts", prompts, "--out", out, "--on-error", "skip",
                "--op", "logprob_of")  # fmt: skip
    assert ended.code == 0, ended.err
    ended, said = verify(out)
    assert (ended.code, said["prompts"]) == (0, LINES)


def test_a_template_that_writes_another_text_now_is_refused(made: Made, run: Run) -> None:
    out = made()
    facts = facts_of(out)
    facts["options"]["text of the chat template"] = "0" * 64
    set_facts(out, facts)
    ended = run("verify", out)
    assert ended.code == 2
    assert "the chat template writes another text" in ended.err


def test_a_bound_takes_the_larger_floor_and_believes_a_table_only_downwards() -> None:
    same = bound_of("float32", "float32", measured=None, told=None, is_elsewhere=False)
    assert (same.nats, same.wide, same.floor) == (OF_BATCHES, OF_BATCHES, None)
    assert same.dtype is None
    half = bound_of("bfloat16", "bfloat16", measured=0.01, told=9.0, is_elsewhere=False)
    assert half.floor == 0.01
    less = bound_of("float32", "bfloat16", measured=None, told=0.002, is_elsewhere=True)
    more = bound_of("float32", "bfloat16", measured=None, told=9.0, is_elsewhere=True)
    assert (less.floor, more.floor) == (0.002, 0.03)
    assert less.nats < less.wide < more.wide
    both = bound_of("float16", "bfloat16", measured=0.003, told=0.02, is_elsewhere=True)
    assert (both.floor, both.dtype) == (0.02, "bfloat16")
