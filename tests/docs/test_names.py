"""Files, make targets, tests and Python names that the pages speak of are there.

What a page's reader makes or has is said here; whatever else looks like a path is one of this tree.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path, PurePosixPath

import pytest

from tests.docs.page import ROOT

PAGES = sorted(
    page for page in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")] if page.name != "PROOF.md"
)
# Made by a command, or a reader's own.
ELSEWHERE = re.compile(
    r"(?:dist|target|\.venv|MODEL|ADAPTER|DEMO|path)/.*|\./compare|\.dist-info/sboms"
    r"|(?:test_)?my_\w+\.py"
)
_CODE = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"(?<![\w./-])((?:[\w.-]+/)+[\w.-]*\w|[\w-]+\.(?:py|rs|md|toml|yml))(?![\w/])")
_TARGET = re.compile(r"\bmake ([a-z][a-z0-9.-]*)")
_TEST = re.compile(r"(test_\w+?)(?:_?…)?")
# Three words or more are no field and no option, but a test of the core's, or a function. Metrics
# are put together where they are written.
_FUNCTION = re.compile(r"((?!forwardcache_)[a-z]+(?:_[a-z0-9]+){2,})(?:_?…)?")
# Of tests only those that are defined.
_WRITTEN = re.compile(r"(?<=def )test_\w+|\b(?!test_)[A-Za-z_]\w+")
_IMPORTED = re.compile(r"forwardcache(?:\.[A-Za-z_]\w*)+")


@cache
def tracked() -> frozenset[str]:
    """Files of the tree, and their folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = files.splitlines()
    return frozenset(names) | {str(each) for name in names for each in PurePosixPath(name).parents}


@cache
def written() -> dict[str, frozenset[str]]:
    """The names that stand in every source file, by its path."""
    endings = (".py", ".pyi", ".rs", ".sh")
    return {
        path: frozenset(_WRITTEN.findall((ROOT / path).read_text("utf-8")))
        for path in tracked()
        if path.endswith(endings)
    }


def is_path(name: str) -> bool:
    return name in tracked() or any(each.endswith(f"/{name}") for each in tracked())


def is_written(name: str, file: str = "") -> bool:
    """Whether a name begins like that in a source file, or in those that ``file`` stands for."""
    files = [names for path, names in written().items() if path.endswith(file)]
    return any(each.startswith(name) for names in files for each in names)


def lost_tests(line: str) -> set[str]:
    """Tests that are not in the file that the line names last before them."""
    found, file = set(), ""
    for code in _CODE.findall(line):
        if code.endswith(".py") and PurePosixPath(code).name.startswith("test_"):
            file = code
        elif (match := _TEST.fullmatch(code)) and not is_written(match[1], file):
            found.add(f"{file} {code}")
        elif (match := _FUNCTION.fullmatch(code)) and not is_written(match[1]):
            found.add(code)
    return found


def is_importable(name: str) -> bool:
    """Whether it is a module, or what a module or a class has."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        module = ".".join(parts[:end])
        try:
            known = find_spec(module)
        except ModuleNotFoundError:
            continue
        if known:
            # A module alone is not imported: some take long.
            return end == len(parts) or has(import_module(module), parts[end:])
    return False


def has(value: object, names: list[str]) -> bool:
    """Whether ``value`` has the first name, what that is has the second, and so on."""
    for name in names:
        value = getattr(value, name, None)
    return value is not None


def missing(text: str) -> set[str]:
    """What ``text`` names in backticks and is nowhere."""
    code = _CODE.findall(text)
    paths = {name for each in code for name in _PATH.findall(each)}
    found = {name for name in paths if not (ELSEWHERE.fullmatch(name) or is_path(name))}
    heads = re.findall(r"^([\w. -]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE)
    targets = {name for head in heads for name in head.split()}
    found |= {f"make {name}" for each in code for name in _TARGET.findall(each)} - {
        f"make {name}" for name in targets
    }
    found |= {name for line in text.splitlines() for name in lost_tests(line)}
    imported = {name for each in code for name in _IMPORTED.findall(each)}
    return found | {name for name in imported if not is_importable(name)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_names_is_there(page: Path) -> None:
    assert missing(page.read_text("utf-8")) == set()


@pytest.mark.parametrize(
    "name",
    [
        "rust/no_such_file.rs",
        "no_such_file.py",
        "make no-such-target",
        "test_of_nothing_that_…",
        "tests/docs/test_site.py` `test_what_a_page_names_is_there",
        # Not as it is: it would stand in a source file then.
        "_".join(["no", "test", "of", "the", "core"]),
        "forwardcache.nothing",
        "forwardcache.hf.HFBackend.nothing",
    ],
)
def test_a_name_of_nothing_is_found(name: str) -> None:
    assert missing(f"See `{name}`.")


@pytest.mark.parametrize(
    "name",
    [
        "rust/key.rs",
        "hf/scoring/scorer.py",
        "make test",
        "test_what_a_page_names_is_there",
        "test_what_a_page_…",
        "docs/test_names.py` `test_what_a_page_…",
        "get_races_evict",
        "dist/forwardcache-1.whl",
        "forwardcache.hf.HFBackend.load",
    ],
)
def test_a_name_of_something_is_none_of_them(name: str) -> None:
    assert not missing(f"See `{name}`.")
