"""Whether a file's place is fit for SQLite: not on a file system that is reached over a network."""

from __future__ import annotations

import os
from pathlib import Path

from forwardcache.errors import InvalidInputError

_MOUNTS = Path("/proc/self/mountinfo")
_NETWORK = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "afs", "coda", "gpfs", "lustre", "gfs2",
     "ocfs2", "glusterfs", "beegfs", "orangefs", "pvfs2", "virtiofs"}
)  # fmt: skip


def check_local(path: Path, mounts: Path = _MOUNTS) -> None:
    """Refuses a path on a network file system.

    Args:
        path: The file; it need not be there.
        mounts: The kernel's table of mounts. Without one nothing is refused.

    Raises:
        InvalidInputError: the file system is one of a network, or of a user's program (FUSE).
    """
    try:
        table = mounts.read_text("utf-8", "surrogateescape")
    except OSError:
        return
    point, kind = _mount_of(os.path.realpath(path), table)
    if kind in _NETWORK or kind == "fuse" or kind.startswith("fuse."):
        raise InvalidInputError(
            f"{path} is on {kind} (mounted at {point}), where SQLite's locks and shared memory "
            "can't be relied on: keep the store on a local disk, or share one with redis://"
        )


def _mount_of(path: str, table: str) -> tuple[str, str]:
    """Mount point and type of the file system that ``path`` is on."""
    found = ("/", "")
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        point = _unescaped(before.split(" ")[4])
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        # A later mount on the same point hides the earlier one.
        if inside and len(point) >= len(found[0]):
            found = point, after.split(" ")[0]
    return found


def _unescaped(field: str) -> str:
    for octal, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, plain)
    return field
