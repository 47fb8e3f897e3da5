"""Claims: the workflows, which only a hosted machine runs, ask for no more than they need, call
what there is here, and publish only what was tried. Whether they run is not shown here.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from tools.crates import ROOT, TARGETS

FOLDER = ROOT / ".github" / "workflows"
PINNED = re.compile(r"[\w.-]+/[\w./-]+@v\d+(\.\d+)*")


def workflow(name: str) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((FOLDER / name).read_text("utf-8"))
    return document


def steps(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in document["jobs"].values() for step in job["steps"]]


@pytest.fixture(params=["ci.yml", "release.yml"])
def each(request: pytest.FixtureRequest) -> dict[str, Any]:
    return workflow(request.param)


def test_every_action_has_its_version(each: dict[str, Any]) -> None:
    used = [step["uses"] for step in steps(each) if "uses" in step]
    assert used
    assert all(PINNED.fullmatch(action) for action in used), used


def test_a_job_may_only_what_it_says(each: dict[str, Any]) -> None:
    assert each["permissions"] == {}
    for name, job in each["jobs"].items():
        writes = {right for right, level in job["permissions"].items() if level == "write"}
        assert writes == ({"id-token", "attestations"} if name == "publish" else set())
        assert job["timeout-minutes"]


def test_no_checkout_keeps_its_token(each: dict[str, Any]) -> None:
    checkouts = [
        step for step in steps(each) if step.get("uses", "").startswith("actions/checkout")
    ]
    assert checkouts
    assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_no_line_of_a_script_takes_text_from_outside(each: dict[str, Any]) -> None:
    assert not [step["run"] for step in steps(each) if "${{" in step.get("run", "")]


def test_what_is_called_is_there(each: dict[str, Any]) -> None:
    makefile = (ROOT / "Makefile").read_text("utf-8")
    for step in steps(each):
        for line in step.get("run", "").splitlines():
            for module in re.findall(r"python -m (tools\.\w+)", line):
                assert Path(ROOT, *module.split(".")).with_suffix(".py").is_file(), module
            if line.startswith("make "):
                for target in line.split()[1:]:
                    assert "=" in target or f"\n{target}:" in makefile, target
            if line.startswith(".ci/"):
                assert (ROOT / line).is_file()


def test_a_release_has_a_wheel_for_each_target_and_a_bill_in_each() -> None:
    jobs = workflow("release.yml")["jobs"]
    matrix = jobs["wheel"]["strategy"]["matrix"]["include"]
    assert sorted(each["target"] for each in matrix) == sorted(TARGETS)
    [build] = [step for step in jobs["wheel"]["steps"] if "maturin" in step.get("uses", "")]
    assert "--sbom-include sbom/forwardcache.cdx.json" in build["with"]["args"]
    assert "--locked" in build["with"]["args"]


def test_only_a_checked_tag_is_published_and_only_what_was_tried() -> None:
    jobs = workflow("release.yml")["jobs"]
    publish = jobs["publish"]
    assert publish["if"] == "github.ref_type == 'tag'"
    assert (publish["needs"], publish["environment"]) == (["wheel", "sdist"], "pypi")
    assert jobs["wheel"]["needs"] == jobs["sdist"]["needs"] == "check"
    runs = " ".join(step.get("run", "") for step in jobs["wheel"]["steps"])
    assert "tools.try_wheel dist/*.whl" in runs
    text = (FOLDER / "release.yml").read_text("utf-8")
    assert "secrets." not in text, "published by the workflow's own identity"
