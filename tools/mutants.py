"""Faults put into the cache one at a time, each of which some test must notice.

`make mutants`, or `python tools/mutants.py WORDS` for those whose name has the words. A fault is a
text in a source file and what stands there instead: an ordering that is weakened, a second look
that is left out, a compare-and-swap that became a load and a store. Exit status 1 if the tests pass
with any of them, or if a text is no longer there.
"""

from __future__ import annotations

import os
import resource
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
WORK: Final = ROOT / "target" / "mutants"
# A fault can make a test ask for memory without end; without one, all stays within this.
MEMORY_BYTES: Final = 8 * 2**30
SOURCES: Final = (
    "Cargo.toml",
    "Cargo.lock",
    "build.rs",
    "README.md",
    "LICENSE",
    "rust",
    "benches/rust",
)

LOOM: Final = ("--cfg loom", "models")
PLAIN: Final = ("", "cache::tests")
SHUTTLE: Final = ("--cfg shuttle", "cache::scenarios")
FLIGHTS: Final = ("", "cache::flight")
TURNS: Final = ("--cfg take_turns", "cache::")
SAMPLING: Final = ("", "sampling::")


@dataclass(frozen=True, slots=True)
class Fault:
    """One text of a file that becomes another, and the tests that must fail then."""

    name: str
    file: str
    text: str
    becomes: str
    tests: tuple[str, str]


