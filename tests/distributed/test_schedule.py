"""Claims: results come out in order, a free worker gets the next task, a lost task is done again
first, nothing runs too far ahead, and a task that kills its workers ends the run.
"""

from __future__ import annotations

import random

import pytest

from forwardcache.distributed.schedule import Schedule
from forwardcache.errors import WorkerError


def result(task: int) -> bytes:
    return b"%d" % task


def test_results_come_in_order_whatever_order_they_are_done_in() -> None:
    numbers = random.Random(1)
    schedule = Schedule(50, ahead=7)
    running: list[int] = []
    found: list[bytes] = []
    while not schedule.is_done:
        while (task := schedule.take()) is not None:
            running.append(task)
        task = running.pop(numbers.randrange(len(running)))
        if numbers.random() < 0.2 and task % 3:
            try:
                schedule.lose(task)
            except WorkerError:
                schedule.finish(task, result(task))
        else:
            schedule.finish(task, result(task))
        found += schedule.ready()
    assert found == [result(task) for task in range(50)]


def test_a_lost_task_is_the_next_one_given() -> None:
    schedule = Schedule(5, ahead=5)
    assert [schedule.take() for _ in range(3)] == [0, 1, 2]
    schedule.lose(1)
    assert [schedule.take() for _ in range(2)] == [1, 3]


def test_no_task_is_given_too_far_ahead() -> None:
    schedule = Schedule(5, ahead=2)
    assert [schedule.take() for _ in range(3)] == [0, 1, None]
    schedule.finish(1, result(1))
    assert list(schedule.ready()) == []
    assert schedule.take() is None
    schedule.finish(0, result(0))
    assert list(schedule.ready()) == [result(0), result(1)]
    assert schedule.take() == 2


def test_a_task_that_kills_three_workers_ends_the_run() -> None:
    schedule = Schedule(2, ahead=2)
    for _ in range(2):
        assert schedule.take() == 0
        schedule.lose(0)
    assert schedule.take() == 0
    with pytest.raises(WorkerError, match="part 1 of 2: 3 workers died"):
        schedule.lose(0)


def test_nothing_to_do_is_done() -> None:
    assert Schedule(0, ahead=1).is_done
