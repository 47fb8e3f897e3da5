"""Claim: no option that takes one value is taken twice, in any command and any of its spellings."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest

from tests.cli.conftest import Run
from tests.cli.test_help import COMMANDS

SPELLINGS = [
    (name, one, other)
    for name, command in COMMANDS
    for option in command.params
    if option.param_type_name == "option" and option.name != "help" and not option.multiple
    for one, other in product(
        [(word, option.is_flag) for word in [*option.opts, *option.secondary_opts]], repeat=2
    )
]


def test_the_commands_have_such_options() -> None:
    assert {name for name, _, _ in SPELLINGS} >= {"score", "demo", "report", "trace merge"}


@pytest.mark.parametrize(("name", "one", "other"), SPELLINGS)
def test_an_option_given_twice_is_refused_by_name(
    name: str, one: tuple[str, bool], other: tuple[str, bool], run: Run
) -> None:
    words: list[Any] = [
        word
        for option, is_flag in (one, other)
        for word in ([option] if is_flag else [option, "1"])
    ]
    refused = run(*name.split(), *words)
    refused.refused(one[0], other[0], "2 times", f"(forwardcache {name} --help)")


def test_the_same_option_of_two_commands_stands_once_in_each(run: Run) -> None:
    assert "times" not in run("--version", "score", "--help").err
    assert run("score", "--help", "--help").code == 0
    # Arguments are many by nature, and these two are files that aren't there.
    run("trace", "summary", "no.jsonl", "no.jsonl").refused("no.jsonl")
