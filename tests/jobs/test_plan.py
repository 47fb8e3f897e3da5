"""Claims: a plan has the chunks that one process has; each knows its lines, and is named by what is
in it and not by where it stands. What a prompt leaves in memory is a few bytes.
"""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.job import CHUNK_PROMPTS, Job
from forwardcache.jobs.prompt_line import LineError, Prompt
from forwardcache.jobs.prompt_source import BEGIN, Block, Offset, open_source
from forwardcache.jobs.prompt_source.line_file import LineFile
from forwardcache.jobs.prompt_source.plan import ChunkSpec, Plan, content_of, name_of
from forwardcache.jobs.prompt_source.source import Files
from forwardcache.jobs.prompts import PROMPTS, PromptSet, prompt_for
from forwardcache.jobs.skips import OnError, Skipped


def length_of(raw: bytes) -> int | str:
    """A length that is the line itself; no number can't be scored."""
    return int(raw) if raw.isdigit() else f"{raw.decode()} is no number"


def lengths_of(block: Block) -> list[int | str]:
    return [length_of(raw) for raw in block.raws]


def planned(
    path: Path, lines: Sequence[str], *, on_error: OnError = "skip", **options: Any
) -> Plan:
    path.write_text("\n".join(lines))
    plan = Plan(open_source(str(path)), on_error=on_error, **options)
    plan.read(lengths_of)
    return plan


class InSmallBlocks(Files):
    """A source whose blocks are so small that chunks have several."""

    def blocks(self, start: Offset = BEGIN, size: int = 3) -> Iterator[Block]:
        return super().blocks(start, size)


LINE = st.one_of(st.sampled_from(["", "x", "0"]), st.integers(1, 9000).map(str))


@settings(max_examples=50)
@given(lines=st.lists(LINE, max_size=40), few=st.integers(1, 5))
def test_chunks_and_their_lines_are_those_of_one_process(
    tmp_path_factory: pytest.TempPathFactory, lines: list[str], few: int
) -> None:
    prompts = [Prompt(number, line) for number, line in enumerate(lines, start=1) if line.isdigit()]
    path = tmp_path_factory.getbasetemp() / "plan.txt"
    if not prompts:
        with pytest.raises(InvalidInputError, match="holds no prompt"):
            planned(path, lines)
        return
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("forwardcache.jobs.job.CHUNK_PROMPTS", few)
        path.write_text("\n".join(lines))
        plan = Plan(InSmallBlocks("it", [LineFile(str(path), PROMPTS)]), on_error="skip")
        plan.read(lengths_of)
        lengths = [int(prompt.text) for prompt in prompts]
        job = Job(PromptSet("", tuple(prompts), ""), lengths, "rolling_logprob", (), 1, 1)
        chunks = list(job.chunks())
    assert [range(one.first, one.first + len(one.lengths)) for one in plan.chunks()] == chunks
    for one, chunk in zip(plan.chunks(), chunks, strict=True):
        own = prompts[chunk.start : chunk.stop]
        assert list(one.numbers) == [prompt.line for prompt in own]
        assert list(one.lengths) == lengths[chunk.start : chunk.stop]
        assert plan.lines_of(one) == [prompt.text.encode() for prompt in own]
    assert plan.prompts == len(prompts)
    assert (plan.tokens, plan.longest) == (sum(lengths), max(lengths))
    assert [one.line for one in plan.skipped] == [
        number for number, line in enumerate(lines, start=1) if line == "x"
    ]


def names(plan: Plan, job: str = "job") -> list[str]:
    return [plan.name_of(chunk, job) for chunk in plan.chunks()]


def test_a_name_tells_content_job_and_kind_and_nothing_of_the_place(tmp_path: Path) -> None:
    long = ["8192", "8191", "8192"]
    plan = planned(tmp_path / "p.txt", long)
    first, second, third = names(plan)
    assert first == third != second
    assert names(planned(tmp_path / "q.txt", ["", "5000", "5001", "", *long]))[2:] == names(plan)
    assert names(planned(tmp_path / "p.jsonl", long)) != names(plan)
    assert set(names(plan, "other")).isdisjoint(names(plan))


def test_a_name_tells_where_lines_end() -> None:
    contents = [
        content_of("text", raws) for raws in ([b"ab"], [b"a", b"b"], [b"", b"ab"], [b"ab", b""])
    ]
    assert len(set(contents)) == len(contents)
    assert name_of(contents[0], "ab") != name_of(contents[0], "a")


