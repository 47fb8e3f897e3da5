"""Runs the checks over an engine and says what came of each."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from os import PathLike, fspath
from pathlib import Path
from typing import Any, cast

from forwardcache.conformance.adapter.checks import IGNORED, PROFILES, Check, checks_of
from forwardcache.conformance.adapter.diagnose import evidence_of
from forwardcache.conformance.adapter.failures import (
    AdapterFailure,
    AdapterIgnored,
    Evidence,
    SubjectFailed,
)
from forwardcache.conformance.adapter.ground import Ground, Profile
from forwardcache.conformance.adapter.session import CheckSkippedError, Session
from forwardcache.conformance.adapter.subject import Caller, SubjectRaisedError
from forwardcache.conformance.expected import ExpectedFailures, Given
from forwardcache.conformance.expected import expected_failures as expectations
from forwardcache.conformance.kit import conforms, stamp
from forwardcache.conformance.report import Outcome
from forwardcache.errors import InvalidInputError

__all__ = [
    "CheckResult",
    "Report",
    "check_adapter_fidelity",
    "check_on",
    "ground_of",
    "judged",
    "left_behind",
    "made",
    "marks",
    "names_of_checks",
    "rests_on",
]


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Attributes:
        check: Its name.
        outcome: ``"skipped"`` where the model or the engine has nothing of what it is about,
            ``"not_run"`` after a failure that it rests on, ``"expected"`` where it failed and is
            known to, ``"stale"`` where it passed and is expected to fail.
        seconds: How long it took.
        failures: What it found.
        reason: Why it was skipped, not run or expected to fail.
        evidence: Where it passed, the text that came nearest to failing; None where no values were
            judged.
    """

    check: str
    outcome: Outcome
    seconds: float = 0.0
    failures: tuple[AdapterFailure, ...] = ()
    reason: str | None = None
    evidence: Evidence | None = None

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, failures as dicts."""
        return {
            "check": self.check,
            "outcome": self.outcome,
            "seconds": round(self.seconds, 6),
            "failures": [failure.to_dict() for failure in self.failures],
            "reason": self.reason,
            "evidence": None if self.evidence is None else self.evidence.to_dict(),
        }


@dataclass(frozen=True)
class Report:
    """A run, check by check, in order.

    Attributes:
        profile: Name of the profile.
        results: One a check.
        floor: What rounding makes of the base's values, root mean square, nats.
    """

    profile: str
    results: tuple[CheckResult, ...]
    floor: float

    def failures(self) -> tuple[AdapterFailure, ...]:
        """All failures but those that are expected, the first one first."""
        broken = [result for result in self.results if result.outcome == "failed"]
        return tuple(failure for result in broken for failure in result.failures)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """The outcome of each check, in order."""
        return tuple(result.outcome for result in self.results)

    @property
    def conforms(self) -> bool:
        """Whether no check has failed, and an adapter was judged."""
        seen = {result.outcome for result in self.results if result.check != "base"}
        return conforms(self.outcomes) and bool(seen & {"passed", "expected"})

    @property
    def seconds(self) -> float:
        """How long the checks took together."""
        return sum(result.seconds for result in self.results)

    def to_dict(self) -> dict[str, Any]:
        """Kit, profile, verdict and results, as in the JSON."""
        return {
            **stamp("adapter", self.outcomes),
            "profile": self.profile,
            "conforms": self.conforms,
            "floor_nats": self.floor,
            "seconds": round(self.seconds, 6),
            "checks": [result.to_dict() for result in self.results],
        }


def check_adapter_fidelity(
    factory: Callable[[], Any],
    model_dir: str | PathLike[str],
    *,
    profile: str = "quick",
    raises: bool = False,
    report_all: bool = True,
    expected_failures: Given = None,
    timeout: float = 120.0,
) -> Report:
    """Check that an engine really runs the adapters that it is given.

    Adapters are made for the model with PEFT, loaded into the engine one after another, beside each
    other and anew under one name; what it then gives for texts is compared with the exact values.

    Args:
        factory: Makes an engine that serves the model of ``model_dir``, with
            ``load_adapter(name, path)``, ``unload_adapter(name)`` and
            ``logprobs(token_ids, *, adapter=None)``, plain or async: log-probabilities in nats of
            ``token_ids[1:]``, each given all tokens before it. Called once.
        model_dir: Folder of the model, as transformers writes it.
        profile: ``"quick"``, or ``"full"`` for more and longer texts.
        raises: Whether the first failure is raised.
        report_all: Go on after a failure; what rests on it is not run.
        expected_failures: Reasons by check that is known to fail, or a TOML file with a table
            ``[adapter]``.
        timeout: Seconds after which a call, or calls at once, have failed. A plain call that hangs
            is left behind in its thread, and nothing more is asked.

    Returns:
        What came of each check.

    Raises:
        AdapterFailure: a check fails, and ``raises`` is on.
        ModelLoadError: the model's folder is missing or broken.
        UnsupportedModelError: no adapter can be made for the model.
        InvalidInputError: there is no such profile, or an expected failure names no check.
    """
    with ground_of(model_dir, profile) as ground:
        report = check_on(
            ground,
            factory,
            report_all=report_all and not raises,
            expected_failures=expected_failures,
            timeout=timeout,
        )
    if raises and report.failures():
        raise report.failures()[0]
    return report


@contextmanager
def ground_of(model_dir: str | PathLike[str], profile: str) -> Iterator[Ground]:
    """Texts and adapters for a model, as long as the block lasts.

    Args:
        model_dir: Folder of the model.
        profile: ``"quick"`` or ``"full"``.

    Raises:
        ModelLoadError: the model's folder is missing or broken.
        UnsupportedModelError: no adapter can be made for the model.
        InvalidInputError: there is no such profile.
    """
    if profile not in PROFILES:
        raise InvalidInputError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    with tempfile.TemporaryDirectory(prefix="forwardcache-adapters-") as folder:
        yield Ground(fspath(model_dir), Path(folder), cast(Profile, profile))


def check_on(
    ground: Ground,
    factory: Callable[[], Any],
    *,
    profile: str | None = None,
    report_all: bool = True,
    expected_failures: Given = None,
    timeout: float = 120.0,
) -> Report:
    """``check_adapter_fidelity`` on what was made for the model before.

    Args:
        ground: Texts and adapters.
        factory: Makes an engine.
        profile: Whose checks; those that the texts are for, unless given.
        report_all: Go on after a failure.
        expected_failures: As for ``check_adapter_fidelity``.
        timeout: Likewise.

    Raises:
        InvalidInputError: an expected failure names no check.
    """
    known = expectations(expected_failures, kit="adapter", checks=names_of_checks())
    caller = made(factory, timeout)
    session = Session(caller, ground)
    try:
        checks = checks_of(profile or ground.profile)
        results = tuple(_results(session, checks, known, report_all=report_all))
    finally:
        caller.close()
    return Report(profile or ground.profile, results, session.floor)


def names_of_checks() -> list[str]:
    """The names of all checks, in order."""
    return [check.name for check in checks_of("full")]


def made(factory: Callable[[], Any], timeout: float) -> Caller:
    """The engine that ``factory`` makes.

    Args:
        factory: Makes it.
        timeout: Seconds after which an awaitable has failed.
    """
    return Caller(factory(), timeout)


def judged(check: Check, session: Session) -> CheckResult:
    """What comes of one check.

    Args:
        check: The check.
        session: The engine.
    """
    began = time.perf_counter()
    failures: tuple[AdapterFailure, ...] = ()
    outcome: Outcome = "passed"
    reason = None
    session.nearest = None
    finds = check.find(session)
    try:
        # The first says what is wrong; what follows from it is left out.
        failures = tuple(islice(finds, 1))
    except CheckSkippedError as skipped:
        outcome, reason = "skipped", str(skipped)
    except SubjectRaisedError as error:
        failures = (_raised(error, check.name, session),)
    finally:
        finds.close()
    for failure in failures:
        failure.check = check.name
    outcome = "failed" if failures else outcome
    seconds = time.perf_counter() - began
    shown = _shown(session) if outcome == "passed" else None
    return CheckResult(check.name, outcome, seconds, failures, reason, shown)


def _shown(session: Session) -> Evidence | None:
    """Expected against given of a check that passed."""
    case = session.nearest
    if case is None:
        return None
    return evidence_of(case, f"values {case.off:.3g} nats from these")


def rests_on(check: Check, failed: set[str]) -> str | None:
    """Why ``check`` isn't run after these failures; None where it is.

    Args:
        check: The check.
        failed: Names of checks that have failed.
    """
    for name in check.needs:
        if name in failed:
            return f"rests on {name}, which failed"
    return None


def left_behind(session: Session) -> str | None:
    """Why nothing more can be asked of an engine; None if it can.

    Args:
        session: The engine.
    """
    hangs = session.caller.hangs
    return None if hangs is None else f"the engine hangs: {hangs} never came back"


def marks(result: CheckResult) -> set[str]:
    """What a failed check means for those that rest on it."""
    found = {result.check} if result.failures else set()
    if result.check == "all_linear" and any(
        isinstance(each, AdapterIgnored | SubjectFailed) for each in result.failures
    ):
        found.add(IGNORED)
    return found


def _raised(error: SubjectRaisedError, check: str, session: Session) -> AdapterFailure:
    names = ", ".join(f"{name} ({plant.name})" for name, plant in session.loaded.items())
    evidence = Evidence(
        planted=f"loaded: {names or 'nothing'}; in the check {check}",
        expected="an answer",
        came=str(error),
        floor=session.floor,
    )
    return SubjectFailed(str(error)).showing(evidence)


def _results(
    session: Session, checks: Sequence[Check], known: ExpectedFailures, *, report_all: bool
) -> Iterator[CheckResult]:
    failed: set[str] = set()
    over = False
    for check in checks:
        reason = rests_on(check, failed) or left_behind(session)
        if over or reason is not None:
            yield CheckResult(check.name, "not_run", reason=reason)
            continue
        result = _in_the_light(judged(check, session), known)
        # What is known to fail holds nothing up: the rest is to be judged beside it.
        failed |= marks(result) if result.outcome == "failed" else set()
        over = not report_all and result.outcome in ("failed", "stale")
        yield result


def _in_the_light(result: CheckResult, known: ExpectedFailures) -> CheckResult:
    seen = known.judged(result.check, result.outcome)
    if seen == result.outcome:
        return result
    reason = known.stale(result.check) if seen == "stale" else known.reason_of(result.check)
    return replace(result, outcome=cast(Outcome, seen), reason=reason)
