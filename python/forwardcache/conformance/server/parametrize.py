"""The checks as tests: one callable a check, for pytest, unittest or a plain loop."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Unpack
from unittest import SkipTest

from forwardcache.conformance.expected import Given
from forwardcache.conformance.expected import expected_failures as expectations
from forwardcache.conformance.failures import ConformanceFailure
from forwardcache.conformance.http.client import CompletionClient
from forwardcache.conformance.server.checks import CHECKS, Check
from forwardcache.conformance.server.run import Options, client_options, judged, session_of

if TYPE_CHECKING:
    import pytest

__all__ = ["ServerCheck", "parametrize_with_server_checks", "server_checks"]


class ServerCheck:
    """One check on one server, to be called; made by ``server_checks``.

    Attributes:
        name: The check's name.
    """

    def __init__(self, check: Check, session: ServerSession) -> None:
        self.name = check.name
        self._check = check
        self._session = session

    def __call__(self) -> None:
        """Run the check.

        Raises:
            ConformanceFailure: the server breaks a rule.
            RequestFailedError: the server can't be reached.
            unittest.SkipTest: the server offers nothing of what it is about, or the check rests on
                one that failed; pytest skips on it too.
        """
        __tracebackhide__ = True
        self._session.check(self._check)

    def __repr__(self) -> str:
        return f"ServerCheck({self.name!r})"


class ServerSession:
    """A server that several checks share, and what has failed so far."""

    def __init__(
        self, url: str, model_name: str, options: Options, expected: frozenset[str] = frozenset()
    ) -> None:
        self._expected = expected
        client = CompletionClient(url, model_name, **client_options(options))
        self._session = session_of(client, options)
        self._failed: set[str] = set()

    def check(self, check: Check) -> None:
        """Run ``check``; raises what ``ServerCheck`` does."""
        for name in check.needs:
            if name in self._failed:
                raise SkipTest(f"rests on {name}, which failed")
        result = judged(check, self._session)
        if result.failures:
            # What is known to fail holds nothing up.
            self._failed |= {check.name} - self._expected
            raise result.failures[0]
        if result.reason is not None:
            raise SkipTest(result.reason)


def server_checks(url: str, *, model_name: str, **options: Unpack[Options]) -> list[ServerCheck]:
    """The checks as callables, in order; they share what they have asked.

    Args:
        url: The server's address.
        model_name: Name of the model, as the server knows it.
        **options: As for ``check_server``.

    Raises:
        InvalidInputError: an option is out of range.
    """
    session = ServerSession(url, model_name, options)
    return [ServerCheck(check, session) for check in CHECKS]


def parametrize_with_server_checks(
    servers: Mapping[str, str],
    *,
    model_name: str,
    expected_failures: Given = None,
    **options: Unpack[Options],
) -> pytest.MarkDecorator:
    """Turn a test function that takes ``check`` and calls it into one item a check and server.

    Args:
        servers: Addresses by the name that is in the ids (``name-alignment``).
        model_name: Name of the model, as the servers know it.
        expected_failures: Reasons by check, or by id for one server of several, or a TOML file
            with a table ``[server]``; these items are marked ``xfail``, and fail when they pass.
        **options: As for ``check_server``.

    Raises:
        InvalidInputError: an option is out of range, or an expected failure names no check.
    """
    import pytest

    known = expectations(expected_failures, kit="server", checks=[each.name for each in CHECKS])
    params = []
    for name, url in servers.items():
        expected_here = frozenset(each.name for each in CHECKS if known.reason_of(each.name, name))
        session = ServerSession(url, model_name, options, expected_here)
        for check in (ServerCheck(each, session) for each in CHECKS):
            marks = known.marks(check.name, name, raises=ConformanceFailure, is_strict=True)
            params.append(pytest.param(check, id=f"{name}-{check.name}", marks=marks))
    return pytest.mark.parametrize("check", params)
