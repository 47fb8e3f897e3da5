"""Claims: the version stands in Cargo.toml alone; the change log is about it or what follows."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

import forwardcache
from tools.crates import ROOT, version
from tools.release import flaws, main

# Both are made from it, or say what was measured or changed when.
MAY_STATE_IT = {"Cargo.toml", "Cargo.lock", "CHANGELOG.md", "benches/RESULTS.md", "PROOF.md"}


def sources(root: Path, version: str, heading: str) -> Path:
    (root / "Cargo.toml").write_text(f'[package]\nversion = "{version}"\n')
    (root / "CHANGELOG.md").write_text(f"# Changelog\n\n{heading}\n\n- A change.\n\n## 0.0.1 (x)\n")
    return root


def test_no_other_file_states_the_version() -> None:
    listed = subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True)
    names = listed.split()
    stated = re.compile(rf"(?<![\d.]){re.escape(version())}(?![\d.])".encode())
    kept = [name for name in names if not name.endswith(".lock") and (ROOT / name).is_file()]
    found = {name for name in kept if stated.search((ROOT / name).read_bytes())}
    assert found <= MAY_STATE_IT


def test_the_package_has_the_version_of_cargo() -> None:
    assert forwardcache.__version__ == version()


def test_the_change_log_fits_the_version() -> None:
    assert list(flaws()) == []


@pytest.mark.parametrize(
    "heading", ["## Unreleased", "## 1.2.0 (unreleased)", "## 1.2.0 (2026-01-31)"]
)
def test_between_releases_the_newest_heading_is_ours_or_the_next(
    tmp_path: Path, heading: str
) -> None:
    assert list(flaws(sources(tmp_path, "1.2.0", heading))) == []


def test_a_release_has_its_tag_and_its_day(tmp_path: Path) -> None:
    root = sources(tmp_path, "1.2.0", "## 1.2.0 (2026-01-31)")
    assert list(flaws(root, "v1.2.0")) == []


@pytest.mark.parametrize(
    ("heading", "tag", "said"),
    [
        ("## 1.1.0 (2026-01-31)", None, "is about 1.1.0, but Cargo.toml says 1.2.0"),
        ("## News", None, "begins with 'News', not with '1.2.0 (YYYY-MM-DD)'"),
        ("## Unreleased", "v1.2.0", "begins with 'Unreleased', not with '1.2.0 (YYYY-MM-DD)'"),
        ("## 1.2.0 (unreleased)", "v1.2.0", "it has to have its day"),
        ("## 1.2.0 (2026-01-31)", "1.2.0", "it has to be v1.2.0"),
        ("no heading", None, "CHANGELOG.md"),
    ],
)
def test_what_is_against_a_release_is_said(
    tmp_path: Path, heading: str, tag: str | None, said: str
) -> None:
    [flaw] = flaws(sources(tmp_path, "1.2.0", heading), tag)
    assert said in flaw


def test_the_command_ends_with_one(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["v0.0.0"]) == 1
    assert "the tag is v0.0.0" in capsys.readouterr().err
    assert main([]) == 0
