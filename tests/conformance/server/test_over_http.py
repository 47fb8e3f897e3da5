"""Claims: the kit finds over a connection what it finds without one, from Python, pytest and the
command line; the report says what was asked, expected and received.
"""

import json
import subprocess
import sys
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any
from unittest import SkipTest
from xml.etree import ElementTree

import pytest

from forwardcache.__main__ import main
from forwardcache.conformance.server import (
    CHECKS,
    LogprobsShifted,
    TopKOrderWrong,
    check_server,
    parametrize_with_server_checks,
    server_checks,
)
from forwardcache.conformance.server.command import check_server_url
from tests.conformance.server import app, faults
from tests.conformance.server.app import NAME, Oracle, Right
from tests.conformance.server.conftest import Serve
from tests.conformance.server.faults import PlacesEarly, RisingCandidates

QUICK = ["--longest", "32", "--concurrency", "4"]


def test_a_right_server_passes_over_a_connection(oracle: Oracle, serve: Serve) -> None:
    report = check_server(
        f"{serve(Right(oracle))}/v1", model_name=NAME, reference=oracle.reference, longest=128
    )
    assert set(report.outcomes) == {"passed"}


def test_the_command_prints_a_line_a_check_and_exits_with_0(
    oracle: Oracle, serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    url = serve(Right(oracle))
    assert main(["check", "server", url, "--model-name", NAME, *QUICK]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[1].split()[:2] == ["answers", "passed"]
    assert out[-2].startswith(f"conforms: {len(CHECKS) - 1} passed, 1 skipped; tolerance 0.05")
    assert out[-1].startswith("server kit 2 ")
    assert any("no model to compare with: --model DIR" in line for line in out)


def test_the_command_compares_with_a_model_s_folder(
    oracle: Oracle, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    oracle.backend.model.save_pretrained(tmp_path / "model")
    oracle.backend.tokenizer.save_pretrained(tmp_path / "model")
    url = serve(faults.OfOtherWeights(oracle))
    asked = ["check", "server", url, "--model-name", NAME, "--model", str(tmp_path / "model")]
    assert main([*asked, *QUICK, "--format", "json", "--all"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert (report["kit"], report["conforms"], report["model"]) == ("server", False, NAME)
    failed = {each["check"]: each["failures"][0] for each in report["checks"] if each["failures"]}
    assert list(failed) == ["exact"]
    assert failed["exact"]["name"] == "WrongValues"
    assert set(failed["exact"]["fields"]) == {"asked", "expected", "came"}


def test_a_failure_is_told_in_full_and_exits_with_1(oracle: Oracle, serve: Serve) -> None:
    out = StringIO()
    url = serve(PlacesEarly(oracle))
    code = check_server_url(url, model_name=NAME, out=out, longest=32)
    assert code == 1
    sentence = next(line for line in out.getvalue().splitlines() if "LogprobsShifted:" in line)
    for part in ("asked: a completion", "expected: the same candidates", "one place early"):
        assert part in sentence


def test_failures_that_are_expected_come_from_a_file(
    oracle: Oracle, serve: Serve, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    known = tmp_path / "expected.toml"
    known.write_text('[server]\ntop_k = "candidates come in rising order"\n')
    url = serve(RisingCandidates(oracle))
    asked = ["check", "server", url, "--model-name", NAME, *QUICK]
    junit = tmp_path / "junit.xml"
    files = ["--expected-failures", str(known), "--junit", str(junit)]
    assert main([*asked, "--all", *files]) == 0
    assert "candidates come in rising order" in capsys.readouterr().out
    skipped = {each.get("message") for each in ElementTree.parse(junit).iter("skipped")}
    assert "failed as expected: candidates come in rising order" in skipped


@pytest.mark.parametrize(
    ("url", "options", "words"),
    [
        ("http://127.0.0.1:9", {"retries": 0}, "can't check http://127.0.0.1:9: ConnectError"),
        ("127.0.0.1:9", {}, "is no address of a server"),
        ("http://name:secret@host", {}, "has a user name in it"),
        ("http://127.0.0.1:9", {"top_k": 1}, "top_k must be at least 3, got 1"),
        ("http://127.0.0.1:9", {"expected_file": "nowhere.toml"}, "nowhere.toml can't be read"),
    ],
)
def test_what_cant_be_asked_gives_2_and_one_line(
    url: str, options: dict[str, Any], words: str
) -> None:
    out, err = StringIO(), StringIO()
    code = check_server_url(url, model_name="m", out=out, err=err, **options)
    assert (code, out.getvalue(), err.getvalue().count("\n")) == (2, "", 1)
    assert words in err.getvalue()
    assert "secret" not in err.getvalue()


def test_a_model_that_is_not_served_gives_2(oracle: Oracle, serve: Serve) -> None:
    err = StringIO()
    assert check_server_url(serve(Right(oracle)), model_name="other", err=err) == 2
    assert "HTTP 404: The model `other` does not exist." in err.getvalue()


def test_each_check_can_be_called_alone_and_skips_what_rests_on_a_failure(oracle: Oracle) -> None:
    make = partial(server_checks, "http://server", model_name=NAME, longest=32)
    checks = {each.name: each for each in make(transport=app.Direct(RisingCandidates(oracle)))}
    checks["usage"]()
    with pytest.raises(SkipTest, match="no model to compare with"):
        checks["exact"]()
    with pytest.raises(TopKOrderWrong):
        checks["top_k"]()
    with pytest.raises(SkipTest, match="rests on top_k, which failed"):
        checks["alignment"]()
    with pytest.raises(LogprobsShifted):
        next(
            each
            for each in make(transport=app.Direct(PlacesEarly(oracle)))
            if each.name == "alignment"
        )()


SUITE = """
from forwardcache.conformance.server import parametrize_with_server_checks

@parametrize_with_server_checks({{"mine": {url!r}}}, model_name={name!r}, longest=32,
                                expected_failures={{"top_k": "rising"}})
def test_server(check):
    check()
"""


def test_the_pytest_front_gives_an_item_a_check(
    oracle: Oracle, serve: Serve, tmp_path: Path
) -> None:
    url = serve(RisingCandidates(oracle))
    (tmp_path / "test_mine.py").write_text(SUITE.format(url=url, name=NAME))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        capture_output=True, text=True, check=False, cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "1 xfailed" in done.stdout


def test_an_expected_failure_must_name_a_check() -> None:
    with pytest.raises(ValueError, match=r"names no check: 'speed'"):
        parametrize_with_server_checks({}, model_name="m", expected_failures={"speed": "slow"})
