"""Whether SQLite can be used on a path's file system: not if it is reached over a network."""

from __future__ import annotations

import os
import re
import subprocess
import warnings
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from forwardcache.errors import InvalidInputError

_MOUNTS = Path("/proc/self/mountinfo")
_MACOS_MOUNT = Path("/sbin/mount")
# Of a kernel's own disk or memory. Whatever isn't one of these may be shared with another machine
# or with the host of a virtual one, whose locks and memory SQLite doesn't see.
_LOCAL = frozenset(
    {"ext2", "ext3", "ext4", "xfs", "btrfs", "zfs", "bcachefs", "f2fs", "jfs", "jffs2", "ubifs",
     "reiserfs", "reiser4", "nilfs2", "hfs", "hfsplus", "apfs", "ntfs", "ntfs3", "vfat", "msdos",
     "exfat", "minix", "udf", "ufs", "iso9660", "squashfs", "erofs", "cramfs", "romfs", "tmpfs",
     "ramfs", "rootfs", "overlay", "aufs", "fuseblk", "shiftfs", "ecryptfs", "devtmpfs"}
)  # fmt: skip
_NETWORK = frozenset(
    {"nfs", "nfs3", "nfs4", "cifs", "smb2", "smb3", "smbfs", "9p", "ceph", "afs", "coda", "gpfs",
     "lustre", "lustre_lite", "gfs", "gfs2", "ocfs2", "glusterfs", "beegfs", "orangefs", "pvfs2",
     "virtiofs", "vboxsf", "drvfs", "prl_fs", "vmhgfs", "hgfs", "wekafs", "panfs", "ncpfs", "mmfs",
     "quobyte", "moosefs", "acfs", "vxfs_cluster", "davfs", "sshfs", "efs"}
)  # fmt: skip
_MACOS_LINE = re.compile(r".*? on (?P<point>/.*) \((?P<kind>[^,()]+)(?P<options>[^()]*)\)")


@dataclass(frozen=True)
class _Mount:
    point: str
    kind: str
    is_shared: bool
    """It belongs to a network, to the host of a virtual machine, or to a user's program (FUSE)."""
    is_known: bool = True
    """It is known to be shared, or not to be."""


def check_local(path: Path, mounts: Path = _MOUNTS, macos_mount: Path = _MACOS_MOUNT) -> None:
    """Refuses a path on a network file system, and warns of one that isn't known to be local.

    Args:
        path: The file; it need not be there.
        mounts: The kernel's table of mounts, of Linux.
        macos_mount: The program that lists the mounts where there is no such table. Without both
            nothing is refused.

    Raises:
        InvalidInputError: the file system is one of a network, of a virtual machine's host, or of
            a user's program (FUSE).
    """
    mount = _mount_of(os.path.realpath(path), _mounts(mounts, macos_mount))
    if mount is not None and mount.is_shared:
        raise InvalidInputError(
            f"{path} is on {mount.kind} (mounted at {mount.point}), where SQLite's locks and "
            "shared memory can't be relied on: keep the store on a local disk, or share one with "
            "redis://"
        )
    if mount is not None and not mount.is_known:
        warnings.warn(
            f"{path} is on {mount.kind} (mounted at {mount.point}), which is not known to be "
            "local: if other machines share it, keep the store elsewhere, since SQLite's locks may "
            "not hold there",
            stacklevel=3,
        )


def _mounts(table: Path, macos_mount: Path) -> Iterator[_Mount]:
    try:
        return _of_linux(table.read_text("utf-8", "surrogateescape"))
    except OSError:
        pass
    try:
        listed = subprocess.run([macos_mount], stdout=subprocess.PIPE, timeout=10, check=True)
    except (OSError, subprocess.SubprocessError):
        return iter(())
    return _of_macos(os.fsdecode(listed.stdout))


def _mount_of(path: str, mounts: Iterable[_Mount]) -> _Mount | None:
    """The mount that ``path`` is on."""
    found: _Mount | None = None
    for mount in mounts:
        inside = path == mount.point or path.startswith(mount.point.rstrip("/") + "/")
        # A later mount on the same point hides the earlier one.
        if inside and (found is None or len(mount.point) >= len(found.point)):
            found = mount
    return found


def _of_linux(table: str) -> Iterator[_Mount]:
    for line in table.splitlines():
        before, _, after = line.partition(" - ")
        kind = after.split(" ")[0]
        shared = kind in _NETWORK or kind == "fuse" or kind.startswith("fuse.")
        known = shared or kind in _LOCAL
        yield _Mount(_unescaped(before.split(" ")[4]), kind, shared, known)


def _of_macos(listed: str) -> Iterator[_Mount]:
    for line in listed.splitlines():
        if found := _MACOS_LINE.fullmatch(line):
            options = found["options"].removeprefix(", ").split(", ")
            yield _Mount(found["point"], found["kind"], "local" not in options)


def _unescaped(field: str) -> str:
    for octal, plain in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        field = field.replace(octal, plain)
    return field
