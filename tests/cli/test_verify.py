"""``forwardcache verify``: somebody's table, checked without trusting it.

Checked: sound tables of every op pass, as JSON lines and as Parquet; every kind of edit is found
where its row is chosen; which rows are chosen is the seed's doing; another model, adapter or file
of prompts is refused by its name; facts that are missing or not whole give one line; other
arithmetic is told and fails nothing up to a wide bound; in half precision the bound is measured and
not read.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forwardcache.__main__ import main
from forwardcache.jobs.metadata import meta_of
from forwardcache.jobs.verify.bound import ELSEWHERE, OF_BATCHES, TIMES_FLOOR, bound_of
from tests.cli.conftest import ASSETS, Ended, Run, read_rows
from tests.tolerance import TOLERANCE

VIEWS = "base,ft,scaled:0.5,null:7,null:7:matched"
OPS = ["next_token_dist", "logprob_of", "rolling_logprob"]
LINES = 12

Rows = list[dict[str, Any]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A file of rows with its facts and prompts, in a folder of its own; scored once an option."""
    done: dict[tuple[str, ...], Path] = {}
    lines = (ASSETS / "prompts.jsonl").read_text("utf-8").splitlines(keepends=True)[:LINES]

    def of(name: str = "rows.jsonl", *options: str, dtype: str = "float32") -> Path:
        folder = tmp_path_factory.mktemp("made")
        key = (name, *options, dtype)
        if key not in done:
            scored = tmp_path_factory.mktemp("scored")
            (scored / "prompts.jsonl").write_text("".join(lines), "utf-8")
            words = ["score", "--model", ASSETS / "model", "--adapter", ASSETS / "adapter",
                     "--prompts", scored / "prompts.jsonl", "--out", scored / name,
                     "--dtype", dtype, "--top-k", "16", "--no-noise-floor"]  # fmt: skip
            views = () if "--views" in options else ("--views", VIEWS)
            assert main([*map(str, words), *views, *options]) == 0
            done[key] = scored / name
        shutil.copytree(done[key].parent, folder, dirs_exist_ok=True)
        facts = json.loads(meta_of(folder / name).read_text())
        facts["prompts"]["file"] = str(folder / "prompts.jsonl")
        set_facts(folder / name, facts)
        return folder / name

    return of


def set_facts(out: Path, facts: dict[str, Any]) -> None:
    meta_of(out).write_text(json.dumps(facts))
    if out.suffix == ".parquet":
        pl.read_parquet(out).write_parquet(out, metadata={"forwardcache": json.dumps(facts)})


def facts_of(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(meta_of(out).read_text())
    return found


def rewrite(out: Path, edit: Callable[[Rows], object]) -> None:
    """Edits the rows in place, as somebody would who has the file."""
    if out.suffix == ".parquet":
        frame = pl.read_parquet(out)
        rows = frame.to_dicts()
        edit(rows)
        facts = {"forwardcache": json.dumps(facts_of(out))}
        pl.DataFrame(rows, schema=frame.schema).write_parquet(out, metadata=facts)
        return
    rows = read_rows(out)
    edit(rows)
    out.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.fixture
def verify(run: Run) -> Callable[..., tuple[Ended, dict[str, Any]]]:
    """Runs the command on all rows, unless told otherwise; how it ended, and its JSON."""

    def call(out: Path, *words: object) -> tuple[Ended, dict[str, Any]]:
        share = () if "--share" in words else ("--share", "1")
        ended = run("verify", out, *share, *words, "--format", "json")
        return ended, json.loads(ended.out) if ended.out else {}

    return call


Verify = Callable[..., tuple[Ended, dict[str, Any]]]
Made = Callable[..., Path]


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


def test_a_tokenizer_of_its_own_is_held_to_its_digest_too(
    made: Made, run: Run, verify: Verify, elsewhere: Path
) -> None:
    folder = elsewhere / "model"
    template = folder / "chat_template.jinja"
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %} A:")
    words = ("--tokenizer", str(folder), "--chat-template", "--views", "base")
    out = made("rows.jsonl", *words)
    assert facts_of(out)["options"]["text of the chat template"]
    assert verify(out)[0].code == 0
    template.write_text("{% for m in messages %}{{ m.content }}{% endfor %} B:")
    run("verify", out).refused(f"the tokenizer in {folder} is not the one", "--tokenizer DIR")


