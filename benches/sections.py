"""The sections of RESULTS.md: how they are asked for, and how they get there."""

import argparse
import sys
import time
from collections.abc import Callable
from pathlib import Path

from benches.machine import refuse_debug_build


def publish(section: Callable[..., str], doc: str | None, **defaults: float | str) -> None:
    """Measures, prints the section, with ``--write FILE`` puts it there, tells the time it took.

    Each of ``defaults`` is an argument of ``section`` and an option of the command line.
    """
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the section into FILE")
    for name, value in defaults.items():
        option = f"--{name.replace('_', '-')}"
        parser.add_argument(option, type=type(value), default=value, help="default: %(default)s")
    options = vars(parser.parse_args())
    path = options.pop("write")
    refuse_debug_build()
    began = time.monotonic()
    text = section(**options)
    print(text)
    print(f"took {time.monotonic() - began:,.0f} s", file=sys.stderr)
    if path:
        write_section(path, text)


def write_section(path: Path, text: str) -> None:
    """Replaces the section of ``path`` that has the title of ``text``; leaves the others alone."""
    title = text.split("\n", 1)[0]
    before = path.read_text() if path.exists() else "# Results\n"
    sections = before.split("\n## ")
    kept = [each for each in sections if f"\n## {each}".split("\n")[1] != title]
    path.write_text("\n## ".join([kept[0], text.removeprefix("## "), *kept[1:]]))


def verdict(is_met: bool) -> str:
    return "met" if is_met else "**missed**"
