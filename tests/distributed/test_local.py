"""Claims: processes of this machine do what actors of Ray do: whoever is free takes the next task,
results come in order or as they are done, a worker that dies is replaced and its task done again,
what one is stuck with another one does at the end; a worker that can't start ends the run with its
last line; no worker outlives its driver.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from forwardcache.distributed.local import LocalCrew
from forwardcache.distributed.wire import answer
from forwardcache.errors import InvalidInputError, WorkerError
from tests.distributed.echo import Broken, Echo
from tests.patience import PATIENCE_S

ROOT = Path(__file__).parents[2]


def crew_of(workers: int, kind: type[Echo] = Echo, *, copies: bool = False) -> LocalCrew:
    return LocalCrew(workers, lambda n: b"%d" % n, on_gpu=False, kind=kind, copies=copies)


@pytest.fixture(scope="module")
def two() -> Iterator[LocalCrew]:
    """Two workers that are there; each test leaves two that are, and in the end none is."""
    with crew_of(2, copies=True) as crew:
        all_there(crew)
        yield crew
        # Who is at work isn't asked.
        all_free(crew)
        processes = [member.process for member in crew.members]
        assert (crew.close(), crew.close()) == (10, 0)
        assert len(processes) == 2
        assert all(process.returncode is not None for process in processes)


@pytest.fixture
def crew(two: LocalCrew) -> LocalCrew:
    """Two workers that are there and have nothing to do."""
    all_free(two)
    return two


def all_there(crew: LocalCrew) -> None:
    while not all(member.facts for member in crew.members):
        crew._wait(None)


def all_free(crew: LocalCrew) -> None:
    # A second copy that nobody waits for may go on.
    while crew._running:
        crew._wait(None)


def test_what_workers_warn_of_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    with crew_of(2) as crew:
        all_there(crew)
        assert caplog.messages == ["both say so"]
        crew.close()
    assert caplog.messages == ["both say so", "both say so at the end"]


def test_results_come_in_order_and_a_slow_worker_does_less(
    crew: LocalCrew, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the slow one does another one could have done before.
    monkeypatch.setattr(crew, "_copies", False)
    slow, quick = sorted(member.number for member in crew.members)
    tasks = [json.dumps([slow, str(tmp_path), number]).encode() for number in range(40)]
    found = [answer(one) for one in crew.run("share", 40, tasks.__getitem__)]
    assert [task for _, task in found] == list(range(40))
    done = Counter(worker for worker, _ in found)
    assert 0 < 3 * done[slow] <= done[quick]


def test_tasks_are_read_as_they_are_given_and_come_back_with_their_results(crew: LocalCrew) -> None:
    read: list[str] = []

    def tasks() -> Iterator[str]:
        for number in range(30):
            read.append(str(number))
            yield str(number)

    stream = crew.stream("echo", tasks(), str.encode)
    first = [next(stream), next(stream)]
    # Those that are done, two that run, one ahead; a few may have come at once.
    assert len(read) < 10
    found = [*first, *stream]
    assert sorted(found) == sorted(set(found))
    assert all(answer(result)[1] == int(task) for task, result in found)
    assert {task for task, _ in found} == set(read)
    assert len(found) == 30


def test_a_message_of_any_size_arrives(crew: LocalCrew) -> None:
    tasks = [bytes(3 << 20), b"", b"\0\n" * 7]
    found = list(crew.stream("size", tasks, bytes, ordered=True))
    assert found == [(task, len(task).to_bytes(8, "big") + task) for task in tasks]


def test_what_one_worker_is_stuck_with_another_one_does(crew: LocalCrew, tmp_path: Path) -> None:
    paths = [tmp_path / str(number) for number in range(7)]
    for path in paths:
        path.write_text("hang" if path == paths[-1] else "")
    tasks = [json.dumps(str(path)).encode() for path in paths]
    assert [task for task, _ in crew.stream("hang", tasks, bytes, ordered=True)] == tasks
    # Who hangs has no part in what follows, until he is done with what nobody waits for.
    assert len(crew._running) == 1
    found = [answer(one) for one in crew.run("echo", 3, lambda n: b"%d" % n)]
    assert [task for _, task in found] == [0, 1, 2]
    paths[-1].unlink()
    all_free(crew)


def test_the_work_of_the_dead_is_done_again(
    crew: LocalCrew, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = crew._hired
    task = json.dumps(str(tmp_path / "file")).encode()
    assert [answer(one) for one in crew.run("die", 1, lambda _: task)] == ["file"]
    assert crew._hired == before + 1
    assert sorted(member.place for member in crew.members) == [0, 1]
    said = {record.getMessage().partition(" died ")[2] for record in caplog.records}
    assert said == {"(SIGKILL): the last words; another one takes its place"}
    all_there(crew)


def test_workers_share_the_cores_and_are_no_part_of_the_terminals_group(crew: LocalCrew) -> None:
    threads = {member.facts["given"]["OMP_NUM_THREADS"] for member in crew.members}
    assert threads == {str(crew._shares.threads)}
    assert f"2 workers on this machine: {crew._shares.threads} thread" in crew.shared_out
    groups = {os.getpgid(member.process.pid) for member in crew.members}
    assert os.getpgid(0) not in groups
    # A file of the folder that one starts in is not imported instead of a library.
    assert all("" not in member.facts["path"] for member in crew.members)


def test_a_workers_share_counts_more_than_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, str]] = []

    def popen(*_: object, env: dict[str, str], **__: object) -> None:
        told.append(env)
        raise OSError("seen")

    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    monkeypatch.setattr(subprocess, "Popen", popen)
    with pytest.raises(InvalidInputError, match="can't be started: seen"):
        LocalCrew(2, lambda _: b"", on_gpu=True, worker_cpus=3)
    [env] = told
    assert (env["OMP_NUM_THREADS"], env["CUDA_VISIBLE_DEVICES"]) == ("3", "4")


def test_workers_that_can_not_start_end_the_run_with_their_last_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("forwardcache.distributed.crew._REPLACEMENTS", 0)
    # Its last words come before its end, which takes as long as it takes.
    monkeypatch.setattr("forwardcache.distributed.local._ENDING_S", PATIENCE_S)
    with crew_of(1, Broken) as crew, pytest.raises(WorkerError) as raised:
        crew.facts()
    assert str(raised.value) == (
        "1 workers were started for 1, and died (exit status 1): "
        "ImportError: no library for worker 0"
    )


def test_a_crew_has_a_worker_and_an_interpreter(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidInputError, match="workers must be at least 1, got 0"):
        crew_of(0)
    with pytest.raises(InvalidInputError, match="worker_cpus must be at least 1, got 0"):
        LocalCrew(1, lambda _: b"", on_gpu=False, worker_cpus=0)
    monkeypatch.setattr(sys, "executable", "/no/such/python")
    with pytest.raises(InvalidInputError, match=r"can't be started: .*No such file"):
        crew_of(1)
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(InvalidInputError, match=r"sys\.executable is empty"):
        crew_of(1)


DRIVER = """
import os, time
from tests.distributed.test_local import all_there, crew_of
crew = crew_of(2)
all_there(crew)
if (child := os.fork()) == 0:
    # It has the driver's ends of all sockets.
    time.sleep({long})
[one, other] = crew.members
crew._call(one, "hang", b'"{path}"')
print(child, one.process.pid, other.process.pid, flush=True)
time.sleep({long})
"""


def is_there(pid: int) -> bool:
    """Whether a process runs; one that nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="what runs is asked of /proc")
def test_no_worker_outlives_its_driver_busy_or_not(tmp_path: Path) -> None:
    (path := tmp_path / "file").write_text("hang")
    code = DRIVER.format(long=PATIENCE_S, path=path)
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as driver:
        assert driver.stdout is not None
        child, *workers = map(int, driver.stdout.readline().split())
        try:
            assert all(map(is_there, workers))
            driver.kill()
            end_s = time.monotonic() + PATIENCE_S / 2
            while any(map(is_there, workers)) and time.monotonic() < end_s:
                time.sleep(0.05)
            assert not any(map(is_there, workers))
        finally:
            os.kill(child, signal.SIGKILL)