def test_a_line_without_a_length_is_named_or_skipped(tmp_path: Path) -> None:
    path = tmp_path / "p.jsonl"
    lines = ["1", "", '{"prompt": "x", "id": "mine"}', "{", "2"]
    with pytest.raises(InvalidInputError, match=r"p.jsonl line 3: .* is no number"):
        planned(path, lines, on_error="fail")
    plan = planned(path, lines)
    reasons = [f"{lines[at]} is no number" for at in (2, 3)]
    assert plan.skipped == [Skipped(3, "mine", reasons[0]), Skipped(4, 4, reasons[1])]
    [chunk] = plan.chunks()
    assert (chunk.runs, chunk.offset) == (((1, 1), (5, 1)), BEGIN)
    assert plan.lines_of(chunk) == [b"1", b"2"]


def test_a_chunk_begins_at_its_first_prompt(tmp_path: Path) -> None:
    plan = planned(tmp_path / "p.txt", ["", "x", "7", "8000", "x", "", "900", "x", "1"])
    assert [chunk.offset for chunk in plan.chunks()] == [Offset(0, 3, 3), Offset(0, 13, 7)]
    assert [chunk.runs for chunk in plan.chunks()] == [((3, 2),), ((7, 1), (9, 1))]


def test_no_more_lines_are_read_than_the_limit(tmp_path: Path) -> None:
    plan = planned(tmp_path / "p.txt", ["", "1", "x", "2", "3"], limit=3)
    assert [chunk.runs for chunk in plan.chunks()] == [((2, 1), (4, 1))]


def test_lines_that_changed_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "p.txt"
    plan = planned(path, ["8000", "8001"])
    path.write_text("8000\n8002")
    first, second = plan.chunks()
    assert plan.lines_of(first) == [b"8000"]
    with pytest.raises(InvalidInputError, match=r"p.txt line 2: the prompts from there on changed"):
        plan.lines_of(second)


@pytest.mark.parametrize(
    ("line", "reason"),
    [(b"{", "not JSON"), (b'{"prompt": "a", "id": 7}', "no completion")],
)
def test_a_line_that_lacks_what_the_operation_needs_is_no_prompt(line: bytes, reason: str) -> None:
    with pytest.raises(LineError, match=reason) as refused:
        prompt_for("logprob_of", line, 3, "json")
    assert refused.value.id == (7 if b"id" in line else None)
    assert prompt_for("rolling_logprob", b"{", 3, "text") == Prompt(3, "{")


class Synthetic:
    """As many lines as are asked for, all alike, with a gap behind every few."""

    name, kind = "synthetic", "text"

    def __init__(self, count: int, gap_every: int) -> None:
        self._blocks, self._gap_every = count // 1024, gap_every

    def digest(self) -> str:
        return "of no file"

    def blocks(self, start: Offset = BEGIN, size: int = 1024) -> Iterator[Block]:
        raws = [b"x" * 300] * size
        for block in range(self._blocks):
            first = block * size
            numbers = [at + at // self._gap_every for at in range(first + 1, first + size + 1)]
            yield Block(0, numbers, numbers, raws)


@pytest.mark.parametrize("gap_every", [10**9, 3])
def test_a_prompt_leaves_a_few_bytes(gap_every: int) -> None:
    source: Any = Synthetic(30_000, gap_every)
    plan = Plan(source)
    lengths = [75] * 1024
    tracemalloc.start()
    try:
        plan.read(lambda _: lengths)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert plan.prompts == 1024 * (30_000 // 1024)
    assert len(plan.chunks()[0].lengths) == 8192 // 75 < CHUNK_PROMPTS
    # Of 10**8 prompts less than 1 GB.
    assert (peak - 150_000) / plan.prompts < 10


def test_any_chunk_is_found_by_its_index() -> None:
    source: Any = Synthetic(3 * 1024, 5)
    plan = Plan(source)
    plan.read(lambda block: [8192] * len(block))
    chunks: Sequence[ChunkSpec] = plan.chunks()
    assert chunks[-1] == chunks[len(chunks) - 1]
    assert [one.index for one in chunks[10:12]] == [10, 11]
    with pytest.raises(IndexError):
        chunks[len(chunks)]
