"""Claims: a server that loads adapters while it runs is checked over a connection, by vLLM's
endpoints and by SGLang's; a sound one passes, a fault behind it keeps its name, and one that loads
none is said to.
"""

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import pytest

from forwardcache.__main__ import main
from forwardcache.conformance.adapter import run as running
from forwardcache.conformance.adapter.checks import checks_of
from forwardcache.conformance.adapter.ground import Ground
from forwardcache.conformance.adapter.run import judged
from forwardcache.conformance.adapter.session import Session
from forwardcache.conformance.adapter.subject import Caller
from forwardcache.conformance.http import CompletionClient, HttpSubject
from tests.conformance.adapter import faults, prefix_faults
from tests.conformance.adapter.served import BASE_NAME, Served
from tests.conformance.adapter.toy import Arithmetic, Ours, Sound
from tests.conformance.server.conftest import listening
from tests.patience import PATIENCE_S

Serve = Callable[[Served], str]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Serves until the test ends; gives the address."""
    with ExitStack() as stack:
        yield lambda server: stack.enter_context(listening(server))


@pytest.fixture
def check(
    ground: Ground,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Callable[[str], tuple[int, dict[str, Any]]]:
    """Exit status and report of the command line for the server at an address."""
    monkeypatch.setattr(running, "ground_of", lambda *_: nullcontext(ground))

    def run(url: str) -> tuple[int, dict[str, Any]]:
        asked = ["check", "adapter", url, "--model", str(folder), "--model-name", BASE_NAME]
        code = main([*asked, "--format", "json"])
        return code, json.loads(capsys.readouterr().out)

    return run


@pytest.mark.parametrize("like_sglang", [False, True], ids=["vllm", "sglang"])
def test_a_sound_server_passes(
    like_sglang: bool, arithmetic: Arithmetic, serve: Serve, check: Any
) -> None:
    server = Served(Sound(arithmetic), like_sglang=like_sglang)
    code, report = check(serve(server))
    assert (code, report["conforms"]) == (0, True)
    outcomes = {each["check"]: each["outcome"] for each in report["checks"]}
    for name in ("all_linear", "two_adapters", "reload", "concurrency", "prefixes"):
        assert outcomes[name] == "passed"
    assert server.loaded == set()


def test_a_server_over_our_own_backend_passes(
    ground: Ground, arithmetic: Arithmetic, serve: Serve
) -> None:
    url = serve(Served(Ours(arithmetic.model)))
    caller = Caller(HttpSubject(CompletionClient(url, BASE_NAME)), PATIENCE_S)
    session = Session(caller, ground)
    asked = ("base", "two_adapters", "reload_after_unload")
    found = [judged(each, session) for each in checks_of("quick") if each.name in asked]
    assert {each.check: each.outcome for each in found} == dict.fromkeys(asked, "passed")
    caller.close()


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        (faults.LastLoadedForAll, "AdaptersMixed"),
        (prefix_faults.PrefixOfAnotherAdapter, "DependsOnPrefix"),
    ],
)
def test_a_fault_behind_a_server_keeps_its_name(
    kind: type[Sound], name: str, arithmetic: Arithmetic, serve: Serve, check: Any
) -> None:
    code, report = check(serve(Served(kind(arithmetic))))
    names = {failure["name"] for each in report["checks"] for failure in each["failures"]}
    assert (code, names) == (1, {name})


class LoadsNone(Served):
    def _handled(self, path: str, body: dict[str, Any]) -> tuple[int, str, str]:
        return super()._handled("/" if "lora" in path else path, body)


def test_a_server_that_loads_none_is_said_to(
    arithmetic: Arithmetic, serve: Serve, check: Any
) -> None:
    code, report = check(serve(LoadsNone(Sound(arithmetic))))
    assert code == 1
    failure = next(failure for each in report["checks"] for failure in each["failures"])
    assert (failure["check"], failure["name"]) == ("all_linear", "SubjectFailed")
    assert "loads no adapters while it runs: start the server with" in failure["message"]