FAULTS: Final = (
    Fault(
        "a reader takes a dead entry in hand",
        "entry.rs",
        "            if state.is_dead() {\n                return None;\n            }\n"
        "            if state.readers()",
        "            if state.readers()",
        LOOM,
    ),
    Fault(
        "changes of an entry order nothing",
        "entry.rs",
        "self.state.swap(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)",
        "self.state.swap(from.0, to.0, Ordering::Relaxed, Ordering::Relaxed)",
        LOOM,
    ),
    Fault(
        "the last reader does not wait for the others' reads",
        "entry.rs",
        "self.state.fetch_sub(1, Ordering::AcqRel)",
        "self.state.fetch_sub(1, Ordering::Relaxed)",
        LOOM,
    ),
    Fault(
        "a killer takes what a reader still reads",
        "entry.rs",
        "let is_alone = state.readers() == 0;",
        "let is_alone = true;",
        LOOM,
    ),
    Fault(
        "an older use overwrites a newer one",
        "entry.rs",
        "let last = state.tick().max(tick);",
        "let last = tick;",
        PLAIN,
    ),
    Fault(
        "an entry is older than its put",
        "entry.rs",
        "        let tick = clock.now();\n        while",
        "        let _ = clock;\n        let tick = Tick(1);\n        while",
        PLAIN,
    ),
    Fault(
        "an eviction takes an entry that was used meanwhile",
        "entry.rs",
        "self.kill_if(|last| last == tick)",
        "self.kill_if(|_| tick != Tick::DEAD)",
        LOOM,
    ),
    Fault(
        "a dead entry is a miss without a second look",
        "mod.rs",
        "return (!dead.contains(&entry.id)).then_some(Looked::Died(entry.id));",
        "return None;",
        LOOM,
    ),
    Fault(
        "a removal takes out whatever entry has the hash",
        "table/model.rs",
        "let is_it = |other: &&Arc<Entry<K, V>>| std::ptr::eq(Arc::as_ptr(other), entry);",
        "let is_it = |_: &&Arc<Entry<K, V>>| true;",
        LOOM,
    ),
    Fault(
        "two putters evict for one excess",
        "capacity.rs",
        "let reserved = self.entries.update(Ordering::Relaxed, Ordering::Relaxed, reserve);",
        "let reserved = reserve(self.entries.load(Ordering::Relaxed))\n"
        "            .map(|_| self.entries.fetch_sub(1, Ordering::Relaxed))\n"
        "            .ok_or(0);",
        LOOM,
    ),
    Fault(
        "what an eviction could not take is counted as gone",
        "put.rs",
        "            if self.table.remove(oldest, guard) {\n",
        "            if self.table.remove(oldest, guard) || true {\n",
        LOOM,
    ),
    Fault(
        "an excess that was left to a reservation stays",
        "put.rs",
        "self.usage.came() != came",
        "came == u64::MAX",
        SHUTTLE,
    ),
    Fault(
        "reads do not ask whether an entry is still good",
        "mod.rs",
        "let is_it = entry.epoch(now) == now\n                &&",
        "let is_it =",
        PLAIN,
    ),
    Fault(
        "a value that comes too late is kept",
        "put.rs",
        "if entry.epoch(seen) != seen",
        "if false && entry.epoch(seen) != seen",
        LOOM,
    ),
    Fault(
        "a read takes from a removal what that sweeps",
        "mod.rs",
        "Match::Yes if self.is_swept() => {",
        "Match::Yes => {",
        PLAIN,
    ),
    Fault(
        "a removal does not advance the epoch",
        "removal.rs",
        "self.epoch.fetch_add(Epoch::GENERATION, Ordering::AcqRel)",
        "self.epoch.fetch_add(0, Ordering::AcqRel)",
        PLAIN,
    ),
    Fault(
        "a value that is too large leaves the old one",
        "put.rs",
        "let Some(killed) = self.remove(entry, guard) else { continue };",
        "let Some(killed) = None else { break };",
        PLAIN,
    ),
    Fault(
        "a use that was told late is passed over for good",
        "order/snapshot.rs",
        "misplaced |= last != tick",
        "misplaced |= false && last != tick",
        PLAIN,
    ),
    Fault(
        "a snapshot is not in order",
        "order/snapshot.rs",
        "        names.sort_unstable();\n",
        "        names.reverse();\n",
        PLAIN,
    ),
    Fault(
        "nobody is told that a flight ended",
        "flight.rs",
        "        if waiting > 0 {",
        "        if waiting > 1 {",
        LOOM,
    ),
    Fault(
        "a flight that failed stays open",
        "flight.rs",
        "        self.end(|| State::Failed);\n",
        "        let _ = State::<V>::Failed;\n",
        FLIGHTS,
    ),
    Fault(
        "a cycle of waiting threads is not seen",
        "flight.rs",
        "return Err(Refused::Cycle);",
        "break;",
        FLIGHTS,
    ),
    Fault(
        "an eviction gives what it meets no epoch",
        "order/mod.rs",
        "        entry.epoch(Epoch(self.epoch.load(Ordering::Acquire)));\n",
        "",
        PLAIN,
    ),
    Fault(
        "two removals at once write down and count in two orders",
        "removal.rs",
        "self.commits.with(|()| {",
        "crate::sync::Turns::<()>::default().with(|()| {",
        PLAIN,
    ),
    Fault(
        "a use leaves the list as it was",
        "table/by_use.rs",
        "if !eq(self.newest.get(), entry) {",
        "if eq(self.newest.get(), entry) {",
        TURNS,
    ),
    Fault(
        "a use that is told late counts as the newest",
        "table/by_use.rs",
        "            && tick(other) > used\n",
        "            && tick(other) > used.max(Tick::NEW)\n",
        TURNS,
    ),
    Fault(
        "an entry that is taken out stays its neighbour's",
        "table/by_use.rs",
        "older.map_or(&self.oldest, |older| &older.links.newer).set(entry.links.newer.get());",
        "let _ = older;",
        TURNS,
    ),
    Fault(
        "what an eviction meets first stays the oldest",
        "order/list.rs",
        "            table.used(entry);\n",
        "            return Some((entry, tick));\n",
        TURNS,
    ),
    Fault(
        "a removal leaves the entry in the order of use",
        "table/turns.rs",
        "            self.by_use.take_out(entry);\n",
        "",
        TURNS,
    ),
    Fault(
        "what went is freed while somebody may look at it",
        "table/turns.rs",
        "if guards == 0 && !self",
        "if !self",
        TURNS,
    ),
    Fault(
        "a bucket keeps what belongs to the one split from it",
        "table/buckets.rs",
        "            self.link(entry);\n        }\n    }\n",
        "            entry.links.next.set(split.replace(entry));\n        }\n    }\n",
        TURNS,
    ),
    Fault(
        "a bucket that isn't there yet is looked up elsewhere",
        "table/buckets.rs",
        "if index < len { index } else { index & self.mask.get() >> 1 }",
        "if index < len { index } else { 0 }",
        TURNS,
    ),
    Fault(
        "buckets are not added with the entries",
        "table/buckets.rs",
        "for _ in 0..BUCKETS_AN_ENTRY {",
        "for _ in 1..BUCKETS_AN_ENTRY {",
        TURNS,
    ),
    Fault(
        "a large set of evicted keys is made anew",
        "ghosts.rs",
        "self.younger.reserve(Self::LEAST);",
        "self.younger.reserve(1);",
        TURNS,
    ),
    Fault(
        "the first hit counts as often as a later one",
        "../sampling.rs",
        "Ok(0) if is_first => 1,",
        "Ok(0) if is_first => Self::MEAN_GAP,",
        SAMPLING,
    ),
    Fault(
        "hits are timed at regular gaps",
        "../sampling.rs",
        "let random = self.random();",
        "let random = 1 << (self.random() % 2);",
        SAMPLING,
    ),
    Fault(
        "a hit that another thread timed counts too",
        "../sampling.rs",
        "            _ => 0,\n",
        "            _ => Self::MEAN_GAP,\n",
        SAMPLING,
    ),
)


