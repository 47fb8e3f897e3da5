"""Proves that a scoring backend keeps its contract: ours, or anybody's with the same methods.

>>> from forwardcache.conformance.backend import check_backend
>>> check_backend(my_factory)  # raises BackendRuleBroken at the first rule that doesn't hold

Reading order: ``rules`` (one function a rule), ``subject`` (what a backend shows of itself),
``run`` (all rules in order, and the report), then the fronts ``parametrize`` and ``command``. A
backend is judged by what it shows: its weights by the scores of its views, its counters only where
it has ``stats``, additivity only at token boundaries. What it doesn't have is skipped with the
reason; a report that skips every rule does not conform. Imports numpy, not torch.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.conformance.backend"):
    from forwardcache.conformance.backend.parametrize import (
        BackendCheck,
        backend_checks,
        parametrize_with_backend_checks,
    )
    from forwardcache.conformance.backend.rules import RULES
    from forwardcache.conformance.backend.run import BackendReport, RuleResult, check_backend
    from forwardcache.conformance.backend.subject import BackendRuleBroken, RuleSkipped, Subject

__all__ = [
    "RULES",
    "BackendCheck",
    "BackendReport",
    "BackendRuleBroken",
    "RuleResult",
    "RuleSkipped",
    "Subject",
    "backend_checks",
    "check_backend",
    "parametrize_with_backend_checks",
]
