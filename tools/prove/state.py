"""What has been done: a line of JSON for each chunk, appended when it ends."""

from __future__ import annotations

import json
import subprocess
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cached_property
from itertools import count
from pathlib import Path

from tools.prove.parts import Part, Way


@dataclass(frozen=True, slots=True)
class Chunk:
    """One run of one way.

    Attributes:
        part, way: Their names.
        seed: Of this chunk; with the commit it repeats it.
        reported: What the command said it had done, by unit.
        seconds: How long it took.
        exit: Its exit status; 124 if it ran out of time.
        commit: Of the sources.
        began: When, in ISO 8601, UTC.
    """

    part: str
    way: str
    seed: int
    reported: dict[str, int]
    seconds: float
    exit: int
    commit: str
    began: str


class History:
    """All chunks of a state file, for the sources as they are now."""

    def __init__(self, root: Path, file: Path) -> None:
        self._root, self._file = root, file
        self._unchanged: dict[tuple[str, tuple[str, ...]], bool] = {}
        self.chunks = list(_read(file))

    def add(self, chunk: Chunk) -> None:
        """Keeps a chunk that has ended."""
        self._file.parent.mkdir(parents=True, exist_ok=True)
        with self._file.open("a+b") as file:
            # A run that was killed while it wrote left a torn line.
            file.seek(max(0, file.tell() - 1))
            torn = file.read() not in (b"", b"\n")
            file.write(b"\n" * torn + json.dumps(asdict(chunk)).encode() + b"\n")
        self.chunks.append(chunk)

    def of(self, part: Part) -> list[Chunk]:
        """The chunks of the sources as they are, whether they passed or not."""
        sources = {way.name: (*part.sources, *way.sources) for way in part.ways}
        chunks = [each for each in self.chunks if each.part == part.name and each.way in sources]
        present = [each for each in chunks if self._is_of(sources[each.way], each.commit)]
        # A seed counts once, also where it was tried again.
        return list({(each.way, each.seed): each for each in present}.values())

    def passed(self, part: Part) -> list[Chunk]:
        """Those that count."""
        return [chunk for chunk in self.of(part) if chunk.exit == 0]

    def failed(self) -> list[Chunk]:
        """Those that failed and whose seed has not passed since, of any commit."""
        last = {(each.part, each.way, each.seed): each for each in self.chunks}
        return [chunk for chunk in last.values() if chunk.exit]

    def done(self, part: Part) -> int:
        """How much of a part's unit has been reported by chunks that passed."""
        return sum(chunk.reported.get(part.unit, 0) for chunk in self.passed(part))

    def next_of(self, part: Part) -> tuple[Way, int]:
        """The way of a part with the fewest chunks that count, and its first seed without one."""
        seeds = {way.name: set[int]() for way in part.ways}
        for chunk in self.passed(part):
            seeds[chunk.way].add(chunk.seed)
        way = min(part.ways, key=lambda way: len(seeds[way.name]))
        return way, next(seed for seed in count(1) if seed not in seeds[way.name])

    def share(self, part: Part, goal: float) -> float:
        """How much of ``goal`` is done; of a part without one, how many of its ways have passed."""
        if part.goal is not None:
            return self.done(part) / goal if goal else 1.0
        ways = {chunk.way for chunk in self.passed(part)}
        return sum(way.name in ways for way in part.ways) / len(part.ways)

    def uncommitted(self, part: Part, way: Way) -> str:
        """Sources of a way that are not those of a commit; empty if there are none."""
        sources = (*part.sources, *way.sources)
        return self._git("status", "--porcelain", "--", *sources).stdout.strip()

    @cached_property
    def commit(self) -> str:
        """The commit that is checked out."""
        return self._git("rev-parse", "HEAD").stdout.strip()

    def _is_of(self, sources: tuple[str, ...], commit: str) -> bool:
        """Whether these sources are still those of a commit."""
        asked = commit, sources
        if asked not in self._unchanged:
            compared = self._git("diff", "--quiet", commit, "--", *sources)
            self._unchanged[asked] = compared.returncode == 0
        return self._unchanged[asked]

    def _git(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = ["git", "-C", str(self._root), *arguments]
        return subprocess.run(command, check=False, capture_output=True, text=True)


def units_of(chunks: Iterable[Chunk]) -> Counter[str]:
    """What some chunks have reported together."""
    units: Counter[str] = Counter()
    for chunk in chunks:
        units.update(chunk.reported)
    return units


def _read(file: Path) -> Iterator[Chunk]:
    if not file.exists():
        return
    for line in file.read_text().splitlines():
        # A torn line is of a chunk that is to be done again.
        with suppress(ValueError):
            yield Chunk(**json.loads(line))
