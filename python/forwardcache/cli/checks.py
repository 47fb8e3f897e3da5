"""What ``score`` refuses before it loads a model, or reads more than it has to."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from forwardcache.cli.extras import check_installed
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.adapters import default_views
from forwardcache.jobs.kinds import STDIN, FileKind, check_kind, kind_of
from forwardcache.jobs.outfile import check_target
from forwardcache.jobs.reasons import first_line, shown
from forwardcache.jobs.views import View, parse_views
from forwardcache.operations import of_prompts, operation

if TYPE_CHECKING:
    from forwardcache.jobs.metadata import Facts
    from forwardcache.jobs.options import ModelOptions, NamedAdapter, ScoreOptions


def check_workers(options: ScoreOptions) -> None:
    """Refuse options of workers without any, and others that don't go with them.

    Raises:
        InvalidInputError: naming the option.
    """
    if options.ray is not None:
        check_installed("ray", extra="ray")
        if options.workers is None:
            raise InvalidInputError("--ray needs --workers N: how many models are loaded")
    if options.workers is None and options.worker_cpus is not None:
        raise InvalidInputError("--worker-cpus needs --workers: without it one process scores")
    if options.workers is not None and options.noise_floor:
        raise InvalidInputError("--noise-floor runs the model in this process: leave out --workers")


def checked_views(options: ScoreOptions) -> tuple[View, ...]:
    """The views asked for.

    Raises:
        InvalidInputError: there are no such views, or they need an adapter.
    """
    loading = options.loading
    default = default_views(loading.adapters)
    named = default if options.views is None else options.views
    has_adapter = bool(loading.adapters)
    return parse_views(named, has_adapter=has_adapter, adapters=loading.adapter_names)


def check_template(options: ScoreOptions) -> None:
    """Refuse options of the text that don't go with each other or with what is scored.

    Raises:
        InvalidInputError: that was asked for.
    """
    check_template_arguments(options.loading)
    op = operation(options.op)
    if options.loading.windows and "windows" not in op.options:
        fitting = [name for name in of_prompts() if "windows" in operation(name).options]
        raise InvalidInputError(f"--windows is for {' and '.join(fitting)}, not for {options.op}")
    if options.loading.chat_template and not op.takes_template:
        raise InvalidInputError(
            f"--chat-template doesn't go with {options.op}, which scores a text as it stands"
        )


def check_template_arguments(loading: ModelOptions) -> None:
    """Refuse what a chat template is given where none is asked for.

    Raises:
        InvalidInputError: that was asked for.
    """
    if loading.chat_template_args is not None and not loading.chat_template:
        raise InvalidInputError("--chat-template-args needs --chat-template")


class WritesRows(Protocol):
    """What is asked of a command that writes rows of prompts."""

    @property
    def loading(self) -> ModelOptions:
        """What to load, with the trace and the store."""

    @property
    def prompts(self) -> str:
        """Where they are read."""

    @property
    def out(self) -> Path | None:
        """Where rows go."""

    @property
    def force(self) -> bool:
        """Whether a file there is replaced."""

    @property
    def resume(self) -> bool:
        """Whether an unfinished run is gone on with."""


def check_outputs(options: WritesRows) -> None:
    """Refuse files that can't be written or are also something else.

    Raises:
        InvalidInputError: naming the option and the file.
    """
    from forwardcache.jobs.results import check_out

    if options.out is not None:
        if hasattr(options, "out_folder") and options.out.is_dir():
            raise InvalidInputError(f"--out {options.out} is a folder: only --parts writes one")
        check_target(options.out, f"--out {options.out}")
    check_trace(options.loading.trace)
    _check_distinct(options)
    if (trace := options.loading.trace) is not None:
        # It would be appended to.
        check_kind(trace, FileKind.TRACE, named=f"--trace {trace}")
    if options.loading.store is not None:
        check_store_files(options.loading.store, "--store ")
    if options.out is None:
        if options.resume and getattr(options, "out_folder", None) is None:
            raise InvalidInputError("--resume needs --out: it goes on with OUT.part")
        return
    check_out(options.out, force=options.force, resume=options.resume)


def check_part(out: Path | None, job_facts: Facts, *, resume: bool) -> None:
    """Refuse to go on with a part of another job.

    Args:
        out: Where rows go; None for standard output.
        job_facts: What decides the rows; a part goes on only with the same.
        resume: Whether an unfinished run is gone on with.

    Raises:
        InvalidInputError: naming what differs.
    """
    from forwardcache.jobs.results import check_same_job, is_unfinished

    if out is not None and resume and is_unfinished(out):
        check_same_job(out, job_facts)


def _check_distinct(options: WritesRows) -> None:
    """Refuse a file that would be written and is also something else."""
    from forwardcache.jobs.results import names_of
    from forwardcache.store import files_of

    prompts = stdin_file() if options.prompts == STDIN else Path(options.prompts)
    trace, out, store = options.loading.trace, options.out, options.loading.store
    kept = () if store is None else tuple(files_of(store))
    others: list[tuple[str, Path]] = [] if prompts is None else [("prompts", prompts)]
    if trace is not None:
        refuse_same("--trace", trace, (trace,), others)
        others.append(("trace", trace))
    refuse_same("--store", store, kept, others)
    others += [("store", path) for path in kept]
    if out is not None:
        refuse_same("--out", out, names_of(out), others)


def refuse_same(
    option: str, given: object, writes: Iterable[Path], others: Iterable[tuple[str, Path]]
) -> None:
    """Refuse a file that would be written and is also something else.

    Args:
        option: The option that names it.
        given: What the option was given.
        writes: Every path that is written for it.
        others: What else there is, and where.

    Raises:
        InvalidInputError: naming both.
    """
    for written, (name, other) in product(writes, others):
        if _is_same_file(other, written):
            through = "" if str(written) == str(given) else f" writes {written}, which"
            raise InvalidInputError(f"{option} {given}{through} is also the file of the {name}")


def stdin_file() -> Path | None:
    """The file that standard input is, if it is one."""
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(0).st_mode):
            return Path("/dev/stdin")
    return None


def _is_same_file(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)


def check_folders(options: ModelOptions) -> None:
    """Refuse a model or adapter that isn't there, before torch is imported.

    Raises:
        InvalidInputError: naming the option and the folder.
    """
    model = Path(options.model)
    if model.is_dir() and not (model / "config.json").is_file():
        holds_adapter = (model / "adapter_config.json").is_file()
        hint = "; it holds an adapter, which --adapter takes" if holds_adapter else ""
        raise InvalidInputError(f"--model {model}: there is no config.json in that folder{hint}")
    check_kind(model, FileKind.MODEL, FileKind.ADAPTER, named=f"--model {model}")
    if not model.is_dir() and not options.allow_download:
        raise InvalidInputError(
            f"--model {model}: there is no such folder (a hub name needs --allow-download)"
        )
    for adapter in options.adapters:
        _check_adapter(adapter)


def _check_adapter(adapter: NamedAdapter) -> None:
    folder = Path(adapter.folder)
    check_kind(folder, FileKind.ADAPTER, FileKind.MODEL, named=f"--adapter {adapter}")
    if not folder.is_dir():
        raise InvalidInputError(f"--adapter {adapter}: there is no such folder")
    if not (folder / "adapter_config.json").is_file():
        is_model = kind_of(folder) is FileKind.MODEL
        hint = "; it holds a model, which --model takes" if is_model else ""
        raise InvalidInputError(
            f"--adapter {adapter}: there is no adapter_config.json in that folder{hint}"
        )


def template_arguments(text: str | None) -> dict[str, Any] | None:
    """The JSON object that ``--chat-template-args`` was given.

    Raises:
        InvalidInputError: it is none.
    """
    if text is None:
        return None
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"--chat-template-args is not JSON: {first_line(error)}") from error
    if not isinstance(arguments, dict):
        raise InvalidInputError(f"--chat-template-args must be a JSON object, got {shown(text)}")
    return arguments


def check_trace(trace: Path | None) -> None:
    """Refuse a trace path that can't be one.

    ``TraceWriter`` makes the folders of its path. A command does not, as for ``--out``: of a
    mistyped path nothing would say where the trace went.

    Raises:
        InvalidInputError: it is a folder, there is none to hold it, or it can't be written.
    """
    if trace is None:
        return
    check_target(trace, f"--trace {trace}")
    if not os.access(there := trace if trace.exists() else trace.parent, os.W_OK):
        raise InvalidInputError(f"--trace {trace}: {there} can't be written")


def check_store_files(where: str, named: str = "") -> None:
    """Refuse a store whose file is one of another kind; opening it would set that aside.

    Args:
        where: Path or address of the store.
        named: The option that it is of, before its file's name in the message.

    Raises:
        InvalidInputError: naming the file, and what takes it.
    """
    from forwardcache.store import files_of

    for path in files_of(where):
        # In addition to the file itself these are SQLite's own.
        if path.is_file():
            check_kind(path, FileKind.STORE, named=f"{named}{path}")
