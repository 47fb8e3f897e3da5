"""Proves that an engine really runs the adapters that it is given.

>>> from forwardcache.conformance.adapter import check_adapter_fidelity
>>> check_adapter_fidelity(make_engine, "path/to/model", raises=True)  # raises the first failure

Reading order: ``checks`` (the order), ``single`` and ``company`` (one function a check),
``failures`` (what they find), ``ground`` (texts and adapters that are made for a model),
``session`` with ``subject`` and ``worker`` (how an engine is asked, and what values are held
against), ``diagnose`` (which fault explains wrong values), ``run`` (the verdict), then the fronts
``parametrize`` and ``command``. ``forwardcache.hf.planting`` makes the adapters and the exact
values, so this needs the extra ``hf``; ``forwardcache.conformance.http`` asks a server.
"""

from forwardcache.extras import extra_named

with extra_named("forwardcache.conformance.adapter"):
    from forwardcache.conformance.adapter.checks import CHECKS, PROFILES, Check
    from forwardcache.conformance.adapter.failures import (
        AdapterFailure,
        AdapterIgnored,
        AdaptersMixed,
        BaseChanged,
        DependsOnBatch,
        DependsOnPrefix,
        Evidence,
        NotTeacherForced,
        PartIgnored,
        StaleAfterReload,
        SubjectFailed,
        WrongScale,
        WrongValues,
    )
    from forwardcache.conformance.adapter.parametrize import (
        AdapterCheck,
        adapter_checks,
        parametrize_with_adapter_checks,
    )
    from forwardcache.conformance.adapter.run import CheckResult, Report, check_adapter_fidelity

__all__ = [
    "CHECKS",
    "PROFILES",
    "AdapterCheck",
    "AdapterFailure",
    "AdapterIgnored",
    "AdaptersMixed",
    "BaseChanged",
    "Check",
    "CheckResult",
    "DependsOnBatch",
    "DependsOnPrefix",
    "Evidence",
    "NotTeacherForced",
    "PartIgnored",
    "Report",
    "StaleAfterReload",
    "SubjectFailed",
    "WrongScale",
    "WrongValues",
    "adapter_checks",
    "check_adapter_fidelity",
    "parametrize_with_adapter_checks",
]
