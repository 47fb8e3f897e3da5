"""Claims: ``export reference`` gives the rows that it was given, each with the sums of its two
completions, as JSON lines and as a table; a run that was cut short goes on; rows that are no pair
are one clear line each. Recorded sums of TRL hold without TRL; ``test_export_trl`` runs it.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.export.preference import lacking, tokens_of
from tests.cli.conftest import ASSETS, Ended, Run, last_of_each, read_rows
from tests.hf import tiny

Rows = list[dict[str, Any]]

PAIRS: Rows = [
    {"prompt": "A list is", "chosen": " a mutable sequence", "rejected": " a number", "id": 7},
    {"prompt": "The value of", "chosen": " x", "rejected": " y is", "source": "b"},
    {"prompt": "", "chosen": "Python is", "rejected": "Snakes are"},
    {"prompt": "Python ", "chosen": "is great. " * 40, "rejected": "isn't"},
]
# Of TRL 1.16.0: DPOTrainer(...precompute_ref_log_probs=True, bf16=False) on the demo's model in
# float32, with transformers 5.24.0 and torch 2.15.0 on a CPU.
RECORDED = [
    (-28.453020095825195, -30.14147186279297),
    (-28.834850311279297, -29.068204879760742),
    (-33.04790496826172, -52.80767059326172),
    (-1887.1695556640625, -53.05862808227539),
]


@pytest.fixture
def reference(run: Run) -> Run:
    """``export reference`` of the demo's model."""

    def call(*arguments: object, **keywords: Any) -> Ended:
        words = last_of_each(["--model", ASSETS / "model", "--dtype", "float32", *arguments])
        return run("export", "reference", *words, **keywords)

    return call


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    return written(tmp_path, PAIRS)


def written(folder: Path, rows: Rows) -> Path:
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_rows_come_back_with_the_sums_that_trl_has(
    reference: Run, run: Run, pairs: Path, tmp_path: Path
) -> None:
    lines, table = tmp_path / "out.jsonl", tmp_path / "out.parquet"
    ended = reference("--prompts", pairs, "-o", lines, "--format", "json")
    assert ended.code == 0, ended.err
    for row, own, (chosen, rejected) in zip(PAIRS, read_rows(lines), RECORDED, strict=True):
        sums = {"ref_chosen_logps": own["ref_chosen_logps"],
                "ref_rejected_logps": own["ref_rejected_logps"]}  # fmt: skip
        assert own == {**row, **sums}
        assert list(sums.values()) == pytest.approx([chosen, rejected], abs=1e-3, rel=1e-5)
    told = json.loads(ended.out)
    assert (told["view"], told["pairs"], told["merged_boundaries"]) == ("base", 4, 1)
    assert (told["cut_completions"], told["chosen_above"]) == (0, 0.75)
    assert reference("--prompts", pairs, "-o", table).code == 0
    frame = pl.read_parquet(table)
    assert frame.columns == ["prompt", "chosen", "rejected", "id", "source", "ref_chosen_logps",
                             "ref_rejected_logps"]  # fmt: skip
    assert frame["ref_chosen_logps"].to_list() == [
        row["ref_chosen_logps"] for row in read_rows(lines)
    ]
    assert frame["source"].to_list() == [None, "b", None, None]
    for out in (lines, table):
        run("verify", out).refused("it is an export, which isn't verified")


def test_columns_of_a_table_hold_messages_and_mixed_values(reference: Run, tmp_path: Path) -> None:
    rows = [{**PAIRS[0], "id": 1, "mixed": 1}, {**PAIRS[1], "id": 2, "mixed": "two"}]
    out = tmp_path / "out.parquet"
    assert reference("--prompts", written(tmp_path, rows), "-o", out).code == 0
    assert pl.read_parquet(out)["mixed"].to_list() == ["1", '"two"']


