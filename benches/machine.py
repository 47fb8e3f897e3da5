"""Where and when it was measured, and the refusal of what isn't worth measuring."""

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path

from forwardcache import _core

Clock = Callable[[], float]
"""Tells seconds; where work goes on behind it, it waits for that first."""
PEERS = ["cachebox", "moka-py", "theine", "cachetools", "lru-dict"]


def refuse_debug_build() -> None:
    """Ends the process if the core was built without optimisation."""
    if _core.BUILD_PROFILE == "debug":
        sys.exit("forwardcache._core is a debug build: build it with --release and measure again")


def description(module: str = "benches.run", packages: Sequence[str] = PEERS) -> list[str]:
    """Command, machine, versions, date and commit, as a Markdown list."""
    peers = "".join(f", {package} {version(package)}" for package in packages)
    date = datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
    return [
        f"- Command: `{shlex.join(['python', '-m', module, *sys.argv[1:]])}`",
        f"- Machine: {cpu_model()}, {len(os.sched_getaffinity(0))} cores, {platform.platform()}",
        f"- Versions: {platform.python_implementation()} {platform.python_version()}, "
        f"forwardcache {_core.__version__} ({_core.BUILD_PROFILE}){peers}",
        f"- Date and commit: {date}, {commit()}",
    ]


def cpu_model() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def commit() -> str:
    """The commit, with ``+dirty`` if the tree has changes that are not in it."""
    known = git("rev-parse", "--short=12", "HEAD")
    changed = git("status", "--porcelain", "--", ".", ":!benches/RESULTS.md")
    return known + ("+dirty" if changed else "") if known else "not committed"


def git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else ""
