"""Claims: a source gives the filled lines that a file has, with bounded memory, and from any place
again; its digest is that of the bytes. What can be read once is read once.
"""

from __future__ import annotations

import hashlib
import io
import os
import sys
import threading
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.prompt_source import BEGIN, Line, open_source

PIECES = st.lists(
    st.sampled_from(
        [b"a", b"\n", b"\r\n", b" ", b"\xc2\xa0", b"\xef\xbb\xbf", b"\r", b"{}", b"\xff"]
    )
)


def plain(data: bytes) -> list[tuple[int, bytes]]:
    """The rule as it was before lines were streamed."""
    lines = data.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    return [
        (number, raw.removesuffix(b"\r"))
        for number, raw in enumerate(lines, start=1)
        if raw.strip() and (raw.isascii() or raw.decode("utf-8", "replace").strip())
    ]


@settings(max_examples=50)
@given(pieces=PIECES, size=st.integers(1, 4))
def test_lines_are_those_of_the_bytes_and_are_read_again_from_any_place(
    tmp_path_factory: pytest.TempPathFactory, pieces: list[bytes], size: int
) -> None:
    data = b"".join(pieces)
    path = tmp_path_factory.getbasetemp() / "lines.txt"
    path.write_bytes(data)
    source = open_source(str(path))
    expected = [Line(*line) for line in plain(data)]
    assert list(source.lines()) == expected
    blocks = list(source.blocks(size=size))
    assert all(len(block) == size for block in blocks[:-1])
    offsets = [block.offset(at) for block in blocks for at in range(len(block))]
    for at, offset in enumerate(offsets):
        assert source.block(offset, 2) == expected[at : at + 2]
    assert source.digest() == hashlib.sha256(data).hexdigest()


@pytest.mark.parametrize("read", [0, 1, 1500, 3000])
def test_the_digest_is_that_of_all_bytes_however_many_were_read(tmp_path: Path, read: int) -> None:
    path = tmp_path / "p.txt"
    path.write_bytes(b"".join(b"line %d\n" % number for number in range(100_000)))
    source = open_source(str(path))
    lines = list(islice(source.lines(), read))
    if read:
        source.block(source.blocks().__next__().offset(500), 10)
    assert len(lines) == read
    assert source.digest() == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("p.jsonl", "text", "json"),
        ("p.NDJSON", "", "json"),
        ("p.txt", "{}", "text"),
        ("p", ' \n {"prompt": "a"}', "json"),
        ("p", "a {", "text"),
        ("p", "", "text"),
    ],
)
def test_what_lines_hold_is_told_by_the_name_or_the_first(
    tmp_path: Path, name: str, content: str, kind: str
) -> None:
    (tmp_path / name).write_text(content)
    assert open_source(str(tmp_path / name)).kind == kind


def test_standard_input_is_read_again_from_any_place(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b'\xef\xbb\xbf{"prompt": "a"}\n\nb\n'
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))
    source = open_source("-")
    [block] = source.blocks()
    assert source.name == "standard input"
    assert source.kind == "json"
    assert source.block(block.offset(1), 5) == [Line(3, b"b")]
    assert source.block(BEGIN, 1) == [Line(1, b'{"prompt": "a"}')]
    assert source.digest() == hashlib.sha256(data).hexdigest()
    source.close()


def test_a_pipe_is_read_again_from_any_place(tmp_path: Path) -> None:
    path = tmp_path / "pipe.jsonl"
    os.mkfifo(path)
    writer = threading.Thread(target=path.write_bytes, args=(b"one\ntwo\n",))
    writer.start()
    source = open_source(str(path))
    writer.join()
    assert source.kind == "json"
    assert list(source.lines()) == list(source.lines()) == [Line(1, b"one"), Line(2, b"two")]
    source.close()


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_lines_that_all_begin_as_objects_do_have_no_carriage_return(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / name).write_bytes(b'{"a": 1}\r\n{b}\n{\r\n{c\r')
    raws = [line.raw for line in open_source(str(tmp_path / name)).lines()]
    assert raws == [b'{"a": 1}', b"{b}", b"{", b"{c"]


def test_a_file_that_goes_away_is_named(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    path.write_text("one\n")
    source = open_source(str(path))
    path.unlink()
    with pytest.raises(InvalidInputError, match=r"can't read the prompts '.*p.txt': No such file"):
        list(source.lines())
