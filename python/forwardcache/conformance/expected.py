"""Checks that are known to fail, with reasons, for every kit: a file that a project keeps.

::

    [engine]
    cancellation = "issue 12: a stop is seen only between two requests"

    [backend]
    edge_inputs = "empty completions score 0 here, on purpose"

A table a kit; a name is a check's, or ``subject-check`` where one subject of several is meant. An
entry whose check passes is stale, and fails the run: whoever mends a fault takes its entry out.
"""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.errors import InvalidInputError

if TYPE_CHECKING:
    import pytest

__all__ = ["KITS", "ExpectedFailures", "ExpectedFailuresError", "Given", "expected_failures"]

KITS = ("engine", "backend", "adapter", "server")
"""The tables that a file may have."""


class ExpectedFailuresError(InvalidInputError):
    """The expected failures can't be used; the message names the entry and what is allowed."""


@dataclass(frozen=True)
class ExpectedFailures:
    """What is known to fail in one kit.

    Attributes:
        reasons: Reasons by check, or by ``subject-check``.
        source: The file; None where the reasons were given in Python.
    """

    reasons: Mapping[str, str] = field(default_factory=dict)
    source: str | None = None

    def reason_of(self, check: str, subject: str = "") -> str | None:
        """Why ``check`` is expected to fail; None where it is not.

        Args:
            check: The check's name.
            subject: The name of the engine, backend or whatever is checked, as in the ids.
        """
        return self.reasons.get(f"{subject}-{check}") or self.reasons.get(check)

    def about(self, subject: str) -> ExpectedFailures:
        """What is expected of one subject, by check alone.

        Args:
            subject: Its name, as in the ids.
        """
        own = {
            name.removeprefix(f"{subject}-"): reason
            for name, reason in self.reasons.items()
            if name.startswith(f"{subject}-")
        }
        return ExpectedFailures({**self.reasons, **own}, self.source)

    def judged(self, check: str, outcome: str, subject: str = "") -> str:
        """``outcome`` in the light of what is expected.

        Returns:
            ``"expected"`` for a failure that is known, ``"stale"`` for a pass where a failure is
            expected, else ``outcome``.
        """
        if self.reason_of(check, subject) is None:
            return outcome
        return {"failed": "expected", "passed": "stale"}.get(outcome, outcome)

    def marks(
        self, check: str, subject: str, *, raises: type[Exception], is_strict: bool
    ) -> list[pytest.MarkDecorator]:
        """What pytest is told of an item: ``xfail`` where a failure is expected.

        Args:
            check: The check's name.
            subject: The subject's name, as in the ids.
            raises: What the failure is.
            is_strict: Whether the item fails where the check passes.
        """
        import pytest

        reason = self.reason_of(check, subject)
        if reason is None:
            return []
        return [pytest.mark.xfail(reason=reason, raises=raises, strict=is_strict)]

    def stale(self, check: str, subject: str = "") -> str:
        """The sentence for an entry whose check passes."""
        where = f" of {self.source}" if self.source else ""
        reason = self.reason_of(check, subject)
        return f"{check} is expected to fail ({reason}) and passes: take the entry out{where}"


Given = ExpectedFailures | Mapping[str, str] | str | PathLike[str] | None
"""Reasons by check, or a file that has them."""


def expected_failures(
    given: Given, *, kit: str, checks: Collection[str], noun: str = "check"
) -> ExpectedFailures:
    """The expected failures of a kit, from a mapping or from the kit's table in a TOML file.

    Args:
        given: Reasons by check, or the file's path; None for none.
        kit: The kit's name, and its table's.
        checks: Names of all of the kit's checks.
        noun: What the kit calls them.

    Raises:
        ExpectedFailuresError: there is no such file, it is no TOML, or an entry is of no use.
    """
    if given is None:
        return ExpectedFailures()
    if isinstance(given, ExpectedFailures):
        return given
    if isinstance(given, Mapping):
        return ExpectedFailures(_sound(given, checks, noun, "expected_failures"))
    path = fspath(given)
    return ExpectedFailures(_sound(_table(path, kit), checks, noun, path), path)


def _table(path: str, kit: str) -> Mapping[str, Any]:
    try:
        tables = tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExpectedFailuresError(f"{path} can't be read: {error}") from error
    for name, table in tables.items():
        if name not in KITS or not isinstance(table, dict):
            allowed = ", ".join(f"[{known}]" for known in KITS)
            raise ExpectedFailuresError(f"{path}: {name!r} is no table of a kit: {allowed}")
    found: Mapping[str, Any] = tables.get(kit, {})
    return found


def _sound(
    reasons: Mapping[str, Any], checks: Collection[str], noun: str, source: str
) -> Mapping[str, str]:
    for name, reason in reasons.items():
        if not any(name == check or name.endswith(f"-{check}") for check in checks):
            allowed = f"{noun}s are {', '.join(checks)}"
            raise ExpectedFailuresError(f"{source} names no {noun}: {name!r}; {allowed}")
        if not isinstance(reason, str) or not reason.strip():
            raise ExpectedFailuresError(f"{source}: {name} needs a reason in words, got {reason!r}")
    return dict(reasons)