def _copy_sources(tree: Path) -> None:
    """A tree of its own, next to build folders that are kept from fault to fault.

    With new times, or cargo would take what an interrupted run has built for the present sources.
    """
    shutil.rmtree(tree, ignore_errors=True)
    for name in SOURCES:
        source, target = ROOT / name, tree / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, target, copy_function=shutil.copy)
        else:
            shutil.copy(source, target)


def _limit_memory() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))


def _passes(tree: Path, tests: tuple[str, str]) -> bool:
    """Whether the tests pass; ten minutes, or more memory than there is for one, is to fail."""
    flags, names = tests
    environment = os.environ | {
        "RUSTFLAGS": flags,
        "CARGO_TARGET_DIR": str(WORK / (flags.removeprefix("--cfg ") or "plain")),
        "LOOM_MAX_PREEMPTIONS": "3",
        "SCHEDULES": "600000",
    }
    command = ["cargo", "test", "--quiet", "--locked", "--release", "--lib", names]
    try:
        ran = subprocess.run(
            command,
            cwd=tree,
            env=environment,
            timeout=600,
            check=False,
            capture_output=True,
            preexec_fn=_limit_memory,
        )
    except subprocess.TimeoutExpired:
        return False
    if b"error: could not compile" in ran.stderr:
        raise SystemExit(f"does not compile:\n{ran.stderr.decode()}")
    return ran.returncode == 0


def _is_noticed(tree: Path, fault: Fault) -> bool:
    path = tree / "rust" / "cache" / fault.file
    whole = path.read_text()
    if whole.count(fault.text) != 1:
        raise SystemExit(f"{fault.name}: {fault.file} has not once the text {fault.text!r}")
    path.write_text(whole.replace(fault.text, fault.becomes))
    try:
        return not _passes(tree, fault.tests)
    finally:
        path.write_text(whole)


def main() -> int:
    """Tries every fault, or those whose name has the words given; 1 if one is not noticed."""
    words = " ".join(sys.argv[1:])
    faults = [fault for fault in FAULTS if words in fault.name]
    tree = WORK / "tree"
    _copy_sources(tree)
    for tests in (LOOM, SHUTTLE, PLAIN, FLIGHTS, TURNS, SAMPLING):
        if not _passes(tree, tests):
            print(f"the tests {tests[1]} fail as they are", file=sys.stderr)
            return 1
    unnoticed = []
    for fault in faults:
        began = time.monotonic()
        noticed = _is_noticed(tree, fault)
        unnoticed += [] if noticed else [fault.name]
        verdict, took_s = "noticed" if noticed else "NOT NOTICED", time.monotonic() - began
        print(f"{verdict:12} {took_s:4.0f} s  {fault.name}", flush=True)
    print(f"{len(faults) - len(unnoticed)} of {len(faults)} faults noticed")
    return 1 if unnoticed else 0


if __name__ == "__main__":
    sys.exit(main())
