"""File systems of their own for a test's child process, where the system allows it."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

_NEW_MOUNTS, _NEW_USER = 0x0002_0000, 0x1000_0000
_READ_ONLY, _REMOUNT, _RECURSIVE, _PRIVATE = 1, 0x20, 0x4000, 0x4_0000
_NOT_ALLOWED = 77


class _NotAllowedError(Exception):
    pass


class Mounts:
    """What a child may do with its mounts, which nobody else sees and which end with it."""

    def __init__(self) -> None:
        self._libc = ctypes.CDLL(None, use_errno=True)

    def memory(self, folder: Path, size: str) -> None:
        """Makes ``folder`` a disk of memory.

        Args:
            folder: An empty one.
            size: As ``1m``.
        """
        self._mount(b"none", folder, b"tmpfs", 0, f"size={size},mode=755".encode())

    def read_only(self, folder: Path) -> None:
        """From now on nothing can be written there, by nobody."""
        self._mount(b"none", folder, b"tmpfs", _REMOUNT | _READ_ONLY, None)

    def begin(self) -> None:
        """Leaves the mounts of the others.

        Raises:
            OSError: the system doesn't allow it.
        """
        user, group = os.getuid(), os.getgid()
        if user == 0:
            self._check(self._libc.unshare(_NEW_MOUNTS))
        else:
            self._check(self._libc.unshare(_NEW_MOUNTS | _NEW_USER))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
        self._mount(None, Path("/"), None, _RECURSIVE | _PRIVATE, None)

    def _mount(
        self, source: bytes | None, folder: Path, kind: bytes | None, flags: int, data: bytes | None
    ) -> None:
        self._check(
            self._libc.mount(source, os.fsencode(folder), kind, ctypes.c_ulong(flags), data)
        )

    def _check(self, code: int) -> None:
        if code:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))


def in_a_child(work: Callable[[], Any]) -> Any:
    """What ``work`` gives, as JSON would have it, in a forked child."""
    told, telling = os.pipe()
    if (child := os.fork()) == 0:
        code = 1
        try:
            os.write(telling, json.dumps(work()).encode())
            code = 0
        except _NotAllowedError:
            code = _NOT_ALLOWED
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    os.close(telling)
    try:
        with os.fdopen(told) as answer:
            text = answer.read()
    except BaseException:
        # A time-out: nobody else would end it.
        os.kill(child, signal.SIGKILL)
        raise
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == _NOT_ALLOWED:
        pytest.skip("this system allows no mounts of one's own")
    assert code == 0, "the child failed, see its output"
    return json.loads(text)


def in_own_mounts(folder: Path, work: Callable[[Mounts, Path], Any]) -> Any:
    """What ``work`` gives, as JSON would have it, in a forked child with mounts of its own.

    Args:
        folder: An empty one that it may mount something on.
        work: Given the mounts and the folder.
    """

    def begun() -> Any:
        mounts = Mounts()
        try:
            mounts.begin()
        except (OSError, AttributeError) as error:
            raise _NotAllowedError from error
        return work(mounts, folder)

    return in_a_child(begun)
