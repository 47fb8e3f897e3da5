"""``forwardcache trace export``: a trace in the formats of other tools."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeAlias

from forwardcache.cli.exits import ExitCode, say
from forwardcache.cli.extras import PARQUET, check_installed
from forwardcache.cli.trace import counted, reasons
from forwardcache.cli.trace_paths import say_what_is_pending, source_of, traces_of
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.kinds import STDIN
from forwardcache.jobs.whole_file import Part, check_out, whole_file
from forwardcache.observe import TraceReader, read_trace
from forwardcache.observe.chrome import chrome_trace

_Write: TypeAlias = Callable[[TraceReader, Part], Counter[str]]


def export(given: Sequence[str], *, chrome: Path | None, parquet: Path | None, force: bool) -> int:
    """Write the events of the traces ``given`` as trace-event JSON, as a parquet table, or as both.

    Raises:
        InvalidInputError: no format is named, or a file stands in the way.
        MachineError: the disk is full or fails.
    """
    wanted: list[tuple[Path, _Write]] = []
    if chrome is not None:
        wanted.append((chrome, _write_chrome))
    if parquet is not None:
        check_installed(*PARQUET)
        wanted.append((parquet, _write_parquet))
    paths = traces_of(given)
    _check(paths, [out for out, _ in wanted], force=force)
    for out, write in wanted:
        _export(paths, out, write, force=force)
    say_what_is_pending(paths)
    return ExitCode.DONE


def _check(paths: Sequence[str], outs: Sequence[Path], *, force: bool) -> None:
    if not outs:
        raise InvalidInputError("export needs --chrome FILE, --parquet FILE, or both")
    if len({out.absolute() for out in outs}) < len(outs):
        raise InvalidInputError(f"--chrome and --parquet are the same file: {outs[0]}")
    if STDIN in paths and len(outs) > 1:
        raise InvalidInputError("standard input is read once: give --chrome or --parquet, not both")
    for out in outs:
        check_out(out, paths, force=force)


def _export(paths: Sequence[str], out: Path, write: _Write, *, force: bool) -> None:
    reader = read_trace([source_of(path) for path in paths], merge=len(paths) > 1)
    with whole_file(out, force=force) as part:
        left_out = write(reader, part)
    exported = counted(reader.read - left_out.total(), "event")
    say(f"{out}: {exported}{_missing(reader, left_out)}")


def _missing(reader: TraceReader, left_out: Counter[str]) -> str:
    parts = []
    if reader.skipped:
        parts.append(f"skipped {reasons(reader.skipped)}")
    if left_out:
        why = ", ".join(f"{reason}: {count:,}" for reason, count in sorted(left_out.items()))
        parts.append(f"left out {counted(left_out.total(), 'event')} ({why})")
    if reader.lost:
        parts.append(f"{counted(reader.lost, 'event')} lost by the writers")
    return "".join(f"; {part}" for part in parts)


def _write_chrome(reader: TraceReader, part: Part) -> Counter[str]:
    left_out: Counter[str] = Counter()
    for text in chrome_trace(reader, left_out):
        part.write(text.encode("utf-8"))
    return left_out


def _write_parquet(reader: TraceReader, part: Part) -> Counter[str]:
    from forwardcache.observe.table import write_parquet

    with part.explained():
        write_parquet(reader, part.path)
    return Counter()
