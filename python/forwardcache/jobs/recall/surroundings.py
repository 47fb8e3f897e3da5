"""Where a command runs, as far as it may decide which model is loaded, where to, and how it runs.

Versions, the folders that modules are imported from and what is installed in them, the environment,
the machine with its accelerators. What isn't known to be of no account counts.
"""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import suppress
from glob import glob
from pathlib import Path
from typing import Any

from forwardcache import __version__
from forwardcache.jobs.metadata import DECIDING_PACKAGES

# Of terminals, sessions, schedulers and test runners: another one every time, and read by none of
# the libraries that load and run a model.
_OF_SESSIONS = (
    *(
        "COLORTERM",
        "COLUMNS",
        "DBUS_",
        "DESKTOP_",
        "DISPLAY",
        "EDITOR",
        "GITHUB_",
        "GPG_",
        "GNOME_",
    ),
    *("HISTFILE", "ITERM_", "KONSOLE_", "LC_TERMINAL", "LESS", "LINES", "LOGNAME", "LS_COLORS"),
    *("MAIL", "NO_COLOR", "OLDPWD", "PAGER", "PROMPT_COMMAND", "PS1", "PWD", "PYTEST_", "RUNNER_"),
    *("SESSION_", "SHELL", "SHLVL", "SLURM_JOB", "SLURM_STEP", "SLURM_TASK_PID", "SSH_", "STY"),
    *("TERM", "TMUX", "TTY", "VISUAL", "VTE_", "WAYLAND_", "WINDOWID", "XAUTHORITY", "XDG_SESSION"),
)
_PACKAGES = (".dist-info", ".egg-info", ".egg-link", ".pth")
_NVIDIA = "/proc/driver/nvidia"
# A driver that nothing here knows how to ask; a machine with one is never recognised.
_UNKNOWN_DEVICES = ("/dev/kfd", "/dev/dxg", "/dev/accel*", "/dev/davinci*", "/dev/habanalabs*")

DEVICES = ("auto", "cpu", "cuda")
"""Kinds of devices of which the machine tells enough."""


def surroundings() -> dict[str, Any] | None:
    """Words for them, as JSON values that are the same while nothing differs.

    Returns:
        None on a machine of which they can't tell enough.
    """
    if any(map(glob, _UNKNOWN_DEVICES)):
        return None
    installed = list(_installed())
    return {
        "versions": {name: _entries_of(name, installed) for name in DECIDING_PACKAGES},
        "forwardcache": __version__,
        "python": [sys.version, sys.prefix, *map(str, sys.flags), str(sys._xoptions)],
        "path": list(sys.path),
        "finders": [str(getattr(each, "__name__", type(each))) for each in sys.meta_path],
        "packages": _digest(installed),
        "environment": _digest(list(_variables())),
        "machine": [platform.platform(), platform.machine(), platform.node(), _cores()],
        "accelerators": _accelerators(),
    }


def _digest(words: list[str]) -> str:
    joined = "\0".join(sorted(words))
    return hashlib.sha256(joined.encode("utf-8", "surrogateescape")).hexdigest()


def _installed() -> Iterator[str]:
    """Name and version of whatever is installed, and what runs when Python starts."""
    for folder in sys.path:
        with suppress(OSError):
            for name in os.listdir(folder or "."):
                if name.endswith(_PACKAGES):
                    yield f"{folder}/{name}"
                if name.endswith(".pth"):
                    yield Path(folder, name).read_text("utf-8", "surrogateescape")


def _entries_of(name: str, installed: list[str]) -> list[str]:
    """Where a package says that it is installed, and in which version."""
    return [each for each in installed if os.path.basename(each).startswith(f"{name}-")]


def _variables() -> Iterator[str]:
    """The environment, but for what a terminal or a job has another one of each time."""
    for name, value in os.environ.items():
        if name != "_" and not name.startswith(_OF_SESSIONS):
            yield f"{name}={value}"


def _cores() -> list[int | None]:
    allowed = getattr(os, "sched_getaffinity", lambda _: ())(0)
    return [os.cpu_count(), len(allowed)]


def _accelerators() -> list[str]:
    """The devices that CUDA may find, and their driver."""
    said = sorted(glob("/dev/nvidia*"))
    for path in sorted([f"{_NVIDIA}/version", *glob(f"{_NVIDIA}/gpus/*/information")]):
        with suppress(OSError):
            said.append(Path(path).read_text("utf-8", "replace"))
    return said


__all__ = ["DEVICES", "surroundings"]
