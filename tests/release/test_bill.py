"""Claims: the bill of materials and the notices name the crates that are linked in, each with its
licence, the same however often they are written.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tools.crates import NAME, ROOT, Crate, linked_crates, version
from tools.notices import FILE, notices
from tools.sbom import bill

MOMENT = datetime(2026, 1, 31, tzinfo=UTC)


@pytest.fixture(scope="module")
def crates() -> list[Crate]:
    return linked_crates()


@pytest.fixture(scope="module")
def written(crates: list[Crate]) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(bill(crates, moment=MOMENT))
    return document


def test_what_cargo_links_for_this_machine_is_listed(crates: list[Crate]) -> None:
    command = ["cargo", "tree", "--locked", "--features=python", "--edges=normal", "--prefix=none"]
    options = ["--target=x86_64-unknown-linux-gnu", "--format={p}"]
    done = subprocess.run(
        [*command, *options], cwd=ROOT, check=True, capture_output=True, text=True
    )
    lines = {line for line in done.stdout.splitlines() if "(proc-macro)" not in line}
    of_cargo = {line.split()[0] for line in lines}
    ours = {crate.name for crate in crates}
    assert {"papaya", "pyo3", "sha1", NAME} <= ours
    # Cargo also lists what only a macro uses.
    only_macros = {"heck", "proc-macro2", "pyo3-macros-backend", "quote", "syn", "unicode-ident"}
    assert of_cargo - ours <= only_macros
    assert ours.isdisjoint(only_macros | {"proptest", "tempfile", "pyo3-build-config"})


def test_the_bill_names_every_crate_with_its_checksum_and_licence(
    crates: list[Crate], written: dict[str, Any]
) -> None:
    root = written["metadata"]["component"]
    assert (root["name"], root["version"]) == (NAME, version())
    listed = {each["name"]: each for each in written["components"]}
    assert set(listed) == {crate.name for crate in crates} - {NAME}
    for crate in crates:
        if crate.name != NAME:
            assert listed[crate.name]["hashes"] == [{"alg": "SHA-256", "content": crate.sha256}]
            assert listed[crate.name]["licenses"]
    uses = {each["ref"]: each.get("dependsOn", []) for each in written["dependencies"]}
    assert any(need.startswith("papaya@") for need in uses[f"{NAME}@{version()}"])


def test_a_bill_says_nothing_of_where_and_when_it_was_written(
    crates: list[Crate], written: dict[str, Any]
) -> None:
    elsewhere = [dataclasses.replace(crate, folder=Path("/elsewhere")) for crate in crates]
    assert json.loads(bill(elsewhere, moment=MOMENT)) == written
    assert str(ROOT) not in json.dumps(written)
    assert written["metadata"]["timestamp"].startswith("2026-01-31T00:00:00")


def test_the_notices_are_those_of_the_lock_file(crates: list[Crate]) -> None:
    assert FILE.read_text("utf-8") == notices(crates), "make notices"


def test_a_crate_under_another_licence_has_no_notice(crates: list[Crate]) -> None:
    other = dataclasses.replace(crates[0], licence="GPL-3.0-only")
    with pytest.raises(ValueError, match=r"is under GPL-3\.0-only; one of MIT"):
        notices([other])


def test_a_crate_without_a_notice_is_refused(tmp_path: Path, crates: list[Crate]) -> None:
    bare = dataclasses.replace(crates[0], folder=tmp_path)
    with pytest.raises(ValueError, match="has no file with its notice"):
        notices([bare])
