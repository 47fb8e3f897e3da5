"""Writes THIRD-PARTY.txt, which goes with every wheel: ``python -m tools.notices``.

The wheel holds compiled code of other people's crates, and their licences ask that their notices
go with it. Of several licences that a crate offers the one with the least text is taken. Crates of
one text stand together.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from tools.crates import NAME, ROOT, Crate, linked_crates

FILE = ROOT / "THIRD-PARTY.txt"
_PATTERNS = ("LICENSE*", "LICENCE*", "COPYING*", "NOTICE*", "COPYRIGHT*")
# The licences that are taken, best first, and what the files of their texts are called.
_WORDS = {"MIT": "MIT", "BSL-1.0": "BOOST", "Apache-2.0": "APACHE"}
_RULE = "=" * 80
_HEAD = """\
The compiled part of forwardcache holds code of the crates below and of Rust's standard library.
Each is named with its licence, and followed by the notices that came with its sources.

Rust's standard library: Copyright (c) The Rust Project Contributors, MIT OR Apache-2.0,
https://github.com/rust-lang/rust/blob/master/COPYRIGHT
"""


def notices(crates: Iterable[Crate]) -> str:
    """The file's text.

    Raises:
        ValueError: a crate comes without a notice.
    """
    crates_of: dict[str, list[str]] = defaultdict(list)
    for crate in crates:
        if crate.name == NAME:
            continue
        taken = _taken(crate)
        texts = [path.read_text("utf-8").strip() for path in _files(crate.folder, _WORDS[taken])]
        if not texts:
            raise ValueError(f"{crate.name} ({crate.licence}) has no file with its notice")
        crates_of[f"\n\n{'-' * 80}\n\n".join(texts)].append(f"{crate.name}: {taken}")
    parts = [_HEAD]
    for text, names in sorted(crates_of.items(), key=lambda item: item[1]):
        parts.append("\n".join([_RULE, *names, _RULE, "", text, ""]))
    return "\n".join(line.rstrip() for line in "\n".join(parts).splitlines()) + "\n"


def _taken(crate: Crate) -> str:
    offered = crate.licence.replace("/", " OR ").split(" OR ")
    for licence in _WORDS:
        if licence in offered:
            return licence
    raise ValueError(f"{crate.name} is under {crate.licence}; one of {', '.join(_WORDS)} is needed")


def _files(folder: Path, word: str) -> list[Path]:
    """The files of the licence that ``word`` stands for, or the only ones that there are."""
    found = sorted({path for pattern in _PATTERNS for path in folder.glob(pattern)})
    others = [other for other in _WORDS.values() if other != word]
    fitting = [path for path in found if not any(other in path.name.upper() for other in others)]
    return fitting or found


def main() -> None:
    """Write the file."""
    FILE.write_text(notices(linked_crates()), "utf-8")


if __name__ == "__main__":
    main()
