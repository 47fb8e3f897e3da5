"""Files, make targets, tests and Python names that the pages speak of are there.

What a page's reader makes or has is said here; whatever else looks like a path is one of this tree.
"""

from __future__ import annotations

import re
import subprocess
from functools import cache
from importlib import import_module
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
_TARGET = re.compile(r"\bmake ([a-z-]+)")
_TEST = re.compile(r"(test_\w+?)(?:_?…)?(?:\.py)?")
_IMPORTED = re.compile(r"forwardcache(?:\.[A-Za-z_]\w*)+")


@cache
def tracked() -> frozenset[str]:
    """Files of the tree, and their folders."""
    command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
    files = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    names = files.splitlines()
    return frozenset(names) | {str(each) for name in names for each in PurePosixPath(name).parents}


@cache
def sources_of_tests() -> str:
    return "\n".join(path.read_text("utf-8") for path in (ROOT / "tests").rglob("*.py"))


def is_path(name: str) -> bool:
    return name in tracked() or any(each.endswith(f"/{name}") for each in tracked())


def is_test(name: str) -> bool:
    """Whether a test begins like that, or a file of tests is called so."""
    return f"def {name}" in sources_of_tests() or is_path(f"{name}.py")


def is_importable(name: str) -> bool:
    """Whether it is a module, or what a module or a class has."""
    parts = name.split(".")
    for end in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:end]))
        except ModuleNotFoundError:
            continue
        for part in parts[end:]:
            found = getattr(found, part, None)
        return found is not None
    return False


def missing(text: str) -> set[str]:
    """What ``text`` names in backticks and is nowhere."""
    code = _CODE.findall(text)
    paths = {name for each in code for name in _PATH.findall(each)}
    found = {name for name in paths if not (ELSEWHERE.fullmatch(name) or is_path(name))}
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    found |= {f"make {name}" for each in code for name in _TARGET.findall(each)} - {
        f"make {name}" for name in targets
    }
    named = {match[1] for each in code if (match := _TEST.fullmatch(each))}
    found |= {name for name in named if not (is_test(name) or ELSEWHERE.fullmatch(f"{name}.py"))}
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
        "hf/scorer.py",
        "make test",
        "test_what_a_page_names_is_there",
        "test_what_a_page_…",
        "dist/forwardcache-1.whl",
        "forwardcache.hf.HFBackend.load",
    ],
)
def test_a_name_of_something_is_none_of_them(name: str) -> None:
    assert not missing(f"See `{name}`.")
