"""``check_engine``: what it prints, where, and its exit codes.

Checked here: 0, 1 and 2; table and JSON; the engine's own output kept out of the report.
"""

import io
import json
from pathlib import Path
from typing import Any

import pytest

from forwardcache import __version__
from forwardcache.conformance.command import check_engine
from forwardcache.conformance.kit import KIT_VERSION
from forwardcache.conformance.locate import FactorySpecError, locate
from forwardcache.errors import InvalidInputError
from tests.conformance import engines

GOOD = "tests.conformance.engines:Engine"
BAD = "tests.conformance.engines:StopSeenOnlyAtFirst"
DEAD = "tests.conformance.engines:FailsToStart"
SHORT = "tests.conformance.engines:ShortContext"
CROWDED = "tests.conformance.test_command:crowded"


def raising_factory() -> Any:
    raise OSError("no such model")


def noisy_factory() -> Any:
    print("loading")
    return locate(GOOD)()


def crowded() -> Any:
    """One shared buffer spoils each stream."""
    return engines.crowding(lambda item: [None])()


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
    assert "12 not run" in out


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


def test_failures_of_one_kind_are_shown_once_with_their_number() -> None:
    code, out, _ = run(CROWDED, profile="strict", report_all=True, concurrency=8)
    assert code == 1
    assert out.count("ConcurrentStreamInvalid: stream 0 of those that ran at once") == 1
    assert "(and 15 more ConcurrentStreamInvalid of the check concurrent_streams)" in out
    assert "ConcurrentStreamInvalid (16 times)" in out
    report = json.loads(
        run(CROWDED, profile="strict", report_all=True, concurrency=8, output_format="json")[1]
    )
    found = {check["check"]: check["failures"] for check in report["checks"]}
    assert len(found["concurrent_streams"]) == 16


def test_a_report_says_which_kit_it_is_and_how_many_checks_have_run() -> None:
    _, out, _ = run(DEAD, report_all=True)
    head = f"engine kit {KIT_VERSION} (forwardcache {__version__}): 2 of 8 checks run"
    assert out.splitlines()[-2] == head
    report = json.loads(run(DEAD, report_all=True, output_format="json")[1])
    assert (report["kit"], report["kit_version"]) == ("engine", KIT_VERSION)
    assert (report["checks_run"], report["checks_in_all"]) == (2, 8)


def expected(tmp_path: Path, text: str) -> str:
    path = tmp_path / "expected.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", ["{}", "EndsWhenWaiterIsCancelled-{}"])
def test_an_expected_failure_does_not_count_and_the_run_goes_on(tmp_path: Path, name: str) -> None:
    name = name.format("cancelled_waiter")
    path = expected(tmp_path, f'[engine]\n{name} = "issue 12"\n')
    spec = "tests.conformance.engines:EndsWhenWaiterIsCancelled"
    code, out, _ = run(spec, profile="strict", expected_file=path)
    assert code == 0
    line = next(line for line in out.splitlines() if line.startswith("cancelled_waiter"))
    assert line.split()[1] == "expected"
    assert line.endswith("WaiterCancellationSwallowed: issue 12")
    assert out.splitlines()[-1] == (
        "conforms to profile strict: 20 passed, 1 failed as expected, 1 skipped"
    )


def test_a_stale_expectation_fails(tmp_path: Path) -> None:
    path = expected(tmp_path, '[engine]\ncancellation = "issue 12"\n')
    code, out, _ = run(GOOD, expected_file=path, report_all=True)
    assert code == 1
    assert (
        f"cancellation is expected to fail (issue 12) and passes: take the entry out of {path}"
        in (out)
    )
    assert out.splitlines()[-1] == (
        "does not conform to profile seed: 7 passed, 1 passed, though expected to fail"
    )


def test_an_expectation_of_another_engine_or_profile_is_left_alone(tmp_path: Path) -> None:
    text = '[engine]\nOther-cancellation = "issue 12"\ncross_talk = "issue 13"\n'
    assert run(GOOD, expected_file=expected(tmp_path, text))[0] == 0


def test_a_run_in_which_everything_failed_as_expected_or_was_skipped_says_so(
    tmp_path: Path,
) -> None:
    path = expected(tmp_path, '[engine]\nstart = "no GPU here"\n')
    code, out, _ = run(DEAD, expected_file=path)
    assert code == 0
    assert "1 failed as expected, 6 skipped" in out


def test_a_cross_talk_says_what_was_raised() -> None:
    _, out, _ = run("tests.conformance.engines:RaisesForLongPromptsInACrowd", profile="strict")
    assert "alone and raised MemoryError: no block left beside others" in out


def test_the_seed_asks_for_its_10_000_tokens_whatever_the_context_unless_told_otherwise() -> None:
    code, out, _ = run(SHORT)
    assert code == 1
    assert "StreamYieldedError: the stream raised an error: ValueError: longer than the" in out
    assert run(SHORT, long_max_tokens=20)[0] == 0
    assert run(SHORT, profile="strict")[0] == 0


@pytest.mark.parametrize(
    ("profile", "spec"), [("encode", "Encoder"), ("raw", "Raw"), ("encode", "Raw")]
)
def test_encoders_and_raw_engines_have_profiles_of_their_own(profile: str, spec: str) -> None:
    code, out, _ = run(f"tests.conformance.engines:{spec}", profile=profile)
    assert code == (0 if spec.lower().startswith(profile[:3]) else 1)
    assert f"conform{'s' if code == 0 else ''} to profile {profile}: " in out


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
        (GOOD, {"long_max_tokens": 0}, "long_max_tokens must be positive"),
        (GOOD, {"expected_file": "nowhere.toml"}, "nowhere.toml can't be read"),
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
