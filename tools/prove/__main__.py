"""Proves at length what the tests show in short, and writes PROOF.md.

`make prove`, or `python -m tools.prove PART...`. Work comes in chunks, each with a seed of its own,
and every chunk that ends is kept in `target/prove/state.jsonl`, so a run can be stopped at any time
and the next one goes on. First each part comes to the number of `make test`; from then on the next
chunk is of the part that is the furthest from its goal. A part whose chunk failed rests for this
run, which then exits with 1; the next run tries the seed again.
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from tools.prove.page import page, show
from tools.prove.parts import PARTS, Part, Way
from tools.prove.state import Chunk, History

ROOT: Final = Path(__file__).resolve().parents[2]
LIMIT_S: Final = 3_600.0
TIMED_OUT: Final = 124
# Who runs the tests may have begun the line with a name or with dots.
_REPORT: Final = re.compile(r"\bprove: (\d+) (.+)$", re.MULTILINE)


class Prover:
    """Runs chunks of parts until their goals are reached.

    Args:
        parts: What to prove.
        history: What has been done.
        scale: Share of each goal that is enough.
        logs: Where the output of chunks that fail is kept.
        root: Where the commands run.
    """

    def __init__(
        self, parts: Sequence[Part], history: History, scale: float, logs: Path, root: Path
    ) -> None:
        self._parts, self._history, self._scale = parts, history, scale
        self._logs, self._root = logs, root
        self.failed: list[Chunk] = []

    def next_part(self) -> Part | None:
        """The part to go on with; None if all that have not failed are done."""
        resting = {chunk.part for chunk in self.failed}
        waiting = [part for part in self._parts if part.name not in resting]
        waiting = [part for part in waiting if self._share(part) < 1]
        return min(waiting, key=self._urgency, default=None)

    def step(self, part: Part) -> Chunk:
        """Runs one chunk of a part."""
        way, seed = self._history.next_of(part)
        if changed := self._history.uncommitted(part, way):
            raise SystemExit(f"a proof is of a commit, and {part.name} depends on:\n{changed}")
        chunk = self._run(part, way, seed)
        self._history.add(chunk)
        if chunk.exit:
            self.failed.append(chunk)
        return chunk

    def _share(self, part: Part) -> float:
        goal = max((part.goal or 0) * self._scale, part.tested)
        return self._history.share(part, goal)

    def _urgency(self, part: Part) -> tuple[bool, float]:
        is_as_tested = part.goal is None or self._history.done(part) >= part.tested
        return is_as_tested, self._share(part)

    def _run(self, part: Part, way: Way, seed: int) -> Chunk:
        command = [_filled(each, seed) for each in way.command]
        variables = {name: _filled(value, seed) for name, value in way.variables.items()}
        self._logs.mkdir(parents=True, exist_ok=True)
        log = self._logs / f"{part.name}-{part.ways.index(way)}-{seed}.log"
        began, now = time.monotonic(), datetime.now(UTC)
        code = _status(command, os.environ | variables, log, self._root)
        reported: Counter[str] = Counter()
        for count, unit in _REPORT.findall(log.read_text(errors="replace")):
            reported[unit] += int(count)
        # One that says nothing of what it is there for has not done it.
        if not code and not reported[part.unit]:
            code = 1
        if not code:
            log.unlink()
        return Chunk(
            part=part.name,
            way=way.name,
            seed=seed,
            reported=dict(reported),
            seconds=round(time.monotonic() - began, 1),
            exit=code,
            commit=self._history.commit,
            began=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        )


def _filled(text: str, seed: int) -> str:
    return text.format(seed=seed, python=sys.executable)


def _status(command: list[str], variables: dict[str, str], log: Path, root: Path) -> int:
    """Runs a command in a session of its own, so that whatever it started ends with it."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=root,
            env=variables,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            return process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            return TIMED_OUT
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def prove(prover: Prover, history: History, parts: Sequence[Part], end: float, to: Path) -> int:
    """Runs chunks until all is done or ``end`` has come; the page is always as the state is."""
    to.write_text(page(history, parts))
    while time.monotonic() < end and (part := prover.next_part()):
        chunk = prover.step(part)
        to.write_text(page(history, parts))
        verdict = "failed" if chunk.exit else "passed"
        what = f"{part.name}: {chunk.way}, seed {chunk.seed}"
        done = f"{history.done(part):,} {part.unit}"
        print(f"{verdict} {chunk.seconds:7.1f} s  {what}; {done}", flush=True)
    return 1 if prover.failed else 0


def take_signals() -> None:
    """Ends the command that runs when this process is told to end."""
    # A run in the background of a shell ignores interrupts, and so would the tests of interrupts.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))


def main(
    arguments: Sequence[str] | None = None,
    parts: Sequence[Part] = PARTS,
    root: Path = ROOT,
) -> int:
    """Exit status: 0 if every chunk of this run passed, 1 if one failed."""
    parser = argparse.ArgumentParser(description=__doc__, prog="prove")
    names = [part.name for part in parts]
    parser.add_argument("part", nargs="*", choices=[*names, []], help=f"of {', '.join(names)}")
    parser.add_argument("--scale", type=float, default=1.0, help="share of each goal; default 1")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no chunk after")
    asked = parser.parse_args(arguments)
    folder = root / "target" / "prove"
    history = History(root, folder / "state.jsonl")
    chosen = [part for part in parts if part.name in (asked.part or names)]
    prover = Prover(chosen, history, asked.scale, folder / "logs", root)
    end = time.monotonic() + 60 * asked.minutes
    status = prove(prover, history, parts, end, root / "PROOF.md")
    show(history, parts)
    return status


if __name__ == "__main__":
    take_signals()
    sys.exit(main())
