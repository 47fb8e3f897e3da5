"""``check_engine``: what it prints, where, and its exit codes.

Checked here: 0, 1 and 2; table and JSON; the engine's own output kept out of the report.
"""

import io
import json
from typing import Any

import pytest

from forwardcache.conformance.command import check_engine
from forwardcache.conformance.locate import FactorySpecError, locate
from forwardcache.errors import InvalidInputError

GOOD = "tests.conformance.engines:Engine"
BAD = "tests.conformance.engines:StopSeenOnlyAtFirst"
DEAD = "tests.conformance.engines:FailsToStart"


def raising_factory() -> Any:
    raise OSError("no such model")


def noisy_factory() -> Any:
    print("loading")
    return locate(GOOD)()


not_a_factory = 3


def run(spec: str, **options: Any) -> tuple[int, str, str]:
    out, err = io.StringIO(), io.StringIO()
    code = check_engine(spec, out=out, err=err, cancel_deadline=0.2, **options)
    return code, out.getvalue(), err.getvalue()


def test_an_engine_that_conforms_gives_0_and_a_line_a_check() -> None:
    code, out, err = run(GOOD)
    assert code == 0
    assert out.splitlines()[1].split()[:2] == ["start", "passed"]
    assert out.splitlines()[-1] == "conforms to profile seed: 8 passed"
    assert err == ""


def test_an_engine_that_does_not_gives_1_and_the_failure_in_full() -> None:
    code, out, _ = run(BAD, profile="strict")
    assert code == 1
    assert "MidStreamCancellationIgnored: a stream stopped after its first chunk ended" in out
    assert "check: mid_stream_cancellation" in out
    assert "10 not run" in out


def test_all_broken_rules_are_shown_when_asked_for() -> None:
    code, out, _ = run(DEAD, report_all=True)
    assert code == 1
    assert out.splitlines()[-1] == "does not conform to profile seed: 1 passed, 1 failed, 6 skipped"


def test_json_is_one_object_on_standard_output() -> None:
    code, out, _ = run(BAD, profile="strict", output_format="json")
    report = json.loads(out)
    assert code == 1
    assert (report["engine"], report["profile"], report["conforms"]) == (BAD, "strict", False)
    failed = [check for check in report["checks"] if check["outcome"] == "failed"]
    assert [check["check"] for check in failed] == ["mid_stream_cancellation"]
    assert failed[0]["failures"][0]["name"] == "MidStreamCancellationIgnored"


def test_what_the_engine_prints_stays_out_of_the_report() -> None:
    code, out, err = run("tests.conformance.test_command:noisy_factory", output_format="json")
    assert code == 0
    assert json.loads(out)["conforms"]
    assert err.splitlines() == ["loading", "loading"]


def test_a_factory_of_failing_engines_can_be_named() -> None:
    code, out, _ = run(
        GOOD, profile="strict", failing_spec="tests.conformance.engines:CantCleanUpAfterFailedStart"
    )
    assert code == 1
    assert "CleanupAfterFailedStartFailed" in out


@pytest.mark.parametrize(
    ("spec", "options", "words"),
    [
        ("nowhere", {}, "not of the form pkg.mod:factory"),
        ("no_such_module:Engine", {}, "can't be imported: ModuleNotFoundError"),
        ("tests.conformance.engines:Nope", {}, "names nothing"),
        ("tests.conformance.test_command:not_a_factory", {}, "can't be called"),
        ("tests.conformance.test_command:raising_factory", {}, "OSError: no such model"),
        (GOOD, {"profile": "lenient"}, "profile must be one of seed, strict"),
        (GOOD, {"output_format": "yaml"}, "format must be one of table, json"),
        (GOOD, {"max_tokens": 0}, "max_tokens must be positive"),
    ],
)
def test_what_cant_be_run_gives_2_and_one_line(
    spec: str, options: dict[str, Any], words: str
) -> None:
    code, out, err = run(spec, **options)
    assert (code, out) == (2, "")
    assert words in err
    assert len(err.splitlines()) == 1


def test_a_bad_name_is_an_error_of_this_package_and_a_value_error() -> None:
    with pytest.raises(InvalidInputError):
        locate("nowhere")
    assert issubclass(FactorySpecError, ValueError)


def test_dotted_names_in_a_module_are_found() -> None:
    assert locate("tests.conformance.engines:Engine.start").__name__ == "start"