def test_a_run_that_was_cut_short_goes_on(
    reference: Run, pairs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from forwardcache.jobs.results import PartFile

    monkeypatch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", 2)
    whole, out, real = tmp_path / "whole.jsonl", tmp_path / "out.jsonl", PartFile.write
    assert reference("--prompts", pairs, "-o", whole).code == 0

    def write(part: Any, rows: Any) -> None:
        if rows[0]["prompt"] == "":
            raise KeyboardInterrupt
        real(part, rows)

    with monkeypatch.context() as patched:
        patched.setattr(PartFile, "write", write)
        ended = reference("--prompts", pairs, "-o", out)
    assert "the rows of 2 of 4 rows are in" in ended.err
    ended = reference("--prompts", pairs, "-o", out, "--resume")
    assert "going on after 2 of 4 rows" in ended.err
    assert out.read_bytes() == whole.read_bytes()


MESSAGE = {"role": "user", "content": "x"}


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"rejected": None}, 'no "rejected"'),
        ({"prompt": None}, 'no "prompt"'),
        ({"prompt": None, "messages": [MESSAGE]}, 'no "prompt"'),
        ({"chosen": ""}, '"chosen" is empty'),
        ({"rejected": "a"}, '"chosen" and "rejected" are equal'),
        ({"chosen": [MESSAGE]}, "prompt is a text, chosen is a list, rejected is a text"),
        ({"prompt": [MESSAGE], "chosen": ["x"], "rejected": [MESSAGE]}, "a message has to be"),
        ({"prompt": [], "chosen": [MESSAGE], "rejected": [MESSAGE] * 2}, '"prompt" has no message'),
        ({"ref_chosen_logps": -1.0}, '"ref_chosen_logps" is there already'),
        ({"images": ["x.png"]}, '"images": rows with images are not read'),
        ({"prompt": "the " * 2000}, "which leaves none of 1,024 (--max-length)"),
        ({"chosen": "the " * 600}, "more than the model's context length of"),
        (
            {"prompt": [MESSAGE], "chosen": [MESSAGE], "rejected": [MESSAGE] * 2},
            "can't turn the row into tokens: ",
        ),
    ],
)
def test_what_is_no_pair_is_one_clear_line(
    reference: Run, tmp_path: Path, fields: dict[str, Any], said: str
) -> None:
    row = {"prompt": "p", "chosen": "a", "rejected": "b", **fields}
    path = written(tmp_path, [PAIRS[0], row])
    longest = ["--max-length", 5000] if "context" in said else []
    reference("--prompts", path, "-o", tmp_path / "out.jsonl", *longest).refused("line 2: ", said)


def test_such_rows_are_left_out_where_that_is_asked_for(reference: Run, tmp_path: Path) -> None:
    rows = [PAIRS[0], {"prompt": "p", "chosen": "a", "rejected": "a"}, {"chosen": "a"}]
    words = ["--prompts", written(tmp_path, rows), "-o", tmp_path / "out.jsonl"]
    ended = reference(*words, "--on-error", "skip", "--strict")
    assert ended.code == 1
    assert "2 rows were skipped; the first, line 2: " in ended.err
    assert len(read_rows(tmp_path / "out.jsonl")) == 1


def test_tokens_are_cut_as_trl_cuts_them() -> None:
    plain, begins = tiny.tokenizer(bos=False), tiny.tokenizer()
    row = {"prompt": "hello wor", "chosen": "ld again", "rejected": "k"}
    assert lacking(row) is None
    found = tokens_of(begins, row, {}, max_length=1024)
    whole = begins("hello world again</s>")["input_ids"]
    # The prompt's last token is another in "world": neither completion's context has it.
    assert found.is_merged
    assert found.chosen[0] == found.rejected[0] == tuple(whole[: len(found.chosen[0])])
    assert sum(found.chosen, ()) == tuple(whole)
    row["rejected"] = "m</s>"
    cut = tokens_of(begins, row, {}, max_length=len(whole) - 1)
    assert (sum(cut.chosen, ()), cut.cut) == (tuple(whole[:-1]), 2)
    empty = tokens_of(plain, {**row, "prompt": ""}, {}, max_length=1024)
    assert len(empty.chosen[0]) == 1
    plain.eos_token = None
    with pytest.raises(InvalidInputError, match="no EOS token"):
        tokens_of(plain, row, {}, max_length=1024)
