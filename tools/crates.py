"""Which crates are linked into the wheel, from ``Cargo.lock``; what the bill and the notices list.

A crate that only runs while the wheel is built (a build script, a macro) is in neither.
"""

from __future__ import annotations

import json
import subprocess
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
NAME = "forwardcache"
TARGETS = (
    "x86_64-unknown-linux-gnu",
    "aarch64-unknown-linux-gnu",
    "x86_64-apple-darwin",
    "aarch64-apple-darwin",
)
"""What wheels are released for."""


@dataclass(frozen=True, order=True)
class Crate:
    """One crate of the wheel.

    Attributes:
        name: As crates.io has it.
        version: Of ``Cargo.lock``.
        licence: An SPDX expression.
        sha256: Of the archive that cargo fetched; empty for our own crate.
        folder: Where its sources lie on this machine.
        needs: Names of the linked crates that it uses itself.
    """

    name: str
    version: str
    licence: str
    sha256: str
    folder: Path
    needs: tuple[str, ...]


def linked_crates(root: Path = ROOT) -> list[Crate]:
    """Our crate and every crate that a wheel of any target holds code of, by name.

    Args:
        root: Folder with ``Cargo.toml`` and ``Cargo.lock``.

    Raises:
        CalledProcessError: cargo could not resolve the lock file.
    """
    sums = _checksums(root)
    found: dict[str, Crate] = {}
    for target in TARGETS:
        for crate in _linked_for(_metadata(root, target), sums):
            known = found.get(crate.name)
            needs = {*crate.needs, *(known.needs if known else ())}
            found[crate.name] = Crate(
                crate.name,
                crate.version,
                crate.licence,
                crate.sha256,
                crate.folder,
                tuple(sorted(needs)),
            )
    return sorted(found.values())


def version(root: Path = ROOT) -> str:
    """The version, from the one place that states it."""
    return str(tomllib.loads((root / "Cargo.toml").read_text("utf-8"))["package"]["version"])


def _metadata(root: Path, target: str) -> Mapping[str, Any]:
    command = ["cargo", "metadata", "--format-version=1", "--locked", "--features=python"]
    done = subprocess.run(
        [*command, "--filter-platform", target], cwd=root, check=True, stdout=subprocess.PIPE
    )
    metadata: Mapping[str, Any] = json.loads(done.stdout)
    return metadata


def _checksums(root: Path) -> Mapping[tuple[str, str], str]:
    lock = tomllib.loads((root / "Cargo.lock").read_text("utf-8"))
    return {(each["name"], each["version"]): each.get("checksum", "") for each in lock["package"]}


def _linked_for(
    metadata: Mapping[str, Any], sums: Mapping[tuple[str, str], str]
) -> Iterator[Crate]:
    packages = {package["id"]: package for package in metadata["packages"]}
    nodes = {node["id"]: node for node in metadata["resolve"]["nodes"]}
    [first] = [each for each in nodes if packages[each]["name"] == NAME]
    seen, open_ids = {first}, [first]
    while open_ids:
        package = packages[current := open_ids.pop()]
        needed = [each for each in _normal(nodes[current]) if not _is_macro(packages[each])]
        open_ids += set(needed) - seen
        seen.update(needed)
        yield Crate(
            package["name"],
            package["version"],
            package["license"],
            sums[package["name"], package["version"]],
            Path(package["manifest_path"]).parent,
            tuple(sorted(packages[each]["name"] for each in needed)),
        )


def _normal(node: Mapping[str, Any]) -> list[str]:
    """What a crate uses when it runs: neither for its tests nor for its build script."""
    return [
        dependency["pkg"]
        for dependency in node["deps"]
        if any(kind["kind"] is None for kind in dependency["dep_kinds"])
    ]


def _is_macro(package: Mapping[str, Any]) -> bool:
    return any("proc-macro" in target["kind"] for target in package["targets"])
