"""The source of every module that a run has imported, and whether it still is the same.

A key that lasts has in it what code the model's classes run. Which code that is, the files of the
modules tell: those that have been imported when a run ends, the standard library apart. A file that
looks the same to the file system is the same, since whoever writes one changes its time of inode;
one that was changed while the run went on, or shortly before, isn't vouched for.
"""

from __future__ import annotations

import hashlib
import os
import stat
import sys
import sysconfig
import time
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from forwardcache.jobs.fingerprint import content_digest, facts_of
from forwardcache.jobs.metadata import DECIDING_PACKAGES

_SLACK_S = 2.0
# Where nobody tells when a process began.
_UNKNOWN_SLACK_S = 60.0
_IMPORTED_AT = time.time()
_LARGE_BYTES = 64 * 2**20
# The second is what multiprocessing calls it.
_MAIN = ("__main__", "__mp_main__")


@dataclass(frozen=True, slots=True)
class Sources:
    """The files of modules at one moment.

    Attributes:
        roots: Top-level modules, and where each was found.
        paths: All files.
        looks: Hex digest over what the file system said of each.
        contents: Hex digest over their contents.
    """

    roots: dict[str, str]
    paths: tuple[str, ...]
    looks: str
    contents: str

    def hold(self) -> bool:
        """Whether all files are the same, and would be found again.

        Of modules that are imported already, each has to be one of them.
        """
        known = set(self.paths)
        return (
            known.issuperset(path for _, path in _imported())
            and all(_place_of(name) == where for name, where in self.roots.items())
            and (_looks(self.paths) == self.looks or _contents(self.paths) == self.contents)
        )


def imported_sources() -> Sources | None:
    """Those of the modules that are imported now; None where one of them can't be vouched for."""
    modules = dict(_imported())
    paths = tuple(sorted(set(modules.values())))
    latest = _began() - _SLACK_S
    try:
        if any(os.stat(path).st_ctime > latest for path in paths):
            return None
    except OSError:
        return None
    looks, contents = _looks(paths), _contents(paths)
    roots = {name: path for name, path in modules.items() if "." not in name}
    if looks is None or contents is None or any(_place_of(name) != roots[name] for name in roots):
        return None
    return Sources(roots, paths, looks, contents)


def is_fresh() -> bool:
    """Whether nobody has imported, and so may have changed, what runs a model."""
    return not any(name in sys.modules for name in DECIDING_PACKAGES)


def _imported() -> Iterator[tuple[str, str]]:
    """Name and file of each module that isn't of the standard library."""
    for name, module in list(sys.modules.items()):
        spec = getattr(module, "__spec__", None)
        path = getattr(spec, "origin", None)
        if isinstance(path, str) and _is_outside(path):
            # One that is run as a module can be found under the name that it has elsewhere.
            yield (spec.name if spec is not None and name in _MAIN else name), path


def _is_outside(path: str) -> bool:
    installed, library = _folders()
    return os.path.isabs(path) and (path.startswith(installed) or not path.startswith(library))


@cache
def _folders() -> tuple[tuple[str, ...], tuple[str, ...]]:
    paths = sysconfig.get_paths()
    installed = {os.path.join(paths[name], "") for name in ("purelib", "platlib")}
    library = {os.path.join(paths[name], "") for name in ("stdlib", "platstdlib")}
    return tuple(installed), tuple(library)


def _place_of(name: str) -> str | None:
    """Where a module would be found."""
    module = sys.modules.get(name)
    try:
        spec = find_spec(name) if module is None else module.__spec__
    except (ImportError, ValueError, AttributeError):
        return None
    return None if spec is None else spec.origin


def _looks(paths: Iterable[str]) -> str | None:
    digest = hashlib.sha256()
    try:
        for path in paths:
            seen = os.stat(path)
            if not stat.S_ISREG(seen.st_mode):
                return None
            facts = seen.st_size, seen.st_mtime_ns, seen.st_ctime_ns, seen.st_ino, seen.st_dev
            digest.update(f"{path}\0{facts}".encode("utf-8", "surrogateescape"))
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def _contents(paths: Iterable[str]) -> str | None:
    digest = hashlib.sha256()
    try:
        for path in paths:
            if not stat.S_ISREG(os.stat(path).st_mode):
                return None
            facts = facts_of(Path(path))
            is_large = facts[0] > _LARGE_BYTES
            said = (
                f"{facts}".encode() if is_large else content_digest.__wrapped__(Path(path), facts)
            )
            digest.update(path.encode("utf-8", "surrogateescape") + b"\0" + said)
    except (OSError, ValueError):
        return None
    return digest.hexdigest()


def _began() -> float:
    """When this process began, seconds since the epoch, or before that."""
    with suppress(OSError, ValueError, IndexError):
        ticks = float(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        since_boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        age = since_boot - ticks / os.sysconf("SC_CLK_TCK")
        return time.time() - age
    return _IMPORTED_AT - _UNKNOWN_SLACK_S


__all__ = ["Sources", "imported_sources", "is_fresh"]
