"""Claims: on simulated workers, some of them slow, stopping or dying, under drivers that die, the
schedule loses no chunk and doubles none, gives each its own result, keeps the order where one is
asked for, and is done within 5 % of the ideal (``tools/simulate.py`` says what that is); a schedule
that breaks one of these is noticed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from heapq import heappush
from typing import Any

import pytest

from forwardcache.distributed.schedule import Schedule
from tools import simulate
from tools.simulate import Broken, Machine, check, draw, ideal_s, main

NEVER = float("inf")
# Jobs that an earlier schedule was too slow for: it copied nothing before all else was done, too
# late where many workers stopped, only what was half as long again as usual, also by slow workers.
KEPT = (116, 328, 446, 492, 992, 2078, 7355)


def check_all(seeds: Iterable[int], most_workers: int) -> None:
    for seed in seeds:
        check(draw(seed, most_workers))


def test_small_jobs_are_done_whole_and_in_time() -> None:
    check_all(range(200), most_workers=6)


def test_a_job_that_was_too_slow_once_is_in_time() -> None:
    check_all(KEPT, most_workers=1000)


class Forgetful(Schedule[int]):
    """What a worker dies over is nobody's."""

    def lose(self, number: int, worker: int = 0) -> None:
        super().lose(number, worker)
        if number in self._lost:
            self._lost.remove(number)
            del self._held[number]


class Doubling(Schedule[int]):
    """Each result is handed out twice."""

    def ready(self) -> Iterator[tuple[int, bytes]]:
        for each in super().ready():
            yield from (each, each)


class Again(Schedule[int]):
    """What is done is given once more."""

    def finish(self, number: int, result: bytes, worker: int = 0, now_s: float = 0.0) -> bool:
        task = self._held.get(number, -1)
        is_first = super().finish(number, result, worker, now_s)
        if is_first:
            self._held[number] = task
            heappush(self._lost, number)
        return is_first


class Confused(Schedule[int]):
    """A result is the one of the task before."""

    before = b"0"

    def finish(self, number: int, result: bytes, worker: int = 0, now_s: float = 0.0) -> bool:
        result, self.before = self.before, result
        return super().finish(number, result, worker, now_s)


class Hasty(Schedule[int]):
    """Results come as they are done, whatever was asked for."""

    def ready(self) -> Iterator[tuple[int, bytes]]:
        while self._results:
            yield self._results.pop(next(iter(self._results)))
        self._next = self._given


class Single(Schedule[int]):
    """There is no second copy."""

    def __init__(self, tasks: Iterable[int], *, ahead: int | None, copies: bool) -> None:
        super().__init__(tasks, ahead=ahead)


class Late(Schedule[int]):
    """In order, nothing is copied before all else is done."""

    def _urgent(self, worker: int, now_s: float) -> int | None:
        return None


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Forgetful, "are lost"),
        (Doubling, "handed out twice"),
        (Again, "is done again, and its receipt was kept"),
        (Confused, "has the result"),
        (Hasty, "comes after"),
        (Single, "times the ideal"),
        (Late, "times the ideal"),
    ],
)
def test_a_schedule_that_breaks_a_claim_is_noticed(
    kind: type[Any], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simulate, "Schedule", kind)
    with pytest.raises(Broken, match=words):
        check_all(range(200), most_workers=30)


def test_the_ideal_counts_loading_stops_deaths_and_what_comes_after_a_driver() -> None:
    machine = Machine(2.0, 1.0, stops=((3.0, 5.0), (8.5, 9.0)), deaths=(8.0,))
    # It works from 1 to 3, from 5 to 8 and, as loading stops as well, from 9.5 on.
    assert machine.works(1.0, 8.0) == 5.0
    assert machine.end_of(2.0, 2.0) == 6.0
    alone = [((machine,), NEVER)]
    assert [ideal_s(work, alone) for work in (2.0, 4.0, 5.0, 10.0, 11.0)] == [2, 3, 5.5, 8, 10]
    steady = Machine(1.0, 0.0)
    assert ideal_s(12.0, [((steady, machine), 4.0), ((steady,), NEVER)]) == 8.0


def test_seeds_that_fail_are_told_and_can_be_run_again(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["--seed", "1"]) == 0
    assert "Outcome(" in capsys.readouterr().out
    assert main(["--scenarios", "3"]) == 0
    assert "3 jobs with" in capsys.readouterr().out
    monkeypatch.setattr(simulate, "BOUND", 1.008)
    assert main(["--scenarios", "2", "--first", "5"]) == 1
    told = capsys.readouterr().out
    assert told.startswith("seed 6 (")
    assert "1 broke a claim" in told
