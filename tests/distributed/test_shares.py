"""Claims: workers of this machine share its cores and GPUs, each what it is told of; what the
environment says of either is kept; one line says who has what.
"""

from __future__ import annotations

from typing import Any

import pytest

from forwardcache.distributed import shares
from forwardcache.distributed.shares import Shares, visible_gpus


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shares, "cores", lambda: 16)
    monkeypatch.setattr(shares, "_gpus_of_this_machine", lambda: 8)


@pytest.mark.parametrize(
    ("workers", "options", "environment", "said"),
    [
        (1, {}, {}, "1 worker on this machine: 16 threads"),
        (3, {}, {}, "3 workers on this machine: 5 threads each"),
        (32, {}, {}, "32 workers on this machine: 1 thread each"),
        (2, {"worker_cpus": 3}, {}, "2 workers on this machine: 3 threads each"),
        (
            *(2, {}, {"OMP_NUM_THREADS": "4,2"}),
            "2 workers on this machine: 4 threads each (as OMP_NUM_THREADS says)",
        ),
        (
            *(2, {"worker_cpus": 3}, {"OMP_NUM_THREADS": "4"}),
            "2 workers on this machine: 3 threads each",
        ),
        (2, {}, {"OMP_NUM_THREADS": "many"}, "2 workers on this machine: 8 threads each"),
        (1, {"on_gpu": True}, {}, "1 worker on this machine: 16 threads, GPU 0"),
        (2, {"on_gpu": True}, {}, "2 workers on this machine: 8 threads each, GPU 0 and 1"),
        (8, {"on_gpu": True}, {}, "8 workers on this machine: 2 threads each, GPU 0 to 7"),
        (
            *(16, {"on_gpu": True}, {}),
            "16 workers on this machine: 1 thread each, GPU 0 to 7, each for 2 of them",
        ),
        (
            *(3, {"on_gpu": True}, {"CUDA_VISIBLE_DEVICES": "5,GPU-a"}),
            "3 workers on this machine: 5 threads each, GPU 5 and GPU-a, each for 1 or 2 of them",
        ),
        (
            *(4, {"on_gpu": True}, {"CUDA_VISIBLE_DEVICES": ""}),
            "4 workers on this machine: 4 threads each",
        ),
    ],
)
def test_who_has_what_is_said(
    workers: int, options: dict[str, Any], environment: dict[str, str], said: str
) -> None:
    found = shares.shares(workers, **{"on_gpu": False, **options}, environment=environment)
    assert str(found) == said


def test_a_worker_is_told_of_its_share_and_one_in_its_place_of_the_same() -> None:
    found = Shares(3, 5, gpus=("5", "GPU-a"))
    told = [found.environment(place) for place in range(3)]
    assert told == [
        {"OMP_NUM_THREADS": "5", "CUDA_VISIBLE_DEVICES": gpu} for gpu in ("5", "GPU-a", "5")
    ]
    assert Shares(3, 5, is_set=True).environment(0) == {}


def test_gpus_are_those_before_the_first_that_is_none() -> None:
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "2, 0,-1,3"}) == ("2", "0")
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "MIG-1"}) == ("MIG-1",)
    assert visible_gpus({"CUDA_VISIBLE_DEVICES": "-1"}) == ()


class Driver:
    """What the driver of NVIDIA has, as far as it is asked."""

    def __init__(self, count: int, works: bool = True) -> None:
        self.count, self.works, self.calls = count, works, 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0 if self.works else 9

    def nvmlDeviceGetCount_v2(self, into: Any) -> int:  # noqa: N802
        into._obj.value = self.count
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        return 0


def test_gpus_are_counted_by_their_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver(3))
    assert visible_gpus({}) == ("0", "1", "2")
    monkeypatch.setattr("ctypes.CDLL", lambda _: Driver(3, works=False))
    assert visible_gpus({}) == ()

    def missing(name: str) -> Any:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr("ctypes.CDLL", missing)
    assert visible_gpus({}) == ()
