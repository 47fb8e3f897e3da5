"""Claims: the help fits 80 columns with nothing cut off, explains every option, and what is wrong
use is told with the command whose help has the answer.
"""

from __future__ import annotations

from typing import Any

import pytest
import typer

from forwardcache.cli.app import _ELSEWHERE, _MODULES, app_of, whole_app
from forwardcache.cli.commands.report import REPORT_COMPARE
from tests.cli.conftest import Run

GROUPS = [[], ["check"], ["trace"], ["store"]]


def commands(group: Any, name: str = "") -> list[tuple[str, Any]]:
    """Every command that runs, with its name."""
    found = getattr(group, "commands", None)
    if found is None:
        return [(name, group)]
    return [each for word, one in found.items() for each in commands(one, f"{name} {word}".strip())]


COMMANDS = commands(typer.main.get_command(whole_app()))


def test_a_command_is_found_without_the_modules_of_others() -> None:
    for name, _ in COMMANDS:
        word = name if name == REPORT_COMPARE else name.partition(" ")[0]
        module = _ELSEWHERE.get(word, word)
        assert module in _MODULES
        assert name in dict(commands(typer.main.get_command(app_of(module))))


@pytest.mark.parametrize("group", GROUPS, ids=" ".join)
def test_each_command_of_a_group_is_told_in_full(
    group: list[str], run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    shown = run(*group, "--help")
    assert shown.code == 0
    _, listed = shown.out.split("Commands:\n")
    listed = listed.split("\n\n")[0]
    assert "..." not in listed
    assert max(map(len, listed.splitlines())) < 80


@pytest.mark.parametrize(("name", "command"), COMMANDS, ids=[name for name, _ in COMMANDS])
def test_every_parameter_is_explained(name: str, command: Any) -> None:
    unexplained = [each.name for each in command.params if not getattr(each, "help", None)]
    assert unexplained in ([], ["help"])


def test_a_shell_is_told_what_a_word_may_become(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    # Named, for --show-completion asks which shell has called, and that may be make's plain sh.
    monkeypatch.setenv("_FORWARDCACHE_COMPLETE", "source_bash")
    script = run()
    assert script.code == 0, script.err
    assert "_FORWARDCACHE_COMPLETE=complete_bash" in script.out
    monkeypatch.setenv("_FORWARDCACHE_COMPLETE", "complete_bash")
    for words, place, found in (
        ("forwardcache sco", 1, "score"),
        ("forwardcache score --on-", 2, "--on-error"),
    ):
        monkeypatch.setenv("COMP_WORDS", words)
        monkeypatch.setenv("COMP_CWORD", str(place))
        ended = run()
        assert (ended.code, ended.out.split()) == (0, [found])


def test_whatever_writes_to_out_takes_o_too() -> None:
    spellings = {name: each.opts for name, command in COMMANDS for each in command.params
                 if "--out" in each.opts}  # fmt: skip
    assert {"score", "diff", "demo", "report", "trace merge"} <= spellings.keys()
    assert all("-o" in opts for opts in spellings.values())


@pytest.mark.parametrize(
    ("argv", "where"),
    [
        (["scor"], "(forwardcache --help)"),
        (["score", "--topk", "5"], "(forwardcache score --help)"),
        (["trace", "merge", "a.jsonl"], "(forwardcache trace merge --help)"),
        (["report", "compare", "a.jsonl"], "(forwardcache report compare --help)"),
    ],
)
def test_wrong_use_names_the_help_that_has_the_answer(
    argv: list[str], where: str, run: Run
) -> None:
    run(*argv).refused(where)


def test_a_wrong_choice_is_told_without_a_validators_words(run: Run) -> None:
    ended = run("score", "--model", "m", "--prompts", "p", "--op", "logprobof")
    ended.refused("'--op'", "'logprobof' is not one of 'logprob_of'")
    assert "Value error" not in ended.err
