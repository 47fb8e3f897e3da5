"""Which folder an address means."""

from __future__ import annotations

import os
from pathlib import Path

from forwardcache.distributed.parts.folder import LocalFolder, PartsFolder
from forwardcache.distributed.parts.remote import RemoteFolder

_LOCAL = {"file", "local"}


def open_folder(address: str) -> PartsFolder:
    """The folder at a path or URL; nothing is made.

    Args:
        address: A path, or a URL of a file system that fsspec knows, such as ``s3://BUCKET/NAME``.

    Raises:
        InvalidInputError: there is no such kind of address, or what reaches it isn't installed.
    """
    scheme, separator, rest = address.partition("://")
    if not separator:
        return LocalFolder(Path(address))
    if scheme in _LOCAL:
        return LocalFolder(Path(rest))
    return RemoteFolder(address)


def absolute(address: str) -> str:
    """The same address for a process in another folder."""
    scheme, separator, rest = address.partition("://")
    if not separator:
        return os.path.abspath(address)
    return f"{scheme}://{os.path.abspath(rest)}" if scheme in _LOCAL else address
