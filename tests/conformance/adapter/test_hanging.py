"""Claims: a call that never comes back, plain or async, fails its check and ends the kit, which
waits for it once; one that is late and can be cancelled is only late.
"""

import asyncio
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from forwardcache.conformance.adapter import run as running
from forwardcache.conformance.adapter import subject as asking
from forwardcache.conformance.adapter.ground import Ground
from forwardcache.conformance.adapter.run import check_on
from forwardcache.conformance.adapter.subject import Caller, SubjectRaisedError
from tests.conformance.adapter.toy import Arithmetic, Sound
from tests.patience import PATIENCE_S

SOON_S = 0.05
IDS = (5, 6, 7)


@pytest.fixture
def never() -> Iterator[threading.Event]:
    """What is waited for in vain; threads that do end with the test."""
    event = threading.Event()
    yield event
    event.set()


class Hangs:
    """Has no answer.

    Args:
        never: What it waits for.
    """

    def __init__(self, never: threading.Event) -> None:
        self.never = never
        self.closed = False

    def load_adapter(self, name: str, path: str) -> None:
        """Wait."""
        self.never.wait()

    def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> list[float]:
        """Right, for who may ask."""
        return [-1.0] * (len(token_ids) - 1)

    def close(self) -> None:
        """Be seen."""
        self.closed = True


def test_a_plain_call_that_hangs_is_left_behind(never: threading.Event) -> None:
    engine = Hangs(never)
    caller = Caller(engine, SOON_S)
    with pytest.raises(SubjectRaisedError, match=r"load_adapter gave no answer within 0\.05 s"):
        caller.load("mine", "folder")
    assert caller.hangs == "load_adapter"
    with pytest.raises(SubjectRaisedError, match="was not called: load_adapter never came back"):
        caller.logprobs(IDS, None)
    caller.close()
    assert not engine.closed


def test_plain_calls_come_from_one_thread_that_outlives_errors() -> None:
    class Tells(Hangs):
        def load_adapter(self, name: str, path: str) -> None:
            self.thread = threading.current_thread()
            raise SystemExit(name)

        def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> list[float]:
            assert threading.current_thread() is self.thread
            return super().logprobs(token_ids, adapter=adapter)

    engine = Tells(threading.Event())
    caller = Caller(engine, PATIENCE_S)
    with pytest.raises(SubjectRaisedError, match="load_adapter raised SystemExit: mine"):
        caller.load("mine", "folder")
    assert caller.logprobs(IDS, None).tolist() == [-1.0, -1.0]
    caller.close()
    assert engine.closed


def test_several_at_once_are_waited_for_together(never: threading.Event) -> None:
    class Waits(Hangs):
        def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> list[float]:
            if adapter:
                self.never.wait()
            return super().logprobs(token_ids, adapter=adapter)

    def asks_both() -> bool:
        """Whether the one that answers has; a busy machine may be too slow for that."""
        caller = Caller(Waits(never), SOON_S)
        late, right = caller.together([(IDS, "mine"), (IDS, None)])
        assert "gave no answer" in str(late)
        assert caller.hangs is not None
        return not isinstance(right, SubjectRaisedError)

    assert any(asks_both() for _ in range(20))


class Late(Hangs):
    """Async."""

    async def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:  # type: ignore[override]
        """Never comes, with an adapter."""
        if adapter:
            await self.wait()
        return super().logprobs(token_ids)

    async def wait(self) -> None:
        """Wait as a good guest of the loop does."""
        await asyncio.Event().wait()


class Blocks(Late):
    """Keeps the loop."""

    async def wait(self) -> None:
        """Wait as one shouldn't."""
        self.never.wait()


def test_an_awaitable_that_is_late_is_cancelled_and_others_are_asked(
    never: threading.Event,
) -> None:
    caller = Caller(Late(never), SOON_S)
    with pytest.raises(SubjectRaisedError, match="logprobs gave no answer"):
        caller.logprobs(IDS, "mine")
    assert caller.hangs is None
    caller._timeout = PATIENCE_S
    assert caller.logprobs(IDS, None).tolist() == [-1.0, -1.0]
    caller.close()


def test_an_awaitable_that_blocks_its_loop_is_left_behind(
    never: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "_ALIVE_S", SOON_S)
    caller = Caller(Blocks(never), SOON_S)
    with pytest.raises(SubjectRaisedError, match="logprobs gave no answer"):
        caller.logprobs(IDS, "mine")
    assert caller.hangs == "what blocks the event loop"


def test_the_kit_ends_with_the_check_in_which_an_engine_hangs(
    ground: Ground,
    arithmetic: Arithmetic,
    never: threading.Event,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class HangsWithAnAdapter(Sound):
        def load_adapter(self, name: str, path: str) -> None:
            super().load_adapter(name, path)
            caller._timeout = SOON_S

        def logprobs(self, token_ids: list[int], *, adapter: str | None = None) -> Any:
            if adapter is not None:
                never.wait()
            return super().logprobs(token_ids, adapter=adapter)

    caller = Caller(HangsWithAnAdapter(arithmetic), PATIENCE_S)
    monkeypatch.setattr(running, "made", lambda *_: caller)
    report = check_on(ground, object)
    seen = {each.check: (each.outcome, each.reason) for each in report.results}
    [failure] = report.failures()
    assert (failure.check, type(failure).__name__) == ("all_linear", "SubjectFailed")
    assert "logprobs gave no answer within" in str(failure)
    # It rests on nothing that has failed.
    assert seen["base_kept"] == ("not_run", "the engine hangs: logprobs never came back")
    assert seen["base"][0] == "passed"


IN_NATIVE_CODE = """
import torch
from forwardcache.conformance.adapter.worker import Worker
from forwardcache.conformance.guard import OverdueError
from forwardcache.conformance.leaving import leave
torch.set_num_threads(1)
def hangs():
    square = torch.ones(200, 200)
    while True:
        square @ square
try:
    Worker().run(hangs, 0.2)
except OverdueError:
    leave(3)
"""


def test_a_call_left_behind_in_native_code_does_not_change_the_exit_status() -> None:
    command = [sys.executable, "-c", IN_NATIVE_CODE]
    done = subprocess.run(command, capture_output=True, timeout=PATIENCE_S, check=False)
    assert done.returncode == 3, done.stderr.decode()
