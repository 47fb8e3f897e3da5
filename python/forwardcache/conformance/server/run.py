"""Runs the checks over a server and says what came of each."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, TypedDict, Unpack

import httpx

from forwardcache.conformance.expected import ExpectedFailures, Given
from forwardcache.conformance.expected import expected_failures as expectations
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.guard import describe
from forwardcache.conformance.http.answer import MalformedAnswerError
from forwardcache.conformance.http.client import (
    KEY_VARIABLE,
    CompletionClient,
    RequestFailedError,
)
from forwardcache.conformance.kit import conforms, stamp
from forwardcache.conformance.server.checks import CHECKS, Check
from forwardcache.conformance.server.failures import MalformedAnswer, RequestFailed, ServerFailure
from forwardcache.conformance.server.session import (
    TEXTS,
    CheckSkippedError,
    Reference,
    Session,
)
from forwardcache.errors import InvalidInputError

__all__ = [
    "CheckResult",
    "Options",
    "ServerReport",
    "check_server",
    "client_options",
    "judged",
    "session_of",
]

Outcome = Literal["passed", "failed", "skipped", "not_run"]
_NO_SUCH_MODEL = (401, 403, 404)


class Options(TypedDict, total=False):
    """What ``check_server`` may be told of the way it asks; its docstring says what each is."""

    reference: Reference | None
    texts: Sequence[str]
    top_k: int
    atol: float
    concurrency: int
    longest: int
    timeout: float
    retries: int
    api_key_variable: str
    transport: httpx.BaseTransport | None


@dataclass(frozen=True)
class CheckResult:
    """What came of one check.

    Attributes:
        check: Its name.
        outcome: ``"skipped"`` where the server offers nothing of what it is about, ``"not_run"``
            after a failure that it rests on.
        seconds: How long it took.
        failures: What it found, the weightiest first.
        reason: Why it was skipped or not run, or is expected to fail.
        seen: The outcome in the light of what is expected: also ``"expected"`` and ``"stale"``.
    """

    check: str
    outcome: Outcome
    seconds: float = 0.0
    failures: tuple[ConformanceFailure, ...] = ()
    reason: str | None = None
    seen: str = ""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, failures as dicts."""
        return {
            "check": self.check,
            "outcome": self.seen or self.outcome,
            "seconds": round(self.seconds, 6),
            "failures": [_without_chunks(failure) for failure in self.failures],
            "reason": self.reason,
        }


@dataclass(frozen=True)
class ServerReport:
    """A run, check by check, in order.

    Attributes:
        results: One a check.
        tolerance: Nats by which the median of two sets of values could differ.
    """

    results: tuple[CheckResult, ...]
    tolerance: float

    @property
    def failures(self) -> tuple[ConformanceFailure, ...]:
        """All failures that are not expected, the first one first."""
        found = (result for result in self.results if result.seen == "failed")
        return tuple(failure for result in found for failure in result.failures)

    @property
    def outcomes(self) -> tuple[str, ...]:
        """One a check, in the light of what is expected."""
        return tuple(result.seen or result.outcome for result in self.results)

    @property
    def judged_values(self) -> bool:
        """Whether any check that is about log-probabilities could be judged."""
        about = {check.name for check in CHECKS if check.of_values}
        seen = {result.outcome for result in self.results if result.check in about}
        return bool(seen & {"passed", "failed"})

    @property
    def conforms(self) -> bool:
        """Whether no check has failed, and some log-probabilities were judged."""
        return conforms(self.outcomes) and self.judged_values

    def to_dict(self) -> dict[str, Any]:
        """Kit, verdict and results, as in the JSON."""
        return {
            **stamp("server", self.outcomes),
            "conforms": self.conforms,
            "judged_values": self.judged_values,
            "tolerance_nats": self.tolerance,
            "checks": [result.to_dict() for result in self.results],
        }


def check_server(
    url: str,
    *,
    model_name: str,
    expected_failures: Given = None,
    report_all: bool = False,
    raises: bool = True,
    **options: Unpack[Options],
) -> ServerReport:
    """Check the log-probabilities of an OpenAI-style server.

    Args:
        url: Its address, with or without ``/v1``.
        model_name: Name of the model, as the server knows it.
        expected_failures: Reasons by check that is known to fail, or a TOML file with a table
            ``[server]``.
        report_all: Go on after a failure, and raise nothing.
        raises: Whether the first failure is raised; otherwise the report ends with it.
        **options: How it asks. ``reference``: gives the exact log-probabilities (nats) of a text's
            tokens after the first, BOS included. ``texts``: prompts that begin with different
            words. ``top_k`` (5): how many candidates. ``atol`` (0.05): nats by which the median of
            two sets of values may differ; what the same request differs by raises it, to 0.2 at
            most. ``concurrency`` (8): requests at once. ``longest`` (2048): words of the longest
            prompt. ``timeout`` (60): seconds without a byte. ``retries`` (2): for a server that is
            busy. ``api_key_variable`` (``FORWARDCACHE_API_KEY``): environment variable with the
            key. ``transport``: carries the requests in place of a connection.

    Returns:
        What came of each check.

    Raises:
        ConformanceFailure: a check fails, ``raises`` is on and ``report_all`` off.
        RequestFailedError: the server can't be reached, or doesn't know the model or the key.
        InvalidInputError: an option is out of range.
    """
    known = expectations(expected_failures, kit="server", checks=[each.name for each in CHECKS])
    with CompletionClient(url, model_name, **client_options(options)) as client:
        session = session_of(client, options)
        report = ServerReport(tuple(_results(session, known, report_all)), session.tolerance)
    if raises and not report_all and report.failures:
        raise report.failures[0]
    return report


