"""Expected failures and the head of a report, which every kit shares.

Checked here: the file's form, what is refused and with which words, what becomes of an outcome.
"""

from pathlib import Path
from typing import Any

import pytest

from forwardcache import __version__
from forwardcache.conformance.expected import ExpectedFailuresError, expected_failures
from forwardcache.conformance.kit import KIT_VERSION, conforms, counted, stamp, stamp_line
from forwardcache.errors import InvalidInputError

CHECKS = ("start", "cancellation")


def read(tmp_path: Path, text: str, kit: str = "engine") -> Any:
    path = tmp_path / "expected.toml"
    path.write_text(text, encoding="utf-8")
    return expected_failures(path, kit=kit, checks=CHECKS)


def test_a_kit_takes_its_own_table_and_ignores_the_others(tmp_path: Path) -> None:
    text = '[engine]\ncancellation = "issue 12"\n[server]\nusage = "issue 13"\n'
    assert read(tmp_path, text).reasons == {"cancellation": "issue 12"}
    assert read(tmp_path, text, "backend").reasons == {}


def test_a_failure_becomes_expected_and_a_pass_stale(tmp_path: Path) -> None:
    known = read(tmp_path, '[engine]\ncancellation = "issue 12"')
    judged = [known.judged("cancellation", each) for each in ("failed", "passed", "skipped")]
    assert judged == ["expected", "stale", "skipped"]
    assert known.judged("start", "failed") == "failed"
    assert known.stale("cancellation").startswith(
        "cancellation is expected to fail (issue 12) and passes: take the entry out of /"
    )


def test_an_entry_may_be_about_one_subject_of_several() -> None:
    known = expected_failures({"mine-start": "issue 1"}, kit="engine", checks=CHECKS)
    assert known.judged("start", "failed", "mine") == "expected"
    assert known.judged("start", "failed", "other") == "failed"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[engine]\nstrat = 'typo'", "names no check: 'strat'; checks are start, cancellation"),
        ("[engine]\nstart = ''", "start needs a reason in words, got ''"),
        ("[engine]\nstart = true", "start needs a reason in words, got True"),
        ("[engines]\nstart = 'x'", "'engines' is no table of a kit: \\[engine\\], "),
        ("start = 'x'", "'start' is no table of a kit"),
        ("[engine", "can't be read"),
    ],
)
def test_what_is_of_no_use_is_refused_by_name(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(ExpectedFailuresError, match=words) as raised:
        read(tmp_path, text)
    assert isinstance(raised.value, InvalidInputError)


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExpectedFailuresError, match=r"nowhere\.toml can't be read"):
        expected_failures(tmp_path / "nowhere.toml", kit="engine", checks=CHECKS)


def test_a_run_that_judged_nothing_is_no_pass() -> None:
    assert conforms(["passed", "skipped", "expected"])
    assert conforms(["expected"])
    for outcomes in (["skipped"], ["passed", "stale"], ["passed", "failed"], ["not_run"], []):
        assert not conforms(outcomes)


def test_a_report_says_which_kit_it_is_and_how_much_has_run() -> None:
    outcomes = ["passed", "failed", "expected", "stale", "skipped", "not_run"]
    assert stamp("engine", outcomes) == {
        "kit": "engine",
        "kit_version": KIT_VERSION,
        "forwardcache": __version__,
        "checks_run": 4,
        "checks_in_all": 6,
    }
    assert stamp_line("engine", outcomes).endswith(": 4 of 6 checks run")
    assert counted(outcomes) == (
        "1 passed, 1 failed, 1 failed as expected, 1 passed, though expected to fail, "
        "1 skipped, 1 not run"
    )
