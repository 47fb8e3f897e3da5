"""An engine that was written against the page alone conforms, from every front."""

import asyncio
from typing import Any

import pytest

from forwardcache.conformance import CancellationIgnored, check_conformance, run_conformance
from tests.conformance.foreign import FinishReason, ThreadedEngine


@pytest.mark.parametrize("profile", ["seed", "strict"])
@pytest.mark.parametrize("drive_abort", [False, True])
def test_the_foreign_engine_conforms(profile: str, drive_abort: bool) -> None:
    assert check_conformance(ThreadedEngine, profile=profile, drive_abort=drive_abort).conforms


def test_the_foreign_engine_conforms_in_the_callers_own_loop() -> None:
    assert asyncio.run(run_conformance(ThreadedEngine, profile="strict")).conforms


def test_the_foreign_engine_is_told_when_it_names_another_reason(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def end(self: Any, output: Any, reason: Any) -> bool:
        output.finish_reason = FinishReason.STOP
        self._put(output)
        return False

    monkeypatch.setattr("tests.conformance.foreign._Job._end", end)
    with pytest.raises(CancellationIgnored):
        check_conformance(ThreadedEngine)