def session_of(client: CompletionClient, options: Options) -> Session:
    """A session with the server that ``client`` asks.

    Args:
        client: Asks it.
        options: As of ``check_server``.

    Raises:
        InvalidInputError: an option is out of range.
    """
    texts, top_k = options.get("texts", TEXTS), options.get("top_k", 5)
    atol, concurrency = options.get("atol", 0.05), options.get("concurrency", 8)
    if len({text[:1] for text in texts}) < max(2, len(texts)):
        raise InvalidInputError(f"texts must be two or more that begin differently, got {texts!r}")
    if top_k < 3:
        raise InvalidInputError(f"top_k must be at least 3, got {top_k}")
    if not 0 < atol < 1:
        raise InvalidInputError(f"atol must be between 0 and 1 nat, got {atol}")
    if concurrency < 1:
        raise InvalidInputError(f"concurrency must be at least 1, got {concurrency}")
    return Session(
        client,
        texts=texts,
        top_k=top_k,
        tolerance=atol,
        concurrency=concurrency,
        longest=options.get("longest", 2048),
        reference=options.get("reference"),
    )


def judged(check: Check, session: Session) -> CheckResult:
    """What comes of one check.

    Args:
        check: The check.
        session: The server.

    Raises:
        RequestFailedError: the server can't be reached, or doesn't know the model or the key.
    """
    began = time.perf_counter()
    outcome, failures, reason = _found(check, session)
    for failure in failures:
        failure.check = check.name
    seconds = time.perf_counter() - began
    return CheckResult(check.name, outcome, seconds, failures, reason, outcome)


def _found(check: Check, session: Session) -> tuple[Outcome, tuple[ServerFailure, ...], str | None]:
    failures: list[ServerFailure] = []
    try:
        # The first says what is wrong; what follows from it is left out.
        failures.extend(islice(check.find(session), 1))
    except CheckSkippedError as skipped:
        return "skipped", (), str(skipped)
    except RequestFailedError as error:
        if check.name == "answers" and (error.status is None or error.status in _NO_SUCH_MODEL):
            raise
        failures.append(RequestFailed(check.name, "an answer", str(error)))
    except MalformedAnswerError as error:
        failures.append(MalformedAnswer(check.name, "a completion", str(error)))
    except Exception as error:
        # What the kit stumbles over is the form of an answer too: none of its code is the server's.
        failures.append(MalformedAnswer(check.name, "a completion", describe(error)))
    return ("failed" if failures else "passed"), tuple(failures), None


def _results(session: Session, known: ExpectedFailures, report_all: bool) -> list[CheckResult]:
    results: list[CheckResult] = []
    failed: set[str] = set()
    for check in CHECKS:
        over = not report_all and any(result.seen == "failed" for result in results)
        rests_on = [name for name in check.needs if name in failed]
        if over or rests_on:
            reason = None if over else f"rests on {rests_on[0]}, which failed"
            result = CheckResult(check.name, "not_run", reason=reason, seen="not_run")
        else:
            result = _in_the_light(judged(check, session), known)
        # What is known to fail holds nothing up: the rest is to be judged beside it.
        failed |= {check.name} if result.seen == "failed" else set()
        results.append(result)
    return results


def _in_the_light(result: CheckResult, known: ExpectedFailures) -> CheckResult:
    seen = known.judged(result.check, result.outcome)
    reason = known.reason_of(result.check) if seen == "expected" else result.reason
    if seen == "stale":
        reason = known.stale(result.check)
    return CheckResult(result.check, result.outcome, result.seconds, result.failures, reason, seen)


def client_options(options: Options) -> dict[str, Any]:
    """The options of ``CompletionClient`` among ``options``.

    Args:
        options: As of ``check_server``.

    Raises:
        InvalidInputError: one is out of range.
    """
    timeout, retries = options.get("timeout", 60.0), options.get("retries", 2)
    if timeout <= 0:
        raise InvalidInputError(f"timeout must be above 0 seconds, got {timeout}")
    if retries < 0:
        raise InvalidInputError(f"retries must be 0 or more, got {retries}")
    return {
        "timeout": timeout,
        "retries": retries,
        "api_key_variable": options.get("api_key_variable", KEY_VARIABLE),
        "transport": options.get("transport"),
    }


def _without_chunks(failure: ConformanceFailure) -> dict[str, Any]:
    return {name: value for name, value in failure.to_dict().items() if name != "chunks"}
