"""The lowest declared version of everything that a user may install with the package.

Each bound stands in ``pyproject.toml`` alone. ``make test-lowest`` gives pip what this prints as
constraints, so exactly these versions are installed and tested.
"""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).parent.parent
OWN = "forwardcache"


def lowest(pyproject: str) -> Iterator[str]:
    """Lines ``name==version``, sorted, of the extras in the text of a ``pyproject.toml``.

    Args:
        pyproject: The file's text.

    Raises:
        ValueError: two bounds of one package, or a package without exactly one lower bound.
    """
    bounds: dict[str, str] = {}
    for lines in tomllib.loads(pyproject)["project"]["optional-dependencies"].values():
        for requirement in map(Requirement, lines):
            if requirement.name != OWN:
                bound = _bound(requirement)
                if bounds.setdefault(requirement.name, bound) != bound:
                    raise ValueError(f"{requirement.name} has two lower bounds")
    yield from (f"{name}=={bound}" for name, bound in sorted(bounds.items()))


def _bound(requirement: Requirement) -> str:
    found = [part.version for part in requirement.specifier if part.operator == ">="]
    if len(found) != 1:
        raise ValueError(f"{requirement} has {len(found)} lower bounds, not one")
    return found[0]


if __name__ == "__main__":
    sys.stdout.write("".join(f"{line}\n" for line in lowest((ROOT / "pyproject.toml").read_text())))
