"""Runs the rules over a backend and says what came of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forwardcache.conformance import kit
from forwardcache.conformance.backend.rules import RULES, Rule
from forwardcache.conformance.backend.subject import (
    BackendRuleBroken,
    Broken,
    RuleSkipped,
    Subject,
)
from forwardcache.conformance.expected import ExpectedFailures, Given
from forwardcache.conformance.expected import expected_failures as expectations

Outcome = Literal["passed", "failed", "skipped", "expected", "stale"]


@dataclass(frozen=True)
class RuleResult:
    """What came of one rule.

    Attributes:
        rule: The rule's name.
        outcome: "passed", "failed" or "skipped"; "expected" if it failed and is known to, "stale"
            if it passed and is expected to fail.
        reason: Why it failed or was skipped; empty if it passed.
    """

    rule: str
    outcome: Outcome
    reason: str = ""


@dataclass(frozen=True)
class BackendReport:
    """What came of every rule.

    Attributes:
        results: One a rule, in order.
    """

    results: tuple[RuleResult, ...]

    @property
    def conforms(self) -> bool:
        """Whether no rule was broken, and not each one skipped; no rules at all can't be broken."""
        return not self.results or kit.conforms(self.outcomes)

    @property
    def outcomes(self) -> list[str]:
        """The outcome of each rule, in order."""
        return [result.outcome for result in self.results]

    @property
    def shows_nothing(self) -> bool:
        """Whether every rule was skipped, as it is for an object that is no scoring backend."""
        outcomes = {result.outcome for result in self.results}
        return outcomes == {"skipped"}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {
            **kit.stamp("backend", self.outcomes),
            "conforms": self.conforms,
            "results": [asdict(result) for result in self.results],
        }


def check_backend(
    factory: Callable[[], Any],
    *,
    rules: Sequence[Rule] = RULES,
    report_all: bool = False,
    raises: bool = True,
    expected_failures: Given = None,
    **asked: Any,
) -> BackendReport:
    """Checks a backend against the rules, in order.

    Args:
        factory: Gives a backend; called once, and once more after each broken rule, since a broken
            rule may leave the backend changed.
        rules: The rules to check.
        report_all: Go on after a broken rule, and raise nothing.
        raises: Whether the first broken rule is raised; otherwise the report ends with it.
        expected_failures: Reasons by rule, or a file with a table ``[backend]`` of them. Such a
            rule may be broken; one of them that holds is stale, and fails.
        **asked: Attributes of ``Subject``: prompts, pairs, top_k, atol, forget.

    Returns:
        What came of each rule.

    Raises:
        BackendRuleBroken: A rule doesn't hold, ``raises`` is on and ``report_all`` off.
        ExpectedFailuresError: ``expected_failures`` can't be read, or names no rule.
    """
    known = expectations(expected_failures, kit="backend", checks=names_of_rules(), noun="rule")
    results: list[RuleResult] = []
    backend = factory()
    for rule in rules:
        result = apply(rule, Subject(backend, **asked))
        results.append(judged(result, known))
        if results[-1].outcome in ("failed", "stale") and not report_all:
            close(backend)
            if raises:
                raise BackendRuleBroken(result.rule, results[-1].reason)
            return BackendReport(tuple(results))
        if result.outcome == "failed":
            close(backend)
            backend = factory()
    close(backend)
    return BackendReport(tuple(results))


def names_of_rules() -> list[str]:
    """The names of all rules, in order."""
    return [rule.__name__ for rule in RULES]


def judged(result: RuleResult, known: ExpectedFailures) -> RuleResult:
    """``result`` in the light of what is expected to fail."""
    outcome = known.judged(result.rule, result.outcome)
    if outcome == "expected":
        reason = f"expected ({known.reason_of(result.rule)}): {result.reason}"
        return RuleResult(result.rule, "expected", reason)
    if outcome == "stale":
        return RuleResult(result.rule, "stale", known.stale(result.rule))
    return result


def apply(rule: Rule, subject: Subject) -> RuleResult:
    """What comes of one rule; an exception that the rule didn't ask for breaks it."""
    try:
        rule(subject)
    except RuleSkipped as skipped:
        return RuleResult(rule.__name__, "skipped", str(skipped))
    except Broken as broken:
        return RuleResult(rule.__name__, "failed", str(broken))
    except Exception as error:
        reason = f"raised {type(error).__name__}: {error}"
        return RuleResult(rule.__name__, "failed", reason)
    return RuleResult(rule.__name__, "passed")


def close(backend: Any) -> None:
    """Closes a backend that can be closed; whatever that raises must not hide a verdict."""
    close = getattr(backend, "close", None)
    if callable(close):
        try:
            close()
        except Exception:
            return
