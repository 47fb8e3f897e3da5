"""Settings of every test, how they are spread over processes and threads, and what they say."""

import atexit
import gc
import os
import signal
import sys
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from hypothesis import settings

from tests import proof
from tests.patience import PATIENCE_S
from tests.warm import WarmPython

# How long an example takes says more about the machine than about the code.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

APART = ("tests/docs/test_pages.py", "tests/trace/test_forks.py")
"""Files whose tests start processes of their own, and so may go to any process of pytest-xdist.
Those of another file stay together, since they share what is dear to make."""

ON_RAY = ("tests/distributed/", "many-machines.md", "[README.md]", "test_one_file.py")
"""What starts a cluster, of which one at a time is enough for this machine."""

# Ray gives its workers the lowest priority but four, a thirtieth of the time of whoever else is
# busy: on a machine that is, they would load for minutes.
os.environ.setdefault("RAY_worker_niceness", "0")
# It ends processes that haven't said within 30 or 60 s that they are there.
for name in ("worker_register_timeout_seconds", "gcs_server_request_timeout_seconds"):
    os.environ.setdefault(f"RAY_{name}", f"{PATIENCE_S}")
os.environ.setdefault("RAY_agent_register_timeout_ms", f"{PATIENCE_S * 1000}")

CHANGED_BY_TESTS = {"inst", "shared_models", "watched"}
"""Fixtures whose value a test changes or runs by itself, and expects to be alone with.
pytest-run-parallel hands one and the same to all of a test's threads."""


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--other-bits",
        action="store_true",
        help="a row's values depend on its batch in their last digits, as on some processors",
    )


def pytest_configure(config: pytest.Config) -> None:
    # What a shell puts into the background ignores Ctrl-C, and so would all that tests start.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
    if config.getoption("other_bits"):
        # It imports torch, which the tests of the core do without.
        from tests import other_bits

        other_bits.begin()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """What is imported stays, so no search for garbage goes through it, neither now nor later."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()
        gc.collect()
        gc.freeze()
        # Libraries look at the end for what was never thrown away.
        atexit.register(gc.unfreeze)


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WarmPython]:
    """A Python that runs what needs torch without importing it each time."""
    with WarmPython(tmp_path_factory.mktemp("warm")) as process:
        yield process


@pytest.fixture(autouse=True)
def puts_back_what_it_changes() -> Iterator[None]:
    """Settings of the process are in the keys of values, so a test leaves them as they were."""
    before = torch_settings()
    yield
    after = torch_settings()
    assert before is None or after == before


def torch_settings() -> Any:
    """What torch was told to compute with; None where nothing has imported it yet."""
    torch = sys.modules.get("torch")
    if torch is None or not hasattr(torch, "_C"):
        return None
    if (precision_of := getattr(torch._C, "_get_fp32_precision_getter", None)) is None:
        precisions = [torch.get_float32_matmul_precision()]
    else:
        precisions = [precision_of(device, "matmul") for device in ("cuda", "mkldnn")]
    return {
        "default dtype": torch.get_default_dtype(),
        "autocast": [torch.is_autocast_enabled(device) for device in ("cpu", "cuda")],
        "precisions": precisions,
        "deterministic": torch.are_deterministic_algorithms_enabled(),
    }


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        file = item.nodeid.partition("::")[0]
        if any(name in item.nodeid for name in ON_RAY):
            item.add_marker(pytest.mark.xdist_group("ray"))
        elif file not in APART:
            item.add_marker(pytest.mark.xdist_group(file))
        shared = CHANGED_BY_TESTS.intersection(getattr(item, "fixturenames", ()))
        if shared:
            reason = f"counts on being alone with {', '.join(sorted(shared))}"
            item.add_marker(pytest.mark.thread_unsafe(reason=reason))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in proof.lines():
        terminalreporter.write_line(line)
