"""Claims: results come out in order, or as they are done; a free worker gets the next task, a lost
task is done again first, nothing runs too far ahead, and a task that kills its workers ends the
run; what is expected last is given a second time to who would be done sooner, and counts once.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from forwardcache.distributed.schedule import Schedule
from forwardcache.errors import WorkerError


def result(task: int) -> bytes:
    return b"%d" % task


def test_results_come_in_order_whatever_order_they_are_done_in() -> None:
    numbers = random.Random(1)
    schedule = Schedule(range(50), ahead=7)
    running: list[int] = []
    found: list[tuple[int, bytes]] = []
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
    assert found == [(task, result(task)) for task in range(50)]


def test_results_come_as_they_are_done_where_no_order_is_asked_for() -> None:
    schedule = Schedule(range(5))
    assert [schedule.take(worker) for worker in range(5)] == [0, 1, 2, 3, 4]
    for task in (3, 0):
        assert schedule.finish(task, result(task), worker=task)
    assert list(schedule.ready()) == [(3, b"3"), (0, b"0")]
    assert list(schedule.ready()) == []
    assert not schedule.is_done


def test_tasks_are_read_one_ahead_and_kept_until_they_are_done() -> None:
    read: list[int] = []

    def tasks() -> Iterator[str]:
        for number in range(10):
            read.append(number)
            yield f"task {number}"

    schedule = Schedule(tasks())
    assert schedule.take() == 0
    assert read == [0, 1]
    assert schedule.task(0) == "task 0"
    schedule.finish(0, b"")
    assert list(schedule.ready()) == [("task 0", b"")]
    with pytest.raises(KeyError):
        schedule.task(0)


def test_a_lost_task_is_the_next_one_given() -> None:
    schedule = Schedule(range(5), ahead=5)
    assert [schedule.take() for _ in range(3)] == [0, 1, 2]
    schedule.lose(1)
    assert [schedule.take() for _ in range(2)] == [1, 3]


def test_no_task_is_given_too_far_ahead() -> None:
    schedule = Schedule(range(5), ahead=2)
    assert [schedule.take() for _ in range(3)] == [0, 1, None]
    schedule.finish(1, result(1))
    assert list(schedule.ready()) == []
    assert schedule.take() is None
    schedule.finish(0, result(0))
    assert list(schedule.ready()) == [(0, result(0)), (1, result(1))]
    assert schedule.take() == 2


@pytest.mark.parametrize("tasks", [range(2), iter(range(2))], ids=["counted", "not counted"])
def test_a_task_that_kills_three_workers_ends_the_run(tasks: Iterator[int] | range) -> None:
    schedule = Schedule(tasks, ahead=2)
    for _ in range(2):
        assert schedule.take() == 0
        schedule.lose(0)
    assert schedule.take() == 0
    of = " of 2" if isinstance(tasks, range) else ""
    with pytest.raises(WorkerError, match=f"part 1{of}: 3 workers died"):
        schedule.lose(0)


def test_nothing_to_do_is_done() -> None:
    assert Schedule(range(0), ahead=1).is_done
    assert Schedule(iter(()), ahead=None).is_done


def used_to(schedule: Schedule[int], paces_s: dict[int, float]) -> None:
    """Each worker takes a task and is done after its time."""
    for worker, pace_s in paces_s.items():
        task = schedule.take(worker, 0.0)
        assert task is not None
        schedule.finish(task, b"", worker, pace_s)
    list(schedule.ready())


def test_what_is_done_last_is_given_to_who_is_quicker_and_counts_once() -> None:
    schedule = Schedule(range(6), copies=True)
    used_to(schedule, {0: 10.0, 1: 9.0, 2: 1.0})
    assert [schedule.take(worker, 10.0) for worker in range(3)] == [3, 4, 5]
    schedule.finish(5, b"", 2, 11.0)
    # It would be done at 12, task 3 at 20 and task 4 at 19.
    assert schedule.take(2, 11.0) == 3
    # There is nothing better to do for who is slow.
    schedule.finish(4, b"", 1, 11.5)
    assert schedule.take(1, 11.5) is None
    assert schedule.finish(3, b"second", 2, 12.0)
    assert not schedule.finish(3, b"first", 0, 20.0)
    assert [task for task, _ in schedule.ready()] == [5, 4, 3]
    assert schedule.is_done


def test_who_is_as_quick_copies_only_what_is_late() -> None:
    schedule = Schedule(range(4), copies=True)
    used_to(schedule, {0: 2.0, 1: 2.0})
    assert [schedule.take(worker, 2.0) for worker in range(2)] == [2, 3]
    schedule.finish(3, b"", 1, 4.0)
    assert schedule.take(1, 4.2) is None
    assert schedule.take(1, 4.6) == 2
    assert Schedule(range(1), copies=True).take(0, 0.0) == 0


def test_there_are_no_copies_where_none_are_asked_for_or_nobody_knows_how_long_a_task_takes() -> (
    None
):
    schedule = Schedule(range(4))
    used_to(schedule, {0: 10.0, 1: 1.0})
    assert [schedule.take(worker, 10.0) for worker in range(3)] == [2, 3, None]
    untried = Schedule(range(1), copies=True)
    assert [untried.take(worker, float(worker)) for worker in range(2)] == [0, None]


def test_a_copy_outlives_the_first_and_the_first_a_copy() -> None:
    for dead, other in ((0, 1), (1, 0)):
        schedule = Schedule(range(3), copies=True)
        used_to(schedule, {0: 10.0, 1: 1.0})
        assert [schedule.take(worker, 10.0) for worker in range(2)] == [2, 2]
        schedule.lose(2, dead)
        assert schedule.finish(2, b"whose", other, 11.0)
        assert list(schedule.ready()) == [(2, b"whose")]
        assert schedule.is_done


def test_in_order_what_all_would_soon_wait_for_is_copied() -> None:
    schedule = Schedule(range(20), ahead=6, copies=True)
    used_to(schedule, {0: 10.0, 1: 1.0})
    assert schedule.take(0, 10.0) == 2
    for task in (3, 4, 5):
        assert schedule.take(1, 10.0) == task
        schedule.finish(task, b"", 1, 11.0)
    # Two more, and nobody could go on before 20.
    assert schedule.take(1, 11.0) == 2
    schedule.finish(2, b"", 1, 12.0)
    assert [task for task, _ in schedule.ready()] == [2, 3, 4, 5]
    assert schedule.take(1, 12.0) == 6


def in_order_behind_a_slow_one(began_s: float) -> Schedule[int]:
    """Workers that take 1, 1, 4 and 10 s; the last has task 4, which all would soon wait for."""
    schedule = Schedule(range(30), ahead=12, copies=True)
    used_to(schedule, {3: 10.0, 2: 4.0, 1: 1.0, 0: 1.0})
    assert schedule.take(3, began_s) == 4
    for number in range(5, 12):
        assert schedule.take(0, began_s) == number
        schedule.finish(number, b"", 0, began_s + 1.0)
    return schedule


def test_in_order_what_all_would_soon_wait_for_is_not_left_to_another_slow_one() -> None:
    schedule = in_order_behind_a_slow_one(10.0)
    assert schedule.take(2, 11.0) == 12
    assert schedule.take(1, 11.0) == 4


def test_in_order_a_slow_one_does_what_all_wait_for_if_there_is_nothing_else() -> None:
    schedule = in_order_behind_a_slow_one(10.0)
    # Both quick ones are stuck or dead, so tasks 12 to 15 are the last that may be given.
    given = [schedule.take(worker, 11.0) for worker in (0, 1)]
    assert given == [4, 12]
    assert [schedule.take(2, 11.0 + 4.0 * number) for number in range(4)] == [13, 14, 15, 4]


def test_in_order_what_may_take_longer_than_usual_is_copied_once() -> None:
    schedule = in_order_behind_a_slow_one(10.0)
    # Usually it would be done half a second later, but tasks differ.
    assert schedule.take(1, 19.5) == 4
    assert schedule.take(0, 19.5) == 12


def test_the_quickest_are_asked_first() -> None:
    schedule = Schedule(range(9))
    used_to(schedule, {5: 3.0, 4: 1.0, 7: 2.0})
    assert schedule.quickest_first([5, 7, 4]) == [4, 7, 5]
