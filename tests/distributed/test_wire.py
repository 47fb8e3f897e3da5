"""Claims: what goes to a worker arrives as it was, as plain JSON; a worker's error arrives as the
same kind with the same words, and never as an object.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from forwardcache.distributed.wire import Part, answer, options_of, packed_options, reply
from forwardcache.errors import ContextLengthError, InvalidInputError, WorkerError
from forwardcache.jobs.options import ModelOptions, NamedAdapter
from forwardcache.jobs.prompts import Prompt
from forwardcache.jobs.views import parse_views


def test_a_part_arrives_as_it_was() -> None:
    views = parse_views("base,scaled:0.1,null:7:0.5:2", has_adapter=True)
    prompts = (Prompt(3, "ümlaut\n\u2028 \U0001f600"), Prompt(9, "", "x", {"a": [1.5, None]}))
    part = Part(prompts, (4, 5), "logprob_of", views, 8, 64)
    assert Part.of(part.packed()) == part
    json.loads(part.packed())


@pytest.mark.parametrize("trace", [None, Path("/some/trace.jsonl")])
def test_options_arrive_as_they_were(trace: Path | None) -> None:
    options = ModelOptions(
        "model", adapters=(NamedAdapter("a", "adapter"),), trace=trace, dtype="bfloat16"
    )
    assert options_of(packed_options(options)) == options


def test_an_answer_is_what_the_work_returned() -> None:
    assert answer(reply(lambda: {"a": [1, None, "ü"]})) == {"a": [1, None, "ü"]}


@pytest.mark.parametrize(
    ("raised", "arrives"),
    [
        (ContextLengthError("5 tokens are more than 4"), ContextLengthError),
        (InvalidInputError("no such folder"), InvalidInputError),
        (MemoryError("5 GiB"), WorkerError),
        (KeyError("SystemExit"), WorkerError),
    ],
)
def test_an_error_is_told_in_words(raised: Exception, arrives: type[Exception]) -> None:
    def work() -> None:
        raise raised

    with pytest.raises(arrives, match=str(raised.args[0])):
        answer(reply(work))


@pytest.mark.parametrize("kind", ["SystemExit", "annotations", "__name__", "Any"])
def test_only_our_own_errors_are_made_from_a_name(kind: str) -> None:
    told = json.dumps({"error": {"kind": kind, "message": "boom"}}).encode()
    with pytest.raises(WorkerError, match=f"{kind}: boom"):
        answer(told)
