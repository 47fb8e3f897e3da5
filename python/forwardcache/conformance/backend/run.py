"""Runs the rules over a backend and says what came of each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from forwardcache.conformance.backend.rules import RULES, Rule
from forwardcache.conformance.backend.subject import (
    BackendRuleBroken,
    Broken,
    RuleSkipped,
    Subject,
)

Outcome = Literal["passed", "failed", "skipped"]


@dataclass(frozen=True)
class RuleResult:
    """What came of one rule.

    Attributes:
        rule: The rule's name.
        outcome: "passed", "failed" or "skipped".
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
        """Whether no rule was broken, and not each one skipped."""
        broken = any(result.outcome == "failed" for result in self.results)
        return not (broken or self.shows_nothing)

    @property
    def shows_nothing(self) -> bool:
        """Whether every rule was skipped, as it is for an object that is no scoring backend."""
        outcomes = {result.outcome for result in self.results}
        return outcomes == {"skipped"}

    def to_dict(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {"conforms": self.conforms, "results": [asdict(result) for result in self.results]}


def check_backend(
    factory: Callable[[], Any],
    *,
    rules: Sequence[Rule] = RULES,
    report_all: bool = False,
    raises: bool = True,
    **asked: Any,
) -> BackendReport:
    """Checks a backend against the rules, in order.

    Args:
        factory: Gives a backend; called once, and once more after each broken rule, since a broken
            rule may leave the backend changed.
        rules: The rules to check.
        report_all: Go on after a broken rule, and raise nothing.
        raises: Whether the first broken rule is raised; otherwise the report ends with it.
        **asked: Attributes of ``Subject``: prompts, pairs, top_k, atol, forget.

    Returns:
        What came of each rule.

    Raises:
        BackendRuleBroken: A rule doesn't hold, ``raises`` is on and ``report_all`` off.
    """
    results = []
    backend = factory()
    for rule in rules:
        result = apply(rule, Subject(backend, **asked))
        results.append(result)
        if result.outcome != "failed":
            continue
        close(backend)
        if raises and not report_all:
            raise BackendRuleBroken(result.rule, result.reason)
        if not report_all:
            return BackendReport(tuple(results))
        backend = factory()
    close(backend)
    return BackendReport(tuple(results))


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
