"""Where parts stand: a folder of this machine, or any that fsspec reaches.

Files come whole or not at all: on a disk they get their name when they are there, on an object
store the finished upload is what makes them appear. Names are relative to the folder, with ``/``.
"""

from __future__ import annotations

import os
import re
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from forwardcache.errors import InvalidInputError, MachineError
from forwardcache.jobs.durable import sync_folder, to_disk
from forwardcache.jobs.outfile import check_target
from forwardcache.jobs.reasons import machine_failed, os_words

PARTS = "parts"
RECEIPTS = "receipts"
JOB = "_job.json"
LOCK = "_lock"
SUCCESS = "_SUCCESS.json"

_OURS = re.compile(
    rf"(?:{PARTS}|{RECEIPTS}|{re.escape(JOB)}|{re.escape(SUCCESS)}|{LOCK}(?:\.\d+)?)\Z"
)
_PASSING = re.compile(r"\..+\.[0-9a-f]{8}\.tmp\Z")


class PartsFolder(ABC):
    """Files by name.

    Attributes:
        address: Its path, or its URL.
        client: The package that reaches it.
        excludes: Whether ``create`` is one step for whoever else writes there.
    """

    address: str
    client: str = "os"
    excludes: bool = True

    def check(self) -> None:  # noqa: B027 - of a store nothing is asked before it has to be
        """Refuse a place where no folder can be.

        Raises:
            InvalidInputError: saying so.
        """

    @abstractmethod
    def prepare(self) -> None:
        """Make it where it isn't there.

        Raises:
            InvalidInputError: it can't be.
        """

    @abstractmethod
    def put(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """Write a file, whole or not at all; one of that name is replaced.

        Args:
            name: Its name.
            content: Its bytes, or pieces of them.

        Raises:
            InvalidInputError: it can't be written.
            MachineError: so, and disk or memory gave out.
        """

    @abstractmethod
    def create(self, name: str, content: bytes) -> bool:
        """Write a file if there is none of that name; whether there was none.

        Raises:
            InvalidInputError: it can't be written, or this kind of folder can't tell.
            MachineError: as of ``put``.
        """

    @abstractmethod
    def open(self, name: str) -> BinaryIO:
        """A file to read from.

        Raises:
            FileNotFoundError: there is none.
            InvalidInputError: it can't be read.
        """

    @abstractmethod
    def size(self, name: str) -> int | None:
        """Bytes of a file; None where there is none."""

    @abstractmethod
    def sizes(self, under: str) -> dict[str, int]:
        """Bytes of each file below a folder of this one; those on their way to a name left out."""

    @abstractmethod
    def top(self) -> list[str]:
        """The names of what is directly in it, in order."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""

    @abstractmethod
    def clear(self, under: str) -> None:
        """Remove a folder of this one, with what is in it."""

    def remove_passing(self) -> None:  # noqa: B027 - a store whose uploads appear whole has none
        """Remove what writers that died left on its way to a name."""

    def empty(self) -> None:
        """Remove what is of a job; the manifest first, so that none is of parts that have gone."""
        for name in (SUCCESS, JOB):
            self.remove(name)
        for under in (RECEIPTS, PARTS):
            self.clear(under)

    def read(self, name: str) -> bytes:
        """The bytes of a file.

        Raises:
            FileNotFoundError: there is none.
            InvalidInputError: it can't be read.
        """
        with self.open(name) as file:
            return file.read()

    def foreign(self) -> list[str]:
        """What is directly in it and of no job of parts, in order."""
        return [name for name in self.top() if not (_OURS.match(name) or _PASSING.match(name))]

    def is_begun(self) -> bool:
        """Whether there is anything of a job."""
        return bool({PARTS, RECEIPTS, JOB, SUCCESS}.intersection(self.top()))

    def shown(self, name: str) -> str:
        """A file's name for a message."""
        return f"{self.address.rstrip('/')}/{name}"


class LocalFolder(PartsFolder):
    """A folder that the operating system has.

    Args:
        root: Its path.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self.address = str(root)

    def check(self) -> None:
        """As of ``PartsFolder``."""
        named = f"--out {self.root}"
        if not self.root.is_dir():
            check_target(self.root, named)
            if os.path.lexists(self.root):
                raise InvalidInputError(f"{named} is a file: --parts writes a folder")

    def prepare(self) -> None:
        """As of ``PartsFolder``."""
        self.check()
        with self._failures(self.root):
            self.root.mkdir(exist_ok=True)

    def put(self, name: str, content: bytes | Iterable[bytes]) -> None:
        """As of ``PartsFolder``."""
        target = self.root / name
        with self._failures(target), self._written(target, content) as passing:
            passing.replace(target)
            sync_folder(target.parent)

    def create(self, name: str, content: bytes) -> bool:
        """As of ``PartsFolder``."""
        target = self.root / name
        with self._failures(target), self._written(target, content) as passing:
            try:
                os.link(passing, target)
            except FileExistsError:
                return False
            except OSError:
                # No links here; under the lock of one driver nobody comes between.
                if target.exists():
                    return False
                passing.replace(target)
            sync_folder(target.parent)
        return True

    def open(self, name: str) -> BinaryIO:
        """As of ``PartsFolder``."""
        path = self.root / name
        try:
            return path.open("rb")
        except FileNotFoundError:
            raise
        except OSError as error:
            raise InvalidInputError(f"can't read {path}: {os_words(error)}") from error

    def size(self, name: str) -> int | None:
        """As of ``PartsFolder``."""
        with suppress(OSError):
            return (self.root / name).stat().st_size
        return None

    def sizes(self, under: str) -> dict[str, int]:
        """As of ``PartsFolder``."""
        found = {}
        for folder, _, names in os.walk(self.root / under):
            inner = Path(folder).relative_to(self.root).as_posix()
            for name in names:
                full = f"{inner}/{name}"
                if not name.startswith(".") and (size := self.size(full)) is not None:
                    found[full] = size
        return found

    def top(self) -> list[str]:
        """As of ``PartsFolder``."""
        try:
            return sorted(os.listdir(self.root))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise InvalidInputError(f"can't read {self.root}: {os_words(error)}") from error

    def remove(self, name: str) -> None:
        """As of ``PartsFolder``."""
        with self._failures(self.root / name):
            (self.root / name).unlink(missing_ok=True)

    def clear(self, under: str) -> None:
        """As of ``PartsFolder``."""
        for folder, folders, names in os.walk(self.root / under, topdown=False):
            with self._failures(Path(folder)):
                for name in names:
                    Path(folder, name).unlink(missing_ok=True)
                for name in folders:
                    Path(folder, name).rmdir()
        with self._failures(self.root / under), suppress(FileNotFoundError):
            (self.root / under).rmdir()

    def remove_passing(self) -> None:
        """As of ``PartsFolder``."""
        for folder, _, names in os.walk(self.root):
            for name in filter(_PASSING.match, names):
                with suppress(OSError):
                    Path(folder, name).unlink()

    @contextmanager
    def _written(self, target: Path, content: bytes | Iterable[bytes]) -> Iterator[Path]:
        """The bytes on the disk under a hidden name, which goes where it wasn't given another."""
        for folder in reversed(target.relative_to(self.root).parents[:-1]):
            (self.root / folder).mkdir(exist_ok=True)
        passing = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
        try:
            with passing.open("xb") as file:
                for piece in pieces(content):
                    file.write(piece)
                file.flush()
                to_disk(file.fileno())
            yield passing
        finally:
            passing.unlink(missing_ok=True)

    @contextmanager
    def _failures(self, path: Path) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            line = f"can't write {path}: {os_words(error)}"
            kind = MachineError if machine_failed(error) else InvalidInputError
            raise kind(line) from error


def pieces(content: bytes | Iterable[bytes]) -> Iterable[bytes]:
    """Content piece by piece."""
    return (content,) if isinstance(content, bytes) else content
