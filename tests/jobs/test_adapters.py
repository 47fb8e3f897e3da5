"""Claims: ``[NAME=]DIR`` is split where it says, names that views can't hold are refused, and each
view says whose it is.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.adapters import default_views, parse_adapters
from forwardcache.jobs.metadata import view_facts, view_of
from forwardcache.jobs.options import NamedAdapter
from forwardcache.jobs.views import View, parse_view, parse_views

NAMES = ("A", "run 2", "100")


def test_names_and_folders_are_split_at_the_first_equals_sign() -> None:
    found = parse_adapters(["A=one", "B=/x/y=z"])
    assert found == (NamedAdapter("A", "one"), NamedAdapter("B", "/x/y=z"))
    assert parse_adapters(["/some/folder"]) == (NamedAdapter(None, "/some/folder"),)
    assert parse_adapters([]) == ()
    assert default_views(found) == "base,ft:A,ft:B"


def test_a_path_that_is_there_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "lr=2e-5").mkdir()
    assert parse_adapters(["lr=2e-5"]) == (NamedAdapter(None, "lr=2e-5"),)
    assert parse_adapters(["lr=1e-5"]) == (NamedAdapter("lr", "1e-5"),)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["A=x", "y"], "NAME=y"),
        (["x", "y"], "NAME=x"),
        (["A=x", "A=y"], "two adapters are called 'A'"),
        (["=x"], "''"),
        (["A="], "no folder"),
        (["A:1=x"], "':'"),
        (["A,1=x"], "','"),
        (["a/b=x"], "'/'"),
        (["matched=x"], "'matched'"),
        (["base=x"], "'base'"),
        (["ft=x"], "'ft'"),
        (["null_7=x"], "'null_7'"),
        (["scaled_0.50=x"], "'scaled_0.50'"),
        ([" A=x"], "spaces"),
        (["A\x1b=x"], "printable"),
    ],
)
def test_what_is_no_name_is_refused(words: list[str], told: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_adapters(words)
    assert told in str(refused.value)


def test_views_say_whose_they_are() -> None:
    text = (
        "base,ft:A,scaled:0.5:A,scaled:-1:run 2,null:7:A,null:7:0.1:A,null:7:0.1:2:100,"
        "null:7:matched:100"
    )
    views = parse_views(text, has_adapter=True, adapters=NAMES)
    assert views[1:3] == (View("ft", adapter="A"), View("scaled", lam=0.5, adapter="A"))
    assert [view.name for view in views] == [
        "base", "ft:A", "scaled_0.50:A", "scaled_-1.00:run 2", "null_7:A", "null_7_init0.1:A",
        "null_7_init0.1_rank2.00:100", "null_7_matched:100",
    ]  # fmt: skip
    assert [view_of(view_facts(view)) for view in views] == list(views)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("ft", "A, run 2, 100"),
        ("scaled:0.5", "which adapter"),
        ("null:7:matched", "which adapter"),
        ("ft:C", "'C'"),
        ("ft:", "''"),
        ("ft:matched", "unknown view"),
        ("base:A", "unknown view"),
        ("ft:A:A", "unknown view"),
        ("scaled:half:A", "'half'"),
        ("null:7:100", "both scales"),
        ("null:7:C", "init_scale 'C'"),
        ("null:7:matched:C", "'C'"),
    ],
)
def test_a_view_that_does_not_say_whose_it_is_is_refused(text: str, told: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        parse_view(text, NAMES)
    assert told in str(refused.value)


def test_the_only_adapter_s_name_needn_t_be_said() -> None:
    assert parse_view("scaled:0.5", ("A",)) == View("scaled", lam=0.5, adapter="A")
    assert parse_view("ft", ()) == View("ft")