def test_one_sentence_says_what_was_checked(made: Made, run: Run) -> None:
    ended = run("verify", made(), "--share", 0.2, "--seed", 5)
    assert ended.code == 0
    assert ended.out.startswith("15 of 60 rows scored again (lines ")
    assert "; --seed 5): all as recorded; the largest difference is " in ended.out
    assert ended.out.endswith(", and 0.0001 is allowed.\n")
    assert ended.err.count("\n") == 1
    assert "3 prompts of 12 are scored again with" in ended.err


def row(rows: Rows, line: int, view: str) -> dict[str, Any]:
    return next(each for each in rows if (each["line"], each["view"]) == (line, view))


def add(field: str, nats: float, *, line: int = 3, view: str = "ft") -> Callable[[Rows], None]:
    def edit(rows: Rows) -> None:
        edited = row(rows, line, view)
        if isinstance(edited[field], list):
            edited[field][4] += nats
        else:
            edited[field] += nats

    return edit


def swap_tokens(rows: Rows) -> None:
    ids = row(rows, 3, "ft")["token_ids"]
    ids[0], ids[1] = ids[1], ids[0]


def other(field: str, value: Any) -> Callable[[Rows], None]:
    return lambda rows: row(rows, 3, "ft").__setitem__(field, value)


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


@pytest.fixture
def elsewhere(tmp_path: Path) -> Path:
    """A folder with copies of the model and the adapter."""
    for kind in ("model", "adapter"):
        shutil.copytree(ASSETS / kind, tmp_path / "copies" / kind)
    return tmp_path / "copies"


def test_folders_and_prompts_elsewhere_are_taken_where_their_contents_are_equal(
    made: Made, verify: Verify, run: Run, elsewhere: Path
) -> None:
    out = made()
    facts = facts_of(out)
    for kind in ("model", "adapter"):
        facts[kind]["folder"] = f"/nowhere/{kind}"
    moved = Path(facts["prompts"]["file"]).rename(elsewhere / "moved.jsonl")
    set_facts(out, facts)
    run("verify", out).refused("there is no folder /nowhere/model", "give --model DIR")
    words = ["--model", elsewhere / "model"]
    run("verify", out, *words).refused("/nowhere/adapter", "give --adapter DIR")
    words += ["--adapter", elsewhere / "adapter"]
    run("verify", out, *words).refused("there is no file", "give --prompts FILE")
    ended, said = verify(out, *words, "--prompts", moved)
    assert (ended.code, said["notes"]) == (0, [])


