"""Claims: what ``score`` says about batches, memory and weights reaches the backend."""

from __future__ import annotations

from typing import Any

import pytest

from forwardcache.hf.scoring.provenance import collecting
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.session import Session, load
from tests.cli.conftest import Run


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """The sessions that are opened, as they come."""
    opened: list[Session] = []

    def noting(*arguments: Any, **keywords: Any) -> Session:
        opened.append(load(*arguments, **keywords))
        return opened[-1]

    monkeypatch.setattr("forwardcache.jobs.recall.run.load", noting)
    return opened


def test_the_batches_are_no_larger_than_asked(score: Run) -> None:
    words = b"one two three four\nfive six seven eight\nnine ten eleven twelve\n"
    with collecting() as computed:
        score("--prompts", "-", "--views", "base", "--token-budget", 7, stdin=words)
    (once,) = computed
    assert once.token_budget == 7
    assert all(batch.positions <= 7 or len(batch.items) == 1 for batch in once.batches)


def test_the_cache_holds_no_more_bytes_than_asked(score: Run) -> None:
    """A view that is base is a hit, unless there is no room for base's value."""

    def hits(*options: object) -> list[bool]:
        asked = ("--prompts", "-", "--views", "base,scaled:0", *options)
        return [row["hit"] for row in score(*asked, stdin=b"one\ntwo\n").rows]

    assert hits() == [False, True] * 2
    assert hits("--cache-bytes", 1) == [False, False] * 2


@pytest.mark.parametrize(
    ("given", "policy"), [("versions", "versions"), ("strict", "strict"), ("label:v1", "label")]
)
def test_the_identity_is_the_backend_s(
    score: Run, sessions: list[Session], given: str, policy: str
) -> None:
    assert score("--prompts", "-", "--identity", given, stdin=b"one\n").code == 0
    assert sessions[0].backend.identity_policy == policy


@pytest.mark.parametrize("given", ["label", "label:", "strict:x", "often", ""])
def test_another_identity_is_refused(score: Run, given: str) -> None:
    ended = score("--prompts", "-", "--identity", given, stdin=b"one\n")
    ended.refused(f"--identity '{given}'", "label:NAME")


@pytest.mark.parametrize(
    ("given", "taken"),
    [(None, None), ("7", 7), ("٣", "٣"), ("²", "²"), ("-1", "-1"), ("<s>", "<s>")],
)
def test_a_prefix_is_an_id_where_it_is_of_ascii_digits(
    given: str | None, taken: int | str | None
) -> None:
    assert ModelOptions(model="m", prefix_token=given).prefix_token_id == taken
