"""Kills worker, driver or both at random moments of a job of parts; what it ends with is the same.

``python -m tools.kill_parts --kills 500 --seed 0`` runs real Ray with two workers in one cluster of
this machine; with ``--local`` the workers are processes without Ray. Each job is begun, killed some
times, gone on with until it is done, and merged; the merged file must be the one that one process
writes, byte for byte but for ``hit``. What is killed and when is drawn from the seed; where a kill
lands is the machine's doing. The model is a stand-in (``tools.stand_in``), so that most of the time
is spent on what can go wrong.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import forwardcache
from forwardcache.__main__ import main
from forwardcache.cli import score_parts, score_summary, tables  # noqa: F401 - for every fork
from forwardcache.distributed.local import LocalCrew
from forwardcache.distributed.parts.merge import merge
from forwardcache.distributed.parts.opening import open_folder
from forwardcache.distributed.team import Team
from forwardcache.jobs import differences, job  # noqa: F401
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.prompts import read_prompts
from forwardcache.jobs.rows import encoded
from forwardcache.jobs.views import parse_views
from tools.stand_in import VOCABULARY, StandIn, session_of

ROOT = Path(__file__).parent.parent
DEMO = Path(forwardcache.__file__).parent / "demo"
PROMPTS = "prompts.jsonl"
KINDS = {"worker": 5, "driver": 3, "both": 2}
"""What is killed, and how often of ten times."""

_CHUNK_PROMPTS = 4
_CHUNKS = 160
_TOP_K = 8
_WORKERS = 2
_HIT = re.compile(rb'"hit": (?:true|false)')
_PATIENCE_S = 900.0
# Kills of one job, at most.
_MOST = 8
# About how long workers take to begin, and a part to be written.
_START_S = 2.0
_PART_S = 0.02

_CLUSTER = """
import sys
import forwardcache.distributed.team
import ray
for is_last in [False] * 9 + [True]:
    try:
        ray.init(address="local", num_cpus=32, include_dashboard=False, log_to_driver=False,
                 configure_logging=False, object_store_memory=100 * 2**20)
        break
    except Exception as error:
        # On a busy machine its 30 s are too few.
        if is_last or "timed out during startup" not in str(error):
            raise
        ray.shutdown()
