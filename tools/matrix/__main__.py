"""Tries every causal model type of the installed transformers, and every kind of adapter of PEFT's.

`make matrix`, or `python -m tools.matrix`. Exits with 1 if a value is wrong, something crashes, or
more than five types that are scored have no streams.

Reading order: `verdict` (what is seen), `shrink` and `special` (how a type becomes a tiny model),
`cases`, `oracle` (what is right), `scoring`, `streams`, `adapters` (the checks), `examine` (all of
one case), `worker` and `pool` (the processes in which cases run), `page`.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from typing import Final

from tests.hf.adapter_cases import CASES
from tools.matrix.cases import cases
from tools.matrix.page import LIBRARIES, counts, faults, lines_of, page
from tools.matrix.pool import ROOT, verdicts
from tools.matrix.verdict import Verdict

PAGE: Final = ROOT / "docs" / "models.md"
KEPT: Final = ROOT / "target" / f"matrix-{'-'.join(map(version, LIBRARIES))}.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    given = _parsed(arguments)
    names = _chosen(given.types, given.adapters)
    began = time.monotonic()
    found: list[Verdict] = []
    for verdict in verdicts(names, processes=given.processes, limit_s=given.limit):
        found.append(verdict)
        _keep(verdict)
        print(f"[{len(found)}/{len(names)}]", *lines_of(verdict), sep="\n  ", flush=True)
    models = [each for each in found if each.group != "adapter"]
    adapters = [each for each in found if each.group == "adapter"]
    print(*counts(models), "", f"{len(adapters)} adapters", sep="\n")
    print(f"{time.monotonic() - began:.0f} s")
    if given.write:
        _write()
    failed = faults(found)
    print(*failed, f"{len(failed)} faults", sep="\n")
    return 1 if failed else 0


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.matrix", description=__doc__)
    parser.add_argument("--types", help="only these models, by name, with commas between them")
    parser.add_argument("--adapters", help="only adapters whose name begins with this")
    parser.add_argument(
        "--write", action="store_true", help="write docs/models.md, from the newest verdicts"
    )
    parser.add_argument("--processes", type=int, default=2, help="how many cases run at once")
    parser.add_argument("--limit", type=float, default=120.0, help="most seconds for a case")
    return parser.parse_args(arguments)


def _chosen(types: str | None, adapters: str | None) -> list[tuple[str, str]]:
    """Names and groups of what is asked for; everything if nothing is named."""
    models = [(case.name, case.group) for case in cases().values()]
    changes = [(name, "adapter") for name in CASES]
    if types is None and adapters is None:
        return [*models, *changes]
    named = [] if types is None else [each.strip() for each in types.split(",")]
    unknown = set(named) - {name for name, _ in models}
    if unknown:
        raise SystemExit(f"no such models: {', '.join(sorted(unknown))}")
    chosen: list[tuple[str, str]] = [each for each in models if each[0] in named]
    return chosen + [
        each for each in changes if adapters is not None and each[0].startswith(adapters)
    ]


def _keep(found: Verdict) -> None:
    """Leaves the newest verdict on each case for whoever looks closer."""
    KEPT.parent.mkdir(parents=True, exist_ok=True)
    kept = _kept() | {found.name: found}
    KEPT.write_text("".join(json.dumps(each.as_data()) + "\n" for each in kept.values()))


def _kept() -> dict[str, Verdict]:
    """The newest verdict on each case with the installed versions, by name."""
    lines = KEPT.read_text().splitlines() if KEPT.exists() else []
    return {each.name: each for each in map(Verdict.of_data, map(json.loads, lines))}


def _write() -> None:
    """Writes the page, which needs a verdict on everything."""
    kept = _kept()
    missing = [name for name, _ in _chosen(None, None) if name not in kept]
    if missing:
        raise SystemExit(f"no verdict yet on {', '.join(missing)}: run it without --types")
    models = [kept[name] for name in cases()]
    PAGE.write_text(page(models, [kept[name] for name in CASES]))


if __name__ == "__main__":
    sys.exit(main())
