"""The rules as tests: one callable a rule, for pytest, unittest or a plain loop."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any
from unittest import SkipTest

from forwardcache.conformance.backend.rules import RULES, Rule
from forwardcache.conformance.backend.run import apply, close, names_of_rules
from forwardcache.conformance.backend.subject import BackendRuleBroken, Subject
from forwardcache.conformance.expected import Given
from forwardcache.conformance.expected import expected_failures as expectations

if TYPE_CHECKING:
    import pytest

Factory = Callable[[], Any]


class BackendSession:
    """One backend that several checks share; made anew after a broken rule."""

    def __init__(self, factory: Factory, asked: Mapping[str, Any]) -> None:
        self._factory = factory
        self._asked = asked
        self._backend: Any = None

    def check(self, rule: Rule) -> None:
        """Checks one rule.

        Raises:
            BackendRuleBroken: it doesn't hold.
            unittest.SkipTest: the backend doesn't have what it is about.
        """
        if self._backend is None:
            self._backend = self._factory()
        result = apply(rule, Subject(self._backend, **self._asked))
        if result.outcome == "failed":
            self.close()
            raise BackendRuleBroken(result.rule, result.reason)
        if result.outcome == "skipped":
            raise SkipTest(result.reason)

    def close(self) -> None:
        """Closes the backend; the next check makes another."""
        backend, self._backend = self._backend, None
        close(backend)


class BackendCheck:
    """One rule on one backend, to be called; made by ``backend_checks``.

    Attributes:
        name: The rule's name.
    """

    def __init__(self, rule: Rule, session: BackendSession) -> None:
        self.name = rule.__name__
        self._rule = rule
        self._session = session

    def __call__(self) -> None:
        """Checks the rule; raises what ``BackendSession.check`` raises."""
        __tracebackhide__ = True
        self._session.check(self._rule)

    def __repr__(self) -> str:
        return f"BackendCheck({self.name!r})"


def backend_checks(factory: Factory, **asked: Any) -> list[BackendCheck]:
    """The rules as callables, in order.

    Args:
        factory: Gives a backend; called when the first rule is checked, and again after a broken
            one.
        **asked: Attributes of ``Subject``: prompts, pairs, top_k, atol, forget.
    """
    session = BackendSession(factory, asked)
    return [BackendCheck(rule, session) for rule in RULES]


def parametrize_with_backend_checks(
    backends: Mapping[str, Factory],
    *,
    expected_failures: Given = None,
    **asked: Any,
) -> pytest.MarkDecorator:
    """Turns a test function that takes ``check`` and calls it into one item a rule and backend.

    Args:
        backends: Factories by the name that stands in the ids (``name-view_isolation``).
        expected_failures: Reasons by rule, or a TOML file with a table ``[backend]`` of them; these
            items are marked ``xfail``. An entry of a file whose item passes is stale, and fails.
        **asked: As for ``backend_checks``.

    Raises:
        ValueError: an expected failure names no rule.
    """
    import pytest

    known = expectations(expected_failures, kit="backend", checks=names_of_rules(), noun="rule")
    is_strict = known.source is not None
    items = [
        pytest.param(
            check,
            id=f"{name}-{check.name}",
            marks=known.marks(check.name, name, raises=BackendRuleBroken, is_strict=is_strict),
        )
        for name, factory in backends.items()
        for check in backend_checks(factory, **asked)
    ]
    return pytest.mark.parametrize("check", items)
