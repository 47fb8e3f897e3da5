"""What ``score`` refuses before it loads a model, or reads more than it has to."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

from forwardcache.cli.exits import BadInputError
from forwardcache.cli.extras import check_installed
from forwardcache.cli.kinds import FileKind, check_kind
from forwardcache.cli.loading import check_store_files, check_trace
from forwardcache.cli.prompts import STDIN
from forwardcache.cli.views import View, parse_views

if TYPE_CHECKING:
    from forwardcache.cli.score import ScoreOptions


def check_workers(options: ScoreOptions) -> None:
    """Refuse options of a cluster without one, and others that don't go with it.

    Raises:
        BadInputError: naming the option.
    """
    if options.ray is None:
        if options.workers is not None:
            raise BadInputError("--workers needs --ray: without it one process scores")
        if options.worker_cpus is not None:
            raise BadInputError("--worker-cpus needs --ray: without it one process scores")
        return
    check_installed("ray", extra="ray")
    if options.workers is None:
        raise BadInputError("--ray needs --workers N: how many models are loaded")
    if options.noise_floor:
        raise BadInputError("--noise-floor runs the model in this process: leave out --ray")


def checked_views(options: ScoreOptions) -> tuple[View, ...]:
    """The views asked for.

    Raises:
        BadInputError: there are no such views, or they need an adapter.
    """
    has_adapter = options.loading.adapter is not None
    default = "base,ft" if has_adapter else "base"
    named = default if options.views is None else options.views
    return parse_views(named, has_adapter=has_adapter)


def check_template(options: ScoreOptions) -> None:
    """Refuse options of the text that don't go with each other or with what is scored.

    Raises:
        BadInputError: that was asked for.
    """
    if options.loading.chat_template_args is not None and not options.loading.chat_template:
        raise BadInputError("--chat-template-args needs --chat-template")
    if options.loading.windows and options.op != "rolling_logprob":
        raise BadInputError(f"--windows is for rolling_logprob, not for {options.op}")
    if options.loading.chat_template and options.op == "rolling_logprob":
        raise BadInputError(
            "--chat-template doesn't go with rolling_logprob, which scores a text as it stands"
        )


def check_outputs(options: ScoreOptions) -> None:
    """Refuse files that can't be written or are also something else.

    Raises:
        BadInputError: naming the option and the file.
    """
    from forwardcache.cli.output import check_out

    check_trace(options.loading.trace)
    _check_distinct(options)
    if (trace := options.loading.trace) is not None:
        # It would be appended to.
        check_kind(trace, FileKind.TRACE, named=f"--trace {trace}")
    if options.loading.store is not None:
        check_store_files(options.loading.store, "--store ")
    if options.out is None:
        if options.resume:
            raise BadInputError("--resume needs --out: it goes on with OUT.part")
        return
    check_out(options.out, force=options.force, resume=options.resume)


def check_part(options: ScoreOptions, job_facts: dict[str, Any]) -> None:
    """Refuse to go on with a part of another job.

    Args:
        options: What was asked for.
        job_facts: What decides the rows; a part goes on only with the same.

    Raises:
        BadInputError: naming what differs.
    """
    from forwardcache.cli.output import check_same_job, is_unfinished

    if options.out is not None and options.resume and is_unfinished(options.out):
        check_same_job(options.out, job_facts)


def _check_distinct(options: ScoreOptions) -> None:
    """Refuse a file that would be written and is also something else."""
    from forwardcache.cli.output import names_of
    from forwardcache.store import files_of

    prompts = _stdin_file() if options.prompts == STDIN else Path(options.prompts)
    trace, out, store = options.loading.trace, options.out, options.loading.store
    kept = () if store is None else tuple(files_of(store))
    others: list[tuple[str, Path]] = [] if prompts is None else [("prompts", prompts)]
    if trace is not None:
        _refuse_same("--trace", trace, (trace,), others)
        others.append(("trace", trace))
    _refuse_same("--store", store, kept, others)
    others += [("store", path) for path in kept]
    if out is not None:
        _refuse_same("--out", out, names_of(out), others)


def _refuse_same(
    option: str, given: object, writes: Iterable[Path], others: Iterable[tuple[str, Path]]
) -> None:
    for written, (name, other) in product(writes, others):
        if _is_same_file(other, written):
            beside = "" if str(written) == str(given) else f" writes {written}, which"
            raise BadInputError(f"{option} {given}{beside} is also the file of the {name}")


def _stdin_file() -> Path | None:
    """The file that standard input is, if it is one."""
    with suppress(OSError):
        if stat.S_ISREG(os.fstat(0).st_mode):
            return Path("/dev/stdin")
    return None


def _is_same_file(one: Path, other: Path) -> bool:
    if os.path.realpath(one) == os.path.realpath(other):
        return True
    return one.exists() and other.exists() and one.samefile(other)
