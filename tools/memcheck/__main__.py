"""Runs :mod:`tools.memcheck.calls` under valgrind and judges what it reports.

A failure is an invalid access or a use of what was never set with a function of the core on the
stack, memory that the core allocated and lost, and any loss at all that grows with the number of
rounds: a reference too many keeps an object alive that somebody else allocated. What CPython itself
loses, the same in every run, is counted and let be.
"""

import argparse
import os
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
WORK: Final = ROOT / "target" / "memcheck"
KNOWN: Final = ROOT / "tools" / "memcheck" / "known.supp"
CORE: Final = "_core.abi3.so"
LOST: Final = ("Leak_DefinitelyLost", "Leak_IndirectlyLost")
# What the collector tracks has a header before it, to which all pointers go: "possibly" lost, alive
# or not.
MAYBE_LOST: Final = (*LOST, "Leak_PossiblyLost")


@dataclass(frozen=True, slots=True)
class Error:
    """A report of valgrind's: its kind, what it says, the frames as ``function (object)``."""

    kind: str
    says: str
    blocks: int
    frames: tuple[str, ...]

    @property
    def is_of_the_core(self) -> bool:
        """Whether a function of ours stands on the stack of what is wrong for certain."""
        return self.kind != "Leak_PossiblyLost" and any(CORE in frame for frame in self.frames)

    def __str__(self) -> str:
        return "\n    ".join([f"{self.kind}: {self.says}", *self.frames])


def build_core() -> Path:
    """A copy of the package with a core that has its symbols; the folder to import it from."""
    environment = {**os.environ, "PYO3_PYTHON": sys.executable, "CARGO_TARGET_DIR": str(WORK)}
    command = ["cargo", "build", "--quiet", "--locked", "--release", "--features", "python"]
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    package = WORK / "python" / "forwardcache"
    shutil.copytree(
        ROOT / "python" / "forwardcache",
        package,
        ignore=shutil.ignore_patterns("demo", "*.so"),
        dirs_exist_ok=True,
    )
    shutil.copy(WORK / "release" / "libforwardcache.so", package / CORE)
    return package.parent


def errors_of(folder: Path, rounds: int) -> list[Error]:
    """What valgrind reports about that many rounds."""
    report = WORK / f"{rounds}.xml"
    command = ["valgrind", "--xml=yes", f"--xml-file={report}", "--leak-check=full"]
    command += [
        "--show-leak-kinds=definite,indirect,possible",
        "--num-callers=40",
        "--fair-sched=yes",
    ]
    command += [
        f"--suppressions={KNOWN}",
        sys.executable,
        "-m",
        "tools.memcheck.calls",
        str(rounds),
    ]
    # Its own allocator hands out parts of large blocks, which valgrind can't tell apart.
    environment = {
        **os.environ,
        "PYTHONMALLOC": "malloc",
        "PYTHONPATH": str(folder),
        "PYTHONHASHSEED": "0",
    }
    subprocess.run(command, cwd=ROOT, env=environment, check=True)
    return [error_of(error) for error in ET.parse(report).getroot().iter("error")]


def error_of(element: ET.Element) -> Error:
    """The report that an ``<error>`` of the XML is."""
    says = element.findtext("what") or element.findtext("xwhat/text") or ""
    frames = [
        f"{frame.findtext('fn', '?')} ({Path(frame.findtext('obj', '?')).name})"
        for frame in element.iter("frame")
    ]
    blocks = int(element.findtext("xwhat/leakedblocks", "1"))
    return Error(element.findtext("kind", "?"), says, blocks, tuple(frames))


def grown(few: list[Error], many: list[Error], rounds: int) -> list[str]:
    """What was lost, by its stack, in another block for each of the rounds more."""
    before, after = lost_blocks(few), lost_blocks(many)
    return [
        "\n    ".join([f"{before[frames]} blocks lost became {blocks}", *frames])
        for frames, blocks in after.items()
        if blocks - before[frames] >= rounds
    ]


def lost_blocks(errors: list[Error]) -> Counter[tuple[str, ...]]:
    """Blocks that were lost, by their stack."""
    blocks = Counter[tuple[str, ...]]()
    for error in errors:
        if error.kind in MAYBE_LOST:
            blocks[error.frames] += error.blocks
    return blocks


def main() -> None:
    """Prints what was found; exit status 1 if some of it is ours."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2, help="rounds of the shorter run")
    rounds = parser.parse_args().rounds
    if not shutil.which("valgrind"):
        sys.exit("valgrind is not installed")
    folder = build_core()
    few, many = errors_of(folder, rounds), errors_of(folder, 3 * rounds)
    failures = [str(error) for error in many if error.is_of_the_core]
    failures += grown(few, many, 2 * rounds)
    print(*failures, sep="\n")
    others = Counter(error.kind for error in many if not error.is_of_the_core)
    print(
        f"memcheck: {3 * rounds} rounds, {len(failures)} failures; "
        f"of the interpreter alone: {dict(others) or 'nothing'}"
    )
    sys.exit(bool(failures))


if __name__ == "__main__":
    main()
