"""What each worker of this machine has of it: threads, and a GPU where there are any."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

THREADS, GPUS = "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES"

# What lists the GPUs without beginning to use one, by the names that a system may have it under.
_LISTS_GPUS = ("libnvidia-ml.so.1", "libnvidia-ml.so")


@dataclass(frozen=True, slots=True)
class Shares:
    """How a machine is shared out.

    Attributes:
        workers: Between how many.
        threads: That each computes with.
        is_set: Whether the environment says how many threads.
        gpus: The names of the GPUs, one for each worker in turn; empty where none is shared out.
    """

    workers: int
    threads: int
    is_set: bool = False
    gpus: tuple[str, ...] = ()

    def environment(self, place: int) -> dict[str, str]:
        """The variables of the worker at a place, from 0, as one that follows it there."""
        found = {} if self.is_set else {THREADS: str(self.threads)}
        if self.gpus:
            found[GPUS] = self.gpus[place % len(self.gpus)]
        return found

    def __str__(self) -> str:
        threads = f"{_counted(self.threads, 'thread')}{' each' if self.workers > 1 else ''}"
        said = f"{_counted(self.workers, 'worker')} on this machine: {threads}"
        said += f" (as {THREADS} says)" if self.is_set else ""
        if not self.gpus:
            return said
        used = self.gpus[: self.workers]
        each, more = divmod(self.workers, len(used))
        shared = f", each for {each}{f' or {each + 1}' if more else ''} of them"
        return f"{said}, GPU {_named(used)}{shared if (each, more) != (1, 0) else ''}"


def shares(
    workers: int,
    *,
    on_gpu: bool,
    worker_cpus: int | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Shares:
    """Cores and GPUs of this machine for ``workers``.

    Args:
        workers: How many.
        on_gpu: Whether each is to have a GPU, if there are any.
        worker_cpus: Threads of each. None: as many as ``OMP_NUM_THREADS`` says, or its share of the
            cores.
        environment: This process's.
    """
    gpus = visible_gpus(environment) if on_gpu else ()
    if worker_cpus is not None:
        return Shares(workers, worker_cpus, gpus=gpus)
    # It may have a number for each level of nesting: the first counts here.
    is_set = (first := environment.get(THREADS, "").partition(",")[0]).isdecimal() and int(
        first
    ) > 0
    threads = int(first) if is_set else max(1, cores() // workers)
    return Shares(workers, threads, is_set, gpus)


def cores() -> int:
    """Cores that this process may use: fewer than the machine's in a container or under taskset."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def visible_gpus(environment: Mapping[str, str] = os.environ) -> tuple[str, ...]:
    """The names of the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` has them."""
    if (given := environment.get(GPUS)) is None:
        return tuple(map(str, range(_gpus_of_this_machine())))
    names = [name.strip() for name in given.split(",")]
    # CUDA takes those before the first that is none.
    valid = [not name or name.startswith("-") for name in names]
    return tuple(names[: valid.index(True)] if True in valid else names)


def _gpus_of_this_machine() -> int:
    """How many GPUs of NVIDIA there are; asked of the driver, which begins to use none."""
    for name in _LISTS_GPUS:
        with suppress(OSError, AttributeError):
            library = ctypes.CDLL(name)
            count = ctypes.c_uint(0)
            if library.nvmlInit_v2() == 0:
                found = library.nvmlDeviceGetCount_v2(ctypes.byref(count))
                library.nvmlShutdown()
                return 0 if found else count.value
    return 0


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _named(gpus: Sequence[str]) -> str:
    """``0 to 3``, or the names."""
    numbers = [int(name) for name in gpus if name.isdecimal()]
    is_range = len(numbers) == len(gpus) > 2
    if is_range and numbers == list(range(numbers[0], numbers[0] + len(numbers))):
        return f"{numbers[0]} to {numbers[-1]}"
    return " and ".join(filter(None, [", ".join(gpus[:-1]), gpus[-1]]))
