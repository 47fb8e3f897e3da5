"""Prompts: the two forms, and that every line that can't be used is named."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.prompts import Prompt, read_prompts


def written(folder: Path, name: str, content: str | bytes) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8"))
    return str(path)


def test_plain_lines_keep_their_numbers_and_spaces(tmp_path: Path) -> None:
    found = read_prompts(written(tmp_path, "p.txt", " one \n\n\ttwo\r\n{three\u2028still three"))
    assert found.prompts == (
        Prompt(1, " one "),
        Prompt(3, "\ttwo"),
        Prompt(4, "{three\u2028still three"),
    )


def test_json_lines_carry_what_they_don_t_use(tmp_path: Path) -> None:
    line = '{"prompt": "a", "completion": " b", "tag": [1, null], "deep": {"x": "\\ud800"}}\n'
    found = read_prompts(written(tmp_path, "p.jsonl", "\n" + line))
    assert found.prompts == (Prompt(2, "a", " b", {"tag": [1, None], "deep": {"x": "\ud800"}}),)


def test_a_byte_order_mark_is_no_part_of_the_first_prompt(tmp_path: Path) -> None:
    assert read_prompts(written(tmp_path, "p.txt", b"\xef\xbb\xbfone")).prompts[0].text == "one"


@pytest.mark.parametrize(
    ("content", "text"), [(b'{"prompt": "x"}\n', "x"), (b"plain {\n", "plain {")]
)
def test_standard_input_is_told_by_its_first_line(
    content: bytes, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content)))
    assert read_prompts("-").prompts[0].text == text


GOOD = '{"prompt": "good"}\n'


@pytest.mark.parametrize(
    ("content", "word"),
    [
        (GOOD + "{not json}\n", "line 2: not JSON"),
        (GOOD + '{"prompt": "cut', "line 2: not JSON"),
        (GOOD + "\n[1, 2]\n", "line 3: not a JSON object"),
        (GOOD + '{"text": "x"}\n', 'line 2: no "prompt"'),
        (GOOD + '{"prompt": null}\n', 'line 2: no "prompt"'),
        (GOOD + '{"prompt": 7}\n', 'line 2: "prompt" is not a string'),
        (GOOD + '{"prompt": "a", "completion": ["b"]}', 'line 2: "completion" is not a string'),
        (GOOD + '{"prompt": "\\ud800"}\n', 'line 2: "prompt" holds half a surrogate pair'),
        (GOOD + '{"prompt": "a", "x": NaN}\n', "line 2: not JSON"),
        (GOOD + '{"prompt": "a", "x": ' + "[" * 100_000 + "\n", "line 2: not JSON"),
        (GOOD + '{"prompt": "a", "x": ' + "1" * 5000 + "}\n", "line 2: not JSON"),
        (GOOD + '{"prompt": "a", "x": [{"y": -1e999}]}\n', "line 2: the number '-1e999'"),
        (GOOD + '{"prompt": "a", "x": ' + "9" * 5000 + ".0}\n", "line 2: the number '999"),
        (GOOD.encode() + b'{"prompt": "\xff"}\n', "line 2: not UTF-8"),
        (GOOD + '{"prompt": "a", "prompt": "b"}\n', "line 2: not JSON (the field 'prompt' stands"),
        (GOOD + '{"prompt": "a", "x": {"y": 1, "y": 1}}\n', "the field 'y' stands there twice"),
        ("", "holds no prompt"),
        (" \n\n", "holds no prompt"),
    ],
)
def test_a_line_that_can_t_be_used_is_named(
    tmp_path: Path, content: str | bytes, word: str
) -> None:
    with pytest.raises(InvalidInputError, match=r".") as refused:
        read_prompts(written(tmp_path, "p.jsonl", content))
    assert word in str(refused.value)


@pytest.mark.parametrize("name", ["missing.jsonl", ".", "nul\0.txt"])
def test_a_file_that_can_t_be_read_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(InvalidInputError, match="can't read the prompts"):
        read_prompts(str(tmp_path / name))


def test_completions_are_asked_for_only_where_they_are_scored(tmp_path: Path) -> None:
    found = read_prompts(written(tmp_path, "p.jsonl", GOOD + '{"prompt": "a", "completion": "b"}'))
    assert list(found.items("next_token_dist")) == ["good", "a"]
    with pytest.raises(InvalidInputError, match="line 1: no completion"):
        found.items("logprob_of")


def test_standard_input_that_is_closed_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", None)  # as in a process started with <&-
    with pytest.raises(InvalidInputError, match="standard input is closed"):
        read_prompts("-")
