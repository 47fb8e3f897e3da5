"""Claims: a table and a folder are read as the lines that they stand for, with bounded memory and
from any place; what JSON has no value for is refused by column or row, and no file is passed over.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.prompt_source import Line, open_source
from forwardcache.jobs.prompt_source.plan import Plan
from forwardcache.jobs.prompts import TEXTS, Prompt, check_source, read_prompts


def parquet(path: Path, columns: dict[str, Any], **options: Any) -> str:
    pq.write_table(pa.table(columns), path, **options)
    return str(path)


def arrow(path: Path, columns: dict[str, Any], *, rows: int = 1000) -> None:
    table = pa.table(columns)
    with pa.ipc.new_stream(path, table.schema) as writer:
        writer.write_table(table, max_chunksize=rows)


def saved(folder: Path, *shards: dict[str, Any]) -> str:
    """What ``save_to_disk`` of datasets 5.2 leaves."""
    folder.mkdir()
    names = [f"data-{at:05}-of-{len(shards):05}.arrow" for at in range(len(shards))]
    for name, columns in zip(names, shards, strict=True):
        arrow(folder / name, columns)
    state = {"_data_files": [{"filename": name} for name in names], "_split": None}
    (folder / "state.json").write_text(json.dumps(state))
    (folder / "dataset_info.json").write_text("{}")
    return str(folder)


def test_a_table_is_the_lines_of_json_that_its_rows_are(tmp_path: Path) -> None:
    columns = {
        "prompt": ["a", "b"],
        "completion": pa.array([" c", None]).dictionary_encode(),
        "id": pa.array([2**63, 7], pa.uint64()),
        "score": pa.array([0.5, None], pa.float16()),
        "tags": [[1, None], None],
        "deep": [{"x": True, "y": [date(2026, 2, 1)]}, {"x": None, "y": []}],
        "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int8())),
        "when": pa.array([datetime(2026, 2, 1, tzinfo=UTC), None], pa.timestamp("ms", "UTC")),
        "clock": [time(12), None],
        "price": [Decimal("1.50"), None],
        "nothing": pa.nulls(2),
    }
    rows = [
        {
            "prompt": "a", "completion": " c", "id": 2**63, "score": 0.5, "tags": [1, None],
            "deep": {"x": True, "y": ["2026-02-01"]}, "map": {"k": 1},
            "when": "2026-02-01 00:00:00.000Z", "clock": "12:00:00.000000", "price": "1.50",
            "nothing": None,
        },
        {
            "prompt": "b", "completion": None, "id": 7, "score": None, "tags": None,
            "deep": {"x": None, "y": []}, "map": None, "when": None, "clock": None, "price": None,
            "nothing": None,
        },
    ]  # fmt: skip
    lines = tmp_path / "p.jsonl"
    lines.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = read_prompts(parquet(tmp_path / "p.parquet", columns))
    assert found.prompts == read_prompts(str(lines)).prompts
    assert found.prompts[0].id == 2**63


@pytest.mark.parametrize("form", ["parquet", "saved"])
def test_rows_are_read_again_from_any_place(tmp_path: Path, form: str) -> None:
    texts = [f"text {row}" for row in range(5000)]
    given = (
        parquet(tmp_path / "p.parquet", {"prompt": texts}, row_group_size=1700)
        if form == "parquet"
        else saved(tmp_path / "p", {"prompt": texts[:2600]}, {"prompt": texts[2600:]})
    )
    source = open_source(given)
    expected = [
        Line(number, json.dumps({"prompt": text}, separators=(",", ":")).encode())
        for number, text in enumerate(texts, start=1)
    ]
    assert list(source.lines()) == expected
    blocks = list(source.blocks())
    offsets = {block.numbers[at]: block.offset(at) for block in blocks for at in range(len(block))}
    for first in (4990, 1, 1700, 1701, 2590, 3400, 3, 1024, 1025):
        assert source.block(offsets[first], 20) == expected[first - 1 : first + 19]
    assert source.block(offsets[4999], 20) == expected[4998:]


def test_a_file_of_the_same_rows_has_the_same_chunks_and_names(tmp_path: Path) -> None:
    columns = {"prompt": [f"text {row}" for row in range(700)], "n": list(range(700))}
    texts = [{"prompt": text, "n": n} for text, n in zip(*columns.values(), strict=True)]
    lines = tmp_path / "p.jsonl"
    lines.write_text("".join(json.dumps(row, separators=(",", ":")) + "\n" for row in texts))
    names = []
    for given in (
        str(lines),
        parquet(tmp_path / "p.parquet", columns),
        saved(tmp_path / "s", columns),
    ):
        plan = Plan(open_source(given))
        plan.read(lambda block: [30] * len(block))
        names.append([plan.name_of(chunk, "job") for chunk in plan.chunks()])
        assert b"".join(plan.lines_of(plan.chunks()[1])).startswith(b'{"prompt":"text 256"')
    assert names[0] == names[1] == names[2]
    assert len(set(names[0])) == 3


@pytest.mark.parametrize(
    ("column", "word"),
    [
        (pa.array([b"x"]), "'x' holds binary, for which JSON has no value"),
        (pa.array([timedelta(1)]), "'x' holds duration"),
        (pa.array([[{"y": b"x"}]]), "'x' holds binary"),
        (pa.array([[(1, 2)]], pa.map_(pa.int8(), pa.int8())), "'x' holds map<int8, int8"),
    ],
)
def test_a_column_that_json_has_no_value_for_is_named(
    tmp_path: Path, column: pa.Array, word: str
) -> None:
    given = parquet(tmp_path / "p.parquet", {"prompt": ["a"], "x": column})
    for read in (check_source, open_source):
        with pytest.raises(InvalidInputError, match=f"p.parquet: the column {word}"):
            read(given)


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.table([["a"], ["b"]], names=["prompt", "prompt"])
    pq.write_table(table, tmp_path / "p.parquet")
    with pytest.raises(InvalidInputError, match="two columns are called 'prompt'"):
        read_prompts(str(tmp_path / "p.parquet"))


NOT_UTF8 = pa.Array.from_buffers(
    pa.string(),
    3,
    [None, pa.array([0, 1, 3, 4], pa.int32()).buffers()[1], pa.py_buffer(b"a\n\xffc")],
)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            {"prompt": ["a", "b", "c"], "x": [1.0, float("nan"), 2.0]},
            "not JSON (NaN is no JSON value, in the field 'x')",
        ),
        (
            {"prompt": ["a", "b", "c"], "x": [[], [{"y": float("-inf")}], []]},
            "not JSON (-Infinity is no JSON value, in the field 'x')",
        ),
        ({"prompt": ["a", None, "c"]}, 'no "prompt" (or "messages")'),
        ({"prompt": NOT_UTF8}, "not UTF-8 (invalid start byte)"),
    ],
)
def test_a_row_that_can_t_be_used_is_named_or_skipped(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    given = parquet(tmp_path / "p.parquet", columns)
    with pytest.raises(InvalidInputError) as refused:
        read_prompts(given)
    assert str(refused.value) == f"{given} line 2: {reason}"
    found = read_prompts(given, on_error="skip")
    assert [(one.line, one.reason) for one in found.skipped] == [(2, reason)]
    assert [prompt.text for prompt in found.prompts] == ["a", "c"]


def test_a_row_that_can_t_be_used_is_one_line_too(tmp_path: Path) -> None:
    """As lines they go to workers, who say what is wrong with each."""
    given = parquet(tmp_path / "p.parquet", {"prompt": NOT_UTF8})
    with closing(open_source(given)) as source:
        raws = [raw for block in source.blocks() for raw in block.raws]
    assert len(raws) == 3
    assert not any(b"\n" in raw for raw in raws)


def test_a_map_with_a_key_twice_is_refused_by_its_row(tmp_path: Path) -> None:
    maps = pa.array([[("k", 1)], [("k", 1), ("k", 2)]], pa.map_(pa.string(), pa.int8()))
    given = parquet(tmp_path / "p.parquet", {"prompt": ["a", "b"], "x": maps})
    with pytest.raises(InvalidInputError, match=r"p.parquet line 2: a map has a key twice"):
        read_prompts(given)


@pytest.mark.parametrize("cut", [0, 3, 100, -100])
def test_a_table_that_is_cut_or_damaged_is_one_line(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "p.parquet"
    parquet(path, {"prompt": [f"text {row}" for row in range(5000)]})
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InvalidInputError, match=r"^can't read the prompts '.*p.parquet': [^\n]+$"):
        read_prompts(str(path))


def test_places_that_lead_out_of_a_batch_are_not_followed(tmp_path: Path) -> None:
    given = saved(tmp_path / "s", {"prompt": ["aaaa", "bbbb"]})
    path = Path(given) / "data-00000-of-00001.arrow"
    ends = b"\0\0\0\0\4\0\0\0\x08\0\0\0"
    data = path.read_bytes()
    assert data.count(ends) == 1
    path.write_bytes(data.replace(ends, ends.replace(b"\4", b"\7")))
    assert [prompt.text for prompt in read_prompts(given).prompts] == ["aaaabbb", "b"]
    path.write_bytes(data.replace(ends, ends.replace(b"\4", b"\x09")))
    with pytest.raises(InvalidInputError, match="can't read the prompts"):
        read_prompts(given)


def test_a_table_without_columns_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"p.parquet has no columns"):
        read_prompts(parquet(tmp_path / "p.parquet", {}))


def test_a_table_of_rows_is_no_prompts(tmp_path: Path) -> None:
    columns = {name: ["x"] for name in ("id", "view", "op", "hit", "prompt")}
    given = parquet(tmp_path / "p.parquet", columns)
    with pytest.raises(InvalidInputError, match=r"p.parquet is a file of score's rows, which"):
        check_source(given)


def folder_of(tmp_path: Path, files: dict[str, str | bytes]) -> str:
    folder = tmp_path / "folder"
    folder.mkdir()
    for name, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (folder / name).write_bytes(data)
    return str(folder)


def test_lines_of_a_folder_are_counted_on_in_the_order_of_names(tmp_path: Path) -> None:
    given = folder_of(
        tmp_path,
        {
            "b.jsonl": b'\xef\xbb\xbf{"prompt": "3"}\r\n\n{"prompt": "5"}',
            "a.json": '{"prompt": "1"}\n\n',
            "d.ndjson": "",
            "_SUCCESS": "",
            "_metadata": "",
            "_common_metadata": "",
            "_committed_7": "",
            ".e.crc": "",
        },
    )
    parquet(Path(given) / "c.parquet", {"prompt": ["6", "7"]})
    found = read_prompts(given)
    lines = [(prompt.line, prompt.text) for prompt in found.prompts]
    assert lines == [(1, "1"), (3, "3"), (5, "5"), (6, "6"), (7, "7")]
    source = open_source(given)
    [*blocks] = source.blocks()
    assert [block.file for block in blocks] == [0, 1, 2]
    numbers = [line.number for line in source.block(blocks[0].offset(0), 4)]
    assert numbers == [1, 3, 5, 6]
    assert source.digest() == found.sha256


def test_an_error_names_the_file_and_its_own_line(tmp_path: Path) -> None:
    given = folder_of(tmp_path, {"a.jsonl": GOOD * 3, "b.jsonl": "\n" + GOOD + "{\n"})
    parquet(Path(given) / "c.parquet", {"prompt": ["a", None]})
    with pytest.raises(InvalidInputError, match=r"folder/b.jsonl line 3: not JSON"):
        read_prompts(given)
    plan = Plan(open_source(given))
    reasons: Callable[[Any], Sequence[int | str]] = lambda block: [  # noqa: E731
        "bad" if number == 8 else 1 for number in block.numbers
    ]
    with pytest.raises(InvalidInputError, match=r"folder/c.parquet line 2: bad"):
        plan.read(reasons)
    found = read_prompts(given, on_error="skip")
    assert [one.line for one in found.skipped] == [6, 8]
    with pytest.raises(InvalidInputError, match=r"folder/b.jsonl line 2: no completion"):
        found.for_op("logprob_of", "skip").refuse(found.prompts[3], "no completion")
    with pytest.raises(InvalidInputError, match=r"folder/c.parquet line 1: it"):
        found.refuse(found.prompts[-1], "it")


GOOD = '{"prompt": "x", "completion": "y"}\n'


@pytest.mark.parametrize(
    ("files", "word"),
    [
        ({"a.jsonl": GOOD, "README.md": ""}, "README.md is no file of prompts; in a folder"),
        ({"a.jsonl": GOOD, "_b.csv": ""}, "_b.csv is no file of prompts"),
        ({"a.jsonl": GOOD, "b.txt": ""}, "b.txt holds plain text and .*a.jsonl doesn't"),
        ({"_SUCCESS": ""}, "it is a folder without files of them"),
        ({}, "it is a folder without files of them"),
        ({"a.jsonl": '{"view_id": 1, "prompt_hash": 1, "wall_ms": 1}'}, "a.jsonl is a trace"),
        ({"a.jsonl": b"PAR1"}, "a.jsonl is a Parquet table: name it .parquet"),
        ({"a.jsonl": b"PK\x03\x04"}, "a.jsonl is compressed"),
        ({"config.json": "{}"}, "is the folder of a model"),
        ({"dataset_dict.json": '{"splits": ["train", "test"]}'}, "give one of .*/train, .*/test"),
        ({"state.json": "[]"}, "state.json names no files of a data set"),
        ({"state.json": "{"}, "state.json is not JSON"),
        ({"state.json": '{"_data_files": [{"filename": "../x.arrow"}]}'}, "names no files"),
        ({"state.json": '{"_data_files": [{"filename": "x.arrow"}]}'}, "can't read the prompts"),
    ],
)
def test_a_folder_of_something_else_is_refused(
    tmp_path: Path, files: dict[str, str | bytes], word: str
) -> None:
    given = folder_of(tmp_path, files)
    for read in (check_source, read_prompts):
        with pytest.raises(InvalidInputError, match=word):
            read(given)


def test_a_folder_in_a_folder_is_refused(tmp_path: Path) -> None:
    given = folder_of(tmp_path, {"a.jsonl": GOOD})
    (Path(given) / "more").mkdir()
    with pytest.raises(InvalidInputError, match="folder/more is a folder in a folder of prompts"):
        read_prompts(given)


def test_what_datasets_saves_is_read_without_it(tmp_path: Path) -> None:
    given = saved(tmp_path / "s", {"text": ["1", "2"]}, {"text": []}, {"text": ["3"]})
    found = read_prompts(given, words=TEXTS)
    assert found.prompts == (Prompt(1, "1"), Prompt(2, "2"), Prompt(3, "3"))


def test_an_empty_table_holds_no_prompt(tmp_path: Path) -> None:
    given = parquet(tmp_path / "p.parquet", {"prompt": pa.array([], pa.string())})
    with pytest.raises(InvalidInputError, match=r"p.parquet holds no prompt"):
        read_prompts(given)


def test_without_pyarrow_the_extra_is_named(tmp_path: Path) -> None:
    given = parquet(tmp_path / "p.parquet", {"prompt": ["a"]})
    code = (
        "import sys; sys.modules['pyarrow'] = None\n"
        "from forwardcache.jobs.prompt_source import check_source\n"
        "try: check_source(sys.argv[1])\n"
        "except ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, given], capture_output=True, text=True, check=True
    )
    assert done.stdout == (
        "reading prompts from a table needs pyarrow: pip install 'forwardcache[parts]'\n"
    )
