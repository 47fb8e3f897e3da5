"""Runs an installer (pip, uv) and tells every few seconds how far it is.

pip is either silent for minutes or writes a line for each package that is there already. Here its
lines are read and counted; all of them are shown if it fails. The standard library is enough, since
nothing else is installed yet:

    python tools/install.py .venv/bin/python -m pip install --group dev
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

EVERY_S = 10.0
_FETCHED = re.compile(
    r"^\s*(?:Downloading|Using cached) (\S+)(?<!\.metadata) \(([\d.]+) ([kMG]?B)\)"
)
_BYTES = {"B": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9}


@dataclass
class Progress:
    """How far an installer is, as its lines tell.

    Attributes:
        lines: All that it has written.
        packages: Files of packages that it has begun to fetch.
        fetched_bytes: Their sizes, bytes.
        stage: What it does now.
    """

    lines: list[str] = field(default_factory=list)
    packages: int = 0
    fetched_bytes: float = 0.0
    stage: str = "looking up packages"

    def note(self, line: str) -> None:
        """Takes one line of the installer into account."""
        self.lines.append(line)
        found = _FETCHED.match(line)
        if found:
            self.packages += 1
            self.fetched_bytes += float(found[2]) * _BYTES[found[3]]
            self.stage = f"fetching {found[1]}"
        elif line.startswith("Installing collected packages"):
            self.stage = f"installing {line.count(',') + 1} packages"
        elif line.lstrip().startswith("Building"):
            self.stage = line.strip()

    def told(self, seconds: float) -> str:
        """One line for a person."""
        done = (
            f"{self.packages} packages, {self.fetched_bytes / 1e9:.1f} GB; "
            if self.packages
            else ""
        )
        return f"    {int(seconds) // 60}:{int(seconds) % 60:02d}  {done}{self.stage}"


def run(command: Sequence[str]) -> int:
    """Runs ``command``; its exit status."""
    progress, began, ended = Progress(), time.monotonic(), threading.Event()

    def tell() -> None:
        while not ended.wait(EVERY_S):
            print(progress.told(time.monotonic() - began), flush=True)

    teller = threading.Thread(target=tell, daemon=True)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1", "PIP_PROGRESS_BAR": "off"}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as installer:
        teller.start()
        for line in installer.stdout or ():
            progress.note(line.rstrip("\n"))
    ended.set()
    teller.join()
    if installer.returncode:
        print("\n".join(progress.lines), file=sys.stderr)
    return installer.returncode


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:]))
