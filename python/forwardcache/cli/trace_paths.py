"""Which traces are meant: files, folders of them and patterns; and how their workers are called."""

from __future__ import annotations

import glob
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from forwardcache.cli.exits import say
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.kinds import STDIN, FileKind, check_kind, kind_of, open_stdin
from forwardcache.observe.workers import SameEventsError, WorkerTrace

_MOST_NAMED = 3
_NAMES = frozenset({".jsonl", ".ndjson"})
# The writer's own, and files that aren't whole yet.
_BESIDE = frozenset({".lock", ".journal", ".part"})
_DIGITS = re.compile(r"(\d+)")
_NUMBERED = re.compile(r"(?P<stem>.+)\.(?P<number>[^.]+)(?P<suffix>\.[^.]*)")


def source_of(path: str) -> str | BinaryIO:
    """The path, or standard input for ``-``.

    Raises:
        InvalidInputError: standard input is closed, or the file is of another kind.
    """
    if path != STDIN:
        check_kind(Path(path), FileKind.TRACE)
        return path
    return open_stdin("the trace").buffer


def traces_of(given: Sequence[str], *, out: Path | None = None) -> list[str]:
    """The traces that are meant by paths of files, folders and patterns such as ``t.*.jsonl``.

    Of a folder these are the files in it that hold a trace, and empty ones that are called as one;
    hidden files and what writers keep beside their traces are passed over without a word, files of
    another kind with one. Numbers in names count as such: ``t.2`` stands before ``t.10``.

    Args:
        given: Paths; ``-`` is standard input.
        out: A file that is written: not among those that a folder or a pattern is read for.

    Raises:
        InvalidInputError: a folder has no trace, a pattern matches no file, or a path is a folder
            of another kind.
    """
    return [each for one in given for each in _meant(one, out)]


def new_traces(given: str, known: Collection[Path]) -> list[Path]:
    """The traces of a folder or a pattern that aren't ``known``; none where there are none yet."""
    path = Path(given)
    there = path.iterdir() if path.is_dir() else map(Path, glob.glob(given))
    new = _in_order(each for each in there if each not in known)
    return [each for each in new if not _is_beside(each) and _other_kind(each) is None]


def is_of_many(given: str) -> bool:
    """Whether a folder or a pattern is meant, and not one file."""
    path = Path(given)
    return path.is_dir() or (glob.has_magic(given) and not path.exists())


def _meant(given: str, out: Path | None) -> Sequence[str]:
    if given == STDIN or not is_of_many(given):
        return [given]
    path = Path(given)
    if path.is_dir():
        check_kind(path, FileKind.TRACE)
        return _of_folder(path, out)
    files = [each for each in map(Path, glob.glob(given)) if not _is_beside(each)]
    if not (found := [str(each) for each in _in_order(files) if not _is_same(each, out)]):
        raise InvalidInputError(f"{given}: no file is called so")
    return found


def _of_folder(folder: Path, out: Path | None) -> list[str]:
    found, others = [], []
    for path in _in_order(folder.iterdir()):
        if _is_beside(path) or _is_same(path, out):
            continue
        if (other := _other_kind(path)) is None:
            found.append(str(path))
        else:
            others.append((path.name, other))
    if not found:
        raise InvalidInputError(f"{folder}: no trace is in this folder{_listed(others)}")
    if others:
        say(f"{folder}: passed over{_listed(others)}")
    return found


def _is_beside(path: Path) -> bool:
    return path.name.startswith(".") or path.suffix in _BESIDE or not path.is_file()


def _other_kind(path: Path) -> str | None:
    """What the file is called that is no trace."""
    kind = kind_of(path)
    if kind is FileKind.TRACE or (kind is None and path.suffix in _NAMES):
        return None
    return "no trace" if kind is None else str(kind.value[0])


def _listed(others: Sequence[tuple[str, str]]) -> str:
    shown = ", ".join(f"{name} ({what})" for name, what in others[:_MOST_NAMED])
    more = len(others) - _MOST_NAMED
    return f": {shown}" + (f" and {more:,} more" if more > 0 else "") if others else ""


def _is_same(path: Path, out: Path | None) -> bool:
    if out is None:
        return False
    with suppress(OSError):
        return path.samefile(out)
    return False


def _in_order(paths: Iterable[Path]) -> list[Path]:
    return sorted(paths, key=lambda path: (_natural(str(path)), str(path)))


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that orders names by the numbers in them."""
    parts = enumerate(_DIGITS.split(name))
    return [(int(part), "") if at % 2 else (-1, part) for at, part in parts]


def workers_of(paths: Sequence[str]) -> list[WorkerTrace]:
    """The traces ``paths``, each with the name of its worker.

    That is the number in the names where they differ in nothing else (``t.0.jsonl``,
    ``t.1.jsonl``), else the files' names where these differ, else the paths.

    Raises:
        InvalidInputError: as of :func:`source_of`.
    """
    names = _names_of(paths)
    return [WorkerTrace(n, source_of(path)) for n, path in zip(names, paths, strict=True)]


def _names_of(paths: Sequence[str]) -> Sequence[str]:
    numbered = [_NUMBERED.fullmatch(path) for path in paths]
    around = {(each["stem"], each["suffix"]) if each else None for each in numbered}
    candidates = [[Path(path).name for path in paths], paths]
    if len(around) == 1 and None not in around:
        candidates.insert(0, [each["number"] for each in numbered if each])
    return next((n for n in candidates if len({*n}) == len(n)), candidates[-1])


@contextmanager
def events_once() -> Iterator[None]:
    """What reads several traces: that two have the same events is said as bad input.

    Raises:
        InvalidInputError: they have.
    """
    try:
        yield
    except SameEventsError as error:
        raise InvalidInputError(str(error)) from None


def say_what_is_pending(paths: Sequence[str]) -> None:
    """Say on standard error which of the traces may lack events that are in a journal."""
    pending = list(_with_journal([path for path in paths if path != STDIN]))
    if len(pending) > _MOST_NAMED:
        folders = {str(Path(path).parent) for path in pending}
        where = folders.pop() if len(folders) == 1 else "PATH"
        say(
            f"{len(pending):,} of {len(paths):,} traces have a journal next to them, so the last "
            "events may be missing: processes are writing them, or were killed (then: "
            f"forwardcache trace recover {where}): {', '.join(pending[:_MOST_NAMED])}, …"
        )
        return
    for path in pending:
        say(
            f"{path}: there is a journal next to it, so the last events may be missing: a "
            f"process is writing it, or was killed (then: forwardcache trace recover {path})"
        )


def _with_journal(paths: Sequence[str]) -> Iterator[str]:
    resolved = [(path, Path(path).resolve()) for path in paths]
    journals = {
        folder: [name.name for name in folder.iterdir() if name.name.endswith(".journal")]
        for folder in {trace.parent for _, trace in resolved}
    }
    for path, trace in resolved:
        if any(name.startswith(f"{trace.name}.") for name in journals[trace.parent]):
            yield path
