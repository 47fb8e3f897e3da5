"""Real engines under the engine kit: ours passes both profiles, and what others write over
transformers gets the verdict that it deserves.
"""

from typing import Any

import pytest

from forwardcache.conformance import CancellationNotObserved, check_conformance
from forwardcache.hf import HFEngine
from tests.hf.conftest import MakeBackend
from tests.hf.foreign_engines import ContinuousBatchingEngine, GenerateEngine


class Unstartable(HFEngine):
    """Fails when its worker runs already."""

    async def start(self, worker_id: int) -> Any:
        await super().start(worker_id)
        raise OSError("no memory left on the device")


@pytest.mark.parametrize("name", ["llama+lora", "gpt2+lora"])
@pytest.mark.parametrize("view", ["base", "ft", "scaled:0.5"])
@pytest.mark.parametrize("profile", ["seed", "strict"])
def test_our_engine_conforms(make_backend: MakeBackend, name: str, view: str, profile: str) -> None:
    backend = make_backend(name)
    report = check_conformance(
        lambda: HFEngine(backend, view=view),
        profile=profile,
        failing_factory=lambda: Unstartable(backend, view=view),
    )
    assert report.conforms
    skipped = [result.check for result in report.results if result.outcome == "skipped"]
    # An async generator opens at its first step, so nothing can be cancelled while it opens.
    assert skipped in ([], ["cancel_while_opening"])


def test_generate_with_a_streamer_and_stopping_criteria_conforms() -> None:
    assert check_conformance(GenerateEngine).conforms


def test_generate_without_stopping_criteria_does_not_observe_cancellation() -> None:
    def factory() -> GenerateEngine:
        return GenerateEngine(heeds_stop=False, longest=2_000)

    with pytest.raises(CancellationNotObserved):
        check_conformance(factory, cancel_deadline=0.3)


def test_continuous_batching_with_a_cancelled_chunk_of_its_own_conforms() -> None:
    assert check_conformance(ContinuousBatchingEngine).conforms
