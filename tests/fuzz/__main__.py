"""Fuzzes a target by coverage, and says how many seconds of a processor that took.

``python -m tests.fuzz TARGET --seconds S --seed N``: ``journal`` with cargo-fuzz, which needs a
nightly compiler, the others with atheris. What makes a target fail is kept in ``target/fuzz``, with
the inputs that led somewhere new, from which the next run goes on.
"""

from __future__ import annotations

import argparse
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "target" / "fuzz"
JOURNAL = "journal"
CARGO = ("cargo", "+nightly", "fuzz")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", choices=[JOURNAL, "reader", "store", "judge"])
    parser.add_argument("--seconds", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    asked = parser.parse_args()
    corpus = FOLDER / asked.target
    corpus.mkdir(parents=True, exist_ok=True)
    options = [
        f"-max_total_time={asked.seconds}",
        # libFuzzer takes 0 for one by the clock.
        f"-seed={asked.seed + 1}",
        f"-artifact_prefix={FOLDER}/{asked.target}-",
        "-print_final_stats=1",
    ]
    command = (
        journal_command(corpus) if asked.target == JOURNAL else python_command(asked.target, corpus)
    )
    before = processor_s()
    ran = subprocess.run(
        [*command, *options], cwd=ROOT, check=False, stderr=subprocess.PIPE, text=True
    )
    print(ran.stderr[-4000:])
    found = re.search(r"number_of_executed_units: (\d+)", ran.stderr)
    print(f"prove: {int(processor_s() - before)} CPU seconds")
    print(f"prove: {found[1] if found else 0} inputs")
    return ran.returncode


def processor_s() -> float:
    """Seconds of a processor that ended children took."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def journal_command(corpus: Path) -> list[str]:
    """Builds the target first, so that its compiler's time is not counted."""
    subprocess.run([*CARGO, "build", "--sanitizer", "none", JOURNAL], cwd=ROOT, check=True)
    return [*CARGO, "run", "--sanitizer", "none", JOURNAL, str(corpus), "--"]


def python_command(target: str, corpus: Path) -> list[str]:
    from tests.fuzz import corpus as first

    for number, data in enumerate(first.of(target)):
        (corpus / f"first-{number}").write_bytes(data)
    # Children get their names from what they do; the fuzzer takes all other arguments.
    return [sys.executable, "-m", "tests.fuzz.by_coverage", target, str(corpus)]


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