print(ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
ray.shutdown()
"""


@dataclass
class Told:
    """What a run of kills came to.

    Attributes:
        kills: By kind.
        jobs: Jobs that were done and compared.
        resumed: Drivers that went on with a job.
        duplicates: Parts of one chunk beyond the first, which the manifest names one of.
        seconds: Wall time.
    """

    kills: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    resumed: int = 0
    duplicates: int = 0
    seconds: float = 0.0


@contextmanager
def cluster() -> Iterator[tuple[str, int]]:
    """A Ray cluster of this machine: its address, and the process that has it."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    # Drivers join from other processes, without the token that a cluster makes for itself.
    os.environ["RAY_AUTH_MODE"] = "disabled"
    environment = {**os.environ, "PYTHONPATH": path, "RAY_prestart_worker_first_driver": "0"}
    with subprocess.Popen(
        [sys.executable, "-c", _CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=environment,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        if not (address := process.stdout.readline().strip()):
            raise RuntimeError("Ray's cluster of this machine does not start")
        yield address, process.pid
        process.stdin.close()


def write_prompts(path: Path, chooser: random.Random) -> None:
    """Prompts with carried fields; some chunks stand there twice, some lines are blank."""
    chunks = [
        [
            json.dumps({"prompt": f"{at} {chooser.random()}", "id": f"p{at}-{each}"})
            for each in "abcd"
        ]
        for at in range(_CHUNKS)
    ]
    chunks[_CHUNKS // 2] = chunks[0]
    lines = [line for chunk in chunks for line in chunk]
    lines.insert(chooser.randrange(len(lines)), "")
    path.write_text("\n".join(lines) + "\n", "utf-8")


def rows_of_one_process(prompts: Path) -> bytes:
    """The rows that one process writes."""
    session = session_of(ModelOptions(model="stand-in"))
    source = read_prompts(str(prompts))
    views = parse_views("base,ft", has_adapter=True)
    lengths = session.backend.token_lengths(source.items("next_token_dist"), op="")
    asked = job.Job(source, lengths, "next_token_dist", views, _TOP_K, VOCABULARY)
    scoring = job.Scoring(session.backend, session.recorder, asked)
    return b"".join(encoded(scoring.rows_of(chunk)[0]) for chunk in asked.chunks())


def start_driver(address: str | None, out: Path, prompts: Path, *, resume: bool) -> int:
    """A driver of the job, as a process of its own; its number.

    It is a fork of this process, which has imported all that it needs.

    Args:
        address: Of the cluster; None for workers that are processes of this machine.
        out: Where the parts go.
        prompts: The prompts.
        resume: Whether it goes on with what is there.
    """
    if child := os.fork():
        return child
    code = 70
    try:
        log = os.open(out.with_suffix(".log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(log, 1)
        os.dup2(log, 2)
        words = ["score", "--model", DEMO / "model", "--adapter", DEMO / "adapter"]
        words += ["--prompts", prompts, "--top-k", _TOP_K, "--parts", "--out", out]
        words += ["--workers", _WORKERS, "--worker-cpus", 1]
        words += [] if address is None else ["--ray", address]
        words += ["--resume"] if resume else []
        code = main([str(word) for word in words])
    finally:
        os._exit(code)


def workers_of(holder: int) -> list[int]:
    """The workers that a process has: its cluster's, or its own."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with suppress(OSError, IndexError):
            words = (entry / "cmdline").read_bytes()
            if words.startswith(b"ray::StandIn") or b"tools.stand_in:StandIn" in words:
                parent = _parent(int(entry.name))
                if holder in {parent, _parent(parent)}:
                    found.append(int(entry.name))
    return found


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text("latin-1").rpartition(")")[2].split()[1])


class Killing:
    """One job, killed some times and gone on with.

    Args:
        ray: Of the cluster: its address, and the process that has it; None without Ray.
        folder: Where the job's files go; the prompts are there, and nothing else.
        chooser: Draws what is killed and when.
        told: Takes what happens into account.
    """

    def __init__(
        self, ray: tuple[str, int] | None, folder: Path, chooser: random.Random, told: Told
    ) -> None:
        self._ray = ray
        self._out, self._prompts = folder / "out", folder / PROMPTS
        self._chooser, self._told = chooser, told
        self._driver = 0

    def run(self, kills: int) -> bytes:
        """The merged rows, after at most so many kills.

        Args:
            kills: How many are tried.
        """
        self._start(resume=False)
        for _ in range(kills):
            [kind] = self._chooser.choices(list(KINDS), list(KINDS.values()))
            if not self._wait_for_moment():
                break
            self._kill(kind)
            if kind != "worker":
                os.waitpid(self._driver, 0)
                self._start(resume=True)
        return self._finished()

    def _start(self, *, resume: bool) -> None:
        self._told.resumed += resume
        address = None if self._ray is None else self._ray[0]
        self._driver = start_driver(address, self._out, self._prompts, resume=resume)

    def _wait_for_moment(self) -> bool:
        """Let the time pass to the next kill; False where the job is done before.

        One in four comes at any time, most while workers begin; the others within the first half of
        the parts that are lacking.
        """
        parts = self._parts()
        wanted, ends = parts, time.monotonic() + _PATIENCE_S
        wait_s = self._chooser.uniform(0.0, _START_S)
        if self._chooser.random() < 0.75:
            wanted += self._chooser.randint(1, max(1, (_CHUNKS - parts) // 2))
            wait_s = self._chooser.uniform(0.0, _PART_S)
        while self._is_running() and self._parts() < wanted:
            if time.monotonic() > ends:
                raise AssertionError(f"nothing is written: {self._log()}")
            time.sleep(0.005)
        until = time.monotonic() + wait_s
        while time.monotonic() < until and self._is_running():
            time.sleep(0.001)
        return self._is_running()

    def _parts(self) -> int:
        return sum(1 for _ in (self._out / "parts").glob("*/*.parquet"))

    def _is_running(self) -> bool:
        """Whether the driver lives; one that is gone is not waited for here."""
        return os.waitid(os.P_PID, self._driver, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None

    def _kill(self, kind: str) -> None:
        workers = workers_of(self._driver if self._ray is None else self._ray[1])
        victims = [self._driver] if kind != "worker" else []
        if kind != "driver" and workers:
            victims.insert(self._chooser.randrange(len(victims) + 1), self._chooser.choice(workers))
        if not victims:
            return
        for each in victims:
            with suppress(ProcessLookupError):
                os.kill(each, signal.SIGKILL)
        self._told.kills[kind] += 1

    def _finished(self) -> bytes:
        """Goes on until the job is done; its merged rows."""
        for _ in range(_MOST):
            _, status = os.waitpid(self._driver, 0)
            if os.waitstatus_to_exitcode(status) == 0:
                break
            self._start(resume=True)
        else:
            raise AssertionError(f"the job is never done: {self._log()}")
        folder = open_folder(str(self._out))
        names = Counter(path.name[:64] for path in (self._out / "parts").glob("*/*.parquet"))
        self._told.duplicates += sum(names.values()) - len(names)
        left = list(self._out.rglob(".*.tmp"))
        assert not left, left
        target = self._out.with_suffix(".jsonl")
        merge(folder, target)
        return target.read_bytes()

    def _log(self) -> str:
        return self._out.with_suffix(".log").read_text("utf-8", "replace")[-2000:]


def kill(kills: int, seed: int, *, local: bool = False, say: Callable[[str], object]) -> Told:
    """Kill so many times.

    Args:
        kills: How many times.
        seed: What is killed and when is drawn from it.
        local: Whether workers are processes without Ray.
        say: Told how far it is.

    Raises:
        AssertionError: a merged file is not what it must be, or a job is never done.
    """
    for kind in (Team, LocalCrew):
        (kind.__init__.__kwdefaults__ or {})["kind"] = StandIn
    job.CHUNK_PROMPTS = _CHUNK_PROMPTS
    told, began, number = Told(), time.monotonic(), 0
    with TemporaryDirectory(prefix="forwardcache-kills-") as scratch, ExitStack() as stack:
        ray = None if local else stack.enter_context(cluster())
        while told.kills.total() < kills:
            chooser = random.Random(f"{seed} {number}")
            folder = Path(scratch, str(number))
            folder.mkdir()
            write_prompts(folder / PROMPTS, chooser)
            tried = min(chooser.randint(1, _MOST), kills - told.kills.total())
            merged = Killing(ray, folder, chooser, told).run(tried)
            if _HIT.sub(b"", merged) != _HIT.sub(b"", rows_of_one_process(folder / PROMPTS)):
                raise AssertionError(f"seed {seed}, job {number}: another file than of one process")
            number += 1
            told.jobs, told.seconds = number, round(time.monotonic() - began, 1)
            say(f"{told.kills.total()} of {kills} kills: {told}")
            shutil.rmtree(folder)
    return told


def run(argv: Sequence[str] | None = None) -> int:
    """The command line; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--kills", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--local", action="store_true", help="without Ray")
    asked = parser.parse_args(argv)
    told = kill(
        asked.kills, asked.seed, local=asked.local, say=lambda line: print(line, flush=True)
    )
    print(f"{told.kills.total()} kills, {told.jobs} jobs, each merged file as of one process")
    return 0


if __name__ == "__main__":
    sys.exit(run())
