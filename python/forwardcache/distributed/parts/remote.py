"""Parts on a file system that fsspec reaches: an object store, a cluster's.

An object store has no rename, and its finished upload is what makes a file appear. Where a file
system shows files that are half written, nothing counts either: the receipt of a part comes after.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, cast

from forwardcache.distributed.parts.folder import PartsFolder, pieces
from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs.reasons import first_line, machine_failed

_EXCLUDING = frozenset({"s3fs", "gcsfs", "adlfs"})
"""Clients whose ``mode="create"`` is a condition that the server checks."""


class RemoteFolder(PartsFolder):
    """A folder at a URL.

    Args:
        address: The URL.

    Raises:
        InvalidInputError: nobody knows its scheme, or what reaches it isn't installed.
    """

    def __init__(self, address: str) -> None:
        self.address = address
        try:
            from fsspec.core import url_to_fs

            # What others write meanwhile is to be seen.
            self._fs, root = url_to_fs(address, use_listings_cache=False)
        except (ImportError, ValueError) as error:
            raise InvalidInputError(f"{address}: {first_line(error)}") from error
        except Exception as error:
            raise self._failed("open", address, error) from error
        self._root = root.rstrip("/")
        self.client = type(self._fs).__module__.partition(".")[0]
        self.excludes = self.client in _EXCLUDING

    def prepare(self) -> None:
        """As of ``PartsFolder``."""
        # An object store has no folders; s3fs would make a bucket of a mistyped name.
        if not self.excludes:
            with self._failures("make", self.address):
                self._fs.makedirs(self._root, exist_ok=True)

    def put(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """As of ``PartsFolder``."""
        with self._failures("write", self.shown(name)):
            if not self.excludes:
                self._fs.makedirs(self._path(name).rpartition("/")[0], exist_ok=True)
            if isinstance(content, bytes):
                self._fs.pipe_file(self._path(name), content)
                return
            with tempfile.NamedTemporaryFile() as spooled:
                for piece in pieces(content):
                    spooled.write(piece)
                spooled.flush()
                self._fs.put_file(spooled.name, self._path(name))

    def create(self, name: str, content: bytes) -> bool:
        """As of ``PartsFolder``."""
        try:
            self._fs.pipe_file(self._path(name), content, mode="create")
        except FileExistsError:
            return False
        except Exception as error:
            if _is_precondition(error):
                return False
            raise self._failed("write", self.shown(name), error) from error
        return True

    def open(self, name: str) -> BinaryIO:
        """As of ``PartsFolder``."""
        with self._failures("read", self.shown(name), missing_too=False):
            return cast(BinaryIO, self._fs.open(self._path(name), "rb"))

    def read(self, name: str) -> bytes:
        """As of ``PartsFolder``, in one request."""
        with self._failures("read", self.shown(name), missing_too=False):
            return cast(bytes, self._fs.cat_file(self._path(name)))

    def size(self, name: str) -> int | None:
        """As of ``PartsFolder``."""
        try:
            with self._failures("read", self.shown(name), missing_too=False):
                return int(self._fs.size(self._path(name)))
        except FileNotFoundError:
            return None

    def sizes(self, under: str) -> dict[str, int]:
        """As of ``PartsFolder``."""
        with self._failures("read", self.shown(under)):
            found = self._fs.find(self._path(under), detail=True)
        return {
            path[len(self._root) + 1 :]: int(facts["size"])
            for path, facts in found.items()
            if not path.rpartition("/")[2].startswith(".")
        }

    def top(self) -> list[str]:
        """As of ``PartsFolder``."""
        try:
            with self._failures("read", self.address, missing_too=False):
                found = self._fs.ls(self._root, detail=False)
        except FileNotFoundError:
            return []
        names = (path.rstrip("/")[len(self._root) + 1 :] for path in found)
        return sorted(name for name in names if name)

    def remove(self, name: str) -> None:
        """As of ``PartsFolder``."""
        with self._failures("remove", self.shown(name)):
            if self._fs.exists(path := self._path(name)):
                self._fs.rm_file(path)

    def clear(self, under: str) -> None:
        """As of ``PartsFolder``."""
        with self._failures("remove", self.shown(under)):
            if self._fs.exists(path := self._path(under)):
                self._fs.rm(path, recursive=True)

    def _path(self, name: str) -> str:
        return f"{self._root}/{name}"

    @contextmanager
    def _failures(self, doing: str, what: str, *, missing_too: bool = True) -> Iterator[None]:
        """Whatever the client raises as one line: the clients' errors have no common root."""
        try:
            yield
        except (InvalidInputError, MachineError):
            raise
        except FileNotFoundError as error:
            if not missing_too:
                raise
            raise self._failed(doing, what, error) from error
        except Exception as error:
            raise self._failed(doing, what, error) from error

    def _failed(self, doing: str, what: str, error: Exception) -> Exception:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else ""
        line = f"can't {doing} {what}: {reason or first_line(error)}"
        is_machine = isinstance(error, OSError) and machine_failed(error)
        return MachineError(line) if is_machine else InvalidInputError(line)


def _is_precondition(error: Exception) -> bool:
    """Whether a server says that its condition did not hold."""
    told = getattr(error, "response", None) or getattr(error.__cause__, "response", None)
    code: Any = told.get("Error", {}).get("Code") if isinstance(told, dict) else None
    return code in {"PreconditionFailed", "ConditionalRequestConflict", "412", "409"}
