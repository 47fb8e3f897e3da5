"""Claims: tasks go to whoever is free and their results come in order; a worker that dies is
replaced and its task done again; deaths without end, and a worker that can't begin, end the run.
"""

from __future__ import annotations

import json
import os
import signal
import socket
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray

from forwardcache.distributed.team import Team, _connect
from forwardcache.distributed.wire import answer, reply
from forwardcache.errors import InvalidInputError, MachineError, ModelLoadError, WorkerError
from tests.distributed.echo import Shares

pytestmark = pytest.mark.usefixtures("cluster")


class Echo(Shares):
    """A worker without a model."""

    def __init__(self, options: bytes) -> None:
        self._number = int(options)

    def load(self) -> bytes:
        return reply(lambda: {"pid": os.getpid()})

    def die(self, task: bytes) -> bytes:
        """Dies over the task that is the name of no file, and over others the first time."""
        path = Path(json.loads(task))
        if not path.exists():
            if path.parent.exists():
                path.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return reply(lambda: path.name)

    def close(self) -> bytes:
        return reply(lambda: {"missing_events": 5, "warnings": []})


class Stillborn(Echo):
    def load(self) -> bytes:
        os.kill(os.getpid(), signal.SIGKILL)
        return b""


class Unable(Echo):
    def load(self) -> bytes:
        def load() -> None:
            raise ModelLoadError("there is no such folder")

        return reply(load)


def team_of(workers: int, kind: type[Echo] = Echo) -> Team:
    return Team(workers, lambda n: b"%d" % n, address="local", on_gpu=False, kind=kind)


@pytest.fixture
def team() -> Iterator[Team]:
    with team_of(2) as team:
        yield team


def test_results_come_in_order_and_a_slow_worker_does_less(team: Team, tmp_path: Path) -> None:
    while not all(member.facts for member in team.members):
        team._wait(None)
    tasks = [json.dumps([0, str(tmp_path), number]).encode() for number in range(40)]
    found = [answer(one) for one in team.run("share", 40, tasks.__getitem__)]
    assert [task for _, task in found] == list(range(40))
    done = Counter(worker for worker, _ in found)
    assert 0 < 3 * done[0] <= done[1]
    assert team.close() == 10
    assert team.close() == 0


def test_a_team_that_is_closed_asks_ray_for_nothing(
    team: Team, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []
    team.close()
    for name in ("wait", "get", "kill"):
        monkeypatch.setattr(f"ray.{name}", lambda *_, name=name, **__: asked.append(name))
    assert team.close() == 0
    assert not asked, "Ray begins a cluster of its own for whoever has none"


def test_the_work_of_the_dead_is_done_again(team: Team, tmp_path: Path) -> None:
    tasks = [json.dumps(str(tmp_path / f"{number}")).encode() for number in range(5)]
    assert [answer(one) for one in team.run("die", 5, tasks.__getitem__)] == list("01234")
    # Five deaths, five others in their places.
    assert sorted(member.number for member in team.members)[-1] == 6
    assert len(team.members) == 2


def test_a_task_that_kills_whoever_does_it_ends_the_run(team: Team) -> None:
    with pytest.raises(WorkerError, match="part 1 of 1: 3 workers died over it"):
        list(team.run("die", 1, lambda _: b'"/no/such/folder/file"'))


def test_workers_that_die_while_they_begin_end_the_run() -> None:
    with team_of(1, Stillborn) as team, pytest.raises(WorkerError, match="4 workers were started"):
        team.facts()


def test_a_worker_that_can_not_begin_says_why() -> None:
    with team_of(1, Unable) as team, pytest.raises(ModelLoadError, match="no such folder"):
        team.facts()


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:70000"])
def test_a_cluster_that_is_not_there_is_named_at_once(
    address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def init(**_: Any) -> None:
        raise AssertionError("Ray would look for it for long")

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    monkeypatch.setattr(ray, "init", init)
    with pytest.raises(InvalidInputError, match=f"no Ray cluster at '{address}': "):
        Team(1, lambda _: b"", address=address, on_gpu=False, kind=Echo)


def test_a_team_has_a_worker() -> None:
    with pytest.raises(InvalidInputError, match="workers must be at least 1, got 0"):
        team_of(0)


def test_a_cluster_that_answers_and_is_not_joined_may_want_a_token(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(**_: Any) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 192.0.2.1:6390")

    monkeypatch.setattr("ray.init", refuses)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with socket.create_server(("127.0.0.1", 0)) as answering:
        address = f"127.0.0.1:{answering.getsockname()[1]}"
        with pytest.raises(
            InvalidInputError, match=r"wants a token, set .*RAY_AUTH_TOKEN .*auth_token"
        ):
            _connect(address, 1)


def test_a_cluster_that_does_not_start_in_time_is_the_machine_s_failure(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def times_out(**_: Any) -> None:
        raise Exception("The current node timed out during startup.")

    monkeypatch.setattr("ray.init", times_out)
    monkeypatch.setattr("ray.is_initialized", lambda: False)
    with pytest.raises(MachineError, match=r"Ray can't start on this machine: .* timed out"):
        _connect("local", 1)