@pytest.mark.parametrize("kind", ["model", "adapter"])
def test_another_model_or_adapter_is_refused_by_its_name(
    kind: str, made: Made, run: Run, elsewhere: Path
) -> None:
    out = made()
    weights = next((elsewhere / kind).glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x7f")
    run("verify", out, f"--{kind}", elsewhere / kind).refused(
        f"the {kind} in {elsewhere / kind} is not the one that made the rows", "digest"
    )
    facts = facts_of(out)
    facts[kind]["folder"] = str(elsewhere / kind)
    set_facts(out, facts)
    run("verify", out).refused(f"the {kind} in {elsewhere / kind} is not the one")


def test_changed_prompts_are_refused_and_their_rows_found_where_the_facts_were_changed_too(
    made: Made, run: Run, verify: Verify
) -> None:
    import hashlib

    out = made()
    path = Path(facts_of(out)["prompts"]["file"])
    lines = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    lines[2]["prompt"] += " and"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    run("verify", out).refused(f"the prompts in {path} are not those of the rows", "--prompts")
    facts = facts_of(out)
    facts["prompts"]["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
    set_facts(out, facts)
    ended, said = verify(out)
    assert ended.code == 1
    assert {each["line"] for each in said["findings"]} == {3}


def test_what_no_digest_vouches_for_is_said(made: Made, verify: Verify, run: Run) -> None:
    out = made()
    facts = facts_of(out)
    facts["model"] = {"folder": "org/name", "digest": None}
    set_facts(out, facts)
    run("verify", out).refused("the model org/name, which was no folder: give --model DIR")
    ended, said = verify(out, "--model", ASSETS / "model")
    assert ended.code == 0
    assert "no digest of the model is recorded" in said["notes"][0]
    assert said["notes"][0] in ended.err


def test_facts_that_lack_a_folder_or_the_prompts_name_the_option(made: Made, run: Run) -> None:
    for name, option in {"model": "--model DIR", "prompts": "--prompts FILE"}.items():
        out = made()
        facts = facts_of(out)
        del facts[name]
        set_facts(out, facts)
        run("verify", out).refused("nothing says which", f"give {option}")


def test_prompts_of_standard_input_have_to_be_given_again(
    made: Made, run: Run, verify: Verify
) -> None:
    out = made()
    facts = facts_of(out)
    file, facts["prompts"]["file"] = facts["prompts"]["file"], "-"
    set_facts(out, facts)
    run("verify", out).refused("came from standard input", "give --prompts FILE")
    assert verify(out, "--prompts", file)[0].code == 0


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.parquet"])
def test_rows_without_facts_are_refused(name: str, made: Made, run: Run) -> None:
    out = made(name)
    meta_of(out).unlink()
    if name == "rows.parquet":
        pl.read_parquet(out).write_parquet(out)
    run("verify", out).refused(f"there is no {name}.meta.json", "views", "options")


NESTED = "[" * 9999
BROKEN: dict[str, Any] = {
    "no JSON": "{",
    "too deep": NESTED,
    "a list": "[]",
    "no versions": {"versions": None},
    "no op": {"op": None},
    "an op that nobody has": {"op": "x"},
    "no views": {"views": []},
    "a view that nobody has": {"views": [{"view": "x", "kind": "x"}]},
    "views of no kind": {"views": [1]},
    "another format": {"options": {"row format": 1}},
    "no counts": {"counts": 1},
    "a count of half a row": {"counts": {"rows": 1.5}},
    "a truth for a count": {"counts": {"rows": True}},
    "an option of another type": {"options": {"row format": 4, "windows": "yes"}},
    "a folder that is a list": {"model": []},
    "a dtype that is none": {"dtype": 1},
}


@pytest.mark.parametrize("broken", BROKEN)
def test_facts_that_are_not_whole_give_one_line(broken: str, made: Made, run: Run) -> None:
    out, change = made(), BROKEN[broken]
    if isinstance(change, str):
        meta_of(out).write_text(change)
    else:
        set_facts(out, {**facts_of(out), **change})
    run("verify", out).refused()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"no rows\n", ["line 1 is not JSON"]),
        (b"[1]\n", ["not a JSON object"]),
        (b'{"line": 1}\n', ["a row has a line and a view"]),
        (b'{"line": NaN, "view": "ft"}\n', ["NaN is no JSON value"]),
        (pickle.dumps(print), ["is not JSON"]),
        (b"", []),
    ],
)
def test_a_file_of_something_else_is_no_table(
    content: bytes, words: list[str], made: Made, run: Run, verify: Verify
) -> None:
    out = made()
    out.write_bytes(content)
    if not content:
        assert verify(out)[0].code == 1
        return
    run("verify", out).refused(*words)


def test_a_table_that_is_missing_is_refused(run: Run, tmp_path: Path) -> None:
    run("verify", tmp_path / "rows.jsonl").refused("rows.jsonl")
    run("verify", tmp_path / "rows.parquet").refused("rows.parquet")


def test_no_pipe_or_device_is_read_because_a_table_names_it(
    made: Made, run: Run, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "pipe.jsonl")
    for file in (tmp_path / "pipe.jsonl", "/dev/zero"):
        out = made()
        facts = facts_of(out)
        facts["prompts"]["file"] = str(file)
        set_facts(out, facts)
        run("verify", out).refused(f"there is no file {file}")


def test_what_a_table_says_is_no_markup_and_no_escape_of_a_terminal(made: Made, run: Run) -> None:
    out = made()
    rewrite(out, other("\x1b[31m[red]x", "[bold]\x1b[2J"))
    ended = run("verify", out, "--share", 1)
    assert ended.code == 1
    assert "\x1b" not in ended.out
    assert "[bold]" in ended.out


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
    made: Made, verify: Verify
) -> None:
    out = made("rows.jsonl", "--op", "rolling_logprob", dtype="bfloat16")
    ended, said = verify(out)
    assert ended.code == 0, ended.err
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
    half = bound_of("bfloat16", "bfloat16", measured=0.01, told=9.0, is_elsewhere=False)
    assert half.floor == 0.01
    less = bound_of("float32", "bfloat16", measured=None, told=0.002, is_elsewhere=True)
    more = bound_of("float32", "bfloat16", measured=None, told=9.0, is_elsewhere=True)
    assert (less.floor, more.floor) == (0.002, 0.03)
    assert less.nats < less.wide < more.wide
    both = bound_of("float16", "bfloat16", measured=0.003, told=0.02, is_elsewhere=True)
    assert both.floor == 0.02
