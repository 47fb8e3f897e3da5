"""What ``diff`` refuses before it loads a model, or reads more than it has to."""

from __future__ import annotations

import math
import os
from pathlib import Path

from forwardcache.cli.checks import (
    check_folders,
    check_store_files,
    check_template_arguments,
    refuse_same,
    stdin_file,
)
from forwardcache.cli.diff_other_checks import check_others
from forwardcache.cli.extras import check_installed
from forwardcache.cli.kit_files import PAGE_SUFFIXES
from forwardcache.cli.report import PAGES
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.diff.lambdas import parse_lambdas
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.kinds import STDIN
from forwardcache.jobs.outfile import check_target, part_of
from forwardcache.jobs.prompts import TEXTS, check_source
from forwardcache.jobs.session import parse_identity
from forwardcache.jobs.views import View, parse_view, parse_views

DIFFING = ("rich", "polars", "numpy", "scipy", "torch", "transformers", "peft", "safetensors",
           "tokenizers")  # fmt: skip
_ALLOWED = {
    "nulls": (0, math.inf),
    "skip_first": (0, math.inf),
    "limit": (1, math.inf),
    "max_kl": (0, math.inf),
    "max_ppl_ratio": (0, math.inf),
    "min_same_top": (0, 1.0),
}
"""By name of an option that takes a number: the least and the largest."""


def checked(options: DiffOptions) -> tuple[tuple[View, ...], View]:
    """The views asked for and their reference, once nothing is wrong with the other options.

    Raises:
        InvalidInputError: naming the option.
    """
    check_installed(*DIFFING)
    if options.report is not None:
        check_installed(*PAGES, extra="report")
    views, reference = _views(options)
    check_others(options, views)
    _check_detect(options, views)
    _check_numbers(options)
    check_template_arguments(options.loading)
    parse_identity(options.loading.identity)
    check_folders(options.loading)
    _check_store(options)
    _check_outputs(options)
    check_source(options.texts, TEXTS)
    return views, reference


def _views(options: DiffOptions) -> tuple[tuple[View, ...], View]:
    adapters, names = options.loading.adapters, options.loading.adapter_names
    has_adapter = bool(adapters)
    if options.lambdas is not None and options.views is not None:
        raise InvalidInputError(
            "--lambdas and --views both say what is compared: name scaled:LAMBDA in --views"
        )
    if options.views is None and not has_adapter and not options.others:
        raise InvalidInputError(
            "nothing to hold against the model itself: give --adapter DIR, whose view is ft, or "
            "--other NAME=DIR"
        )
    if options.lambdas is not None and not has_adapter:
        raise InvalidInputError("--lambdas are strengths of an adapter: give --adapter DIR")
    reference = parse_view(options.reference.strip(), names)
    if reference.kind != "base" and not has_adapter:
        raise InvalidInputError(
            f"--reference {reference.name} needs an adapter: give --adapter DIR"
        )
    if options.views is None and not has_adapter:
        return (), reference
    if options.views is None:
        asked = _of_each_adapter(options)
    else:
        asked = parse_views(options.views, has_adapter=has_adapter, adapters=names)
    views = tuple(view for view in asked if view != reference)
    if not views and not options.others:
        why = "--views names no other view"
        if options.views is None:
            why = f"without --views that is {reference.name} alone; give --views base"
        raise InvalidInputError(f"nothing to hold against {reference.name}: {why}")
    return views, reference


def _of_each_adapter(options: DiffOptions) -> tuple[View, ...]:
    """Each adapter, at each strength: its views next to each other, so that it is loaded seldom."""
    lambdas = (1.0,) if options.lambdas is None else parse_lambdas(options.lambdas)
    return tuple(
        View("ft", adapter=one.name) if lam == 1.0 else View("scaled", lam=lam, adapter=one.name)
        for one in options.loading.adapters
        for lam in lambdas
    )


def _check_numbers(options: DiffOptions) -> None:
    """Refuse numbers that can't be meant, by the names of their options."""
    for name, (least, most) in _ALLOWED.items():
        value = getattr(options, name)
        if value is not None and not (math.isfinite(value) and least <= value <= most):
            above = f"{least} or more"
            allowed = above if most == math.inf else f"from {least} to {most:g}"
            option = f"--{name.replace('_', '-')}"
            raise InvalidInputError(f"{option} is {value:g}, allowed is a number {allowed}")


def _check_detect(options: DiffOptions, views: tuple[View, ...]) -> None:
    """Refuse to look for a scale of an adapter that isn't asked for."""
    if options.detect and options.reference.strip() != "base":
        raise InvalidInputError("--detect holds the adapter against base: leave out --reference")
    if options.detect and not any(view.is_whole_adapter for view in views):
        raise InvalidInputError(
            "--detect is about the adapter at its full strength: --views doesn't name ft"
        )


def _check_store(options: DiffOptions) -> None:
    """Refuse a store in which nothing would be kept, or that is a file of another kind."""
    store = options.loading.store
    if store is None:
        return
    if options.loading.keep != "states":
        raise InvalidInputError(
            f"--store {store} needs --keep states: a difference is of two views and is no value of "
            "the cache, and of each view alone its final states are what can be kept"
        )
    check_store_files(store, "--store ")


def _check_outputs(options: DiffOptions) -> None:
    """Refuse files that can't be written, or that are also something else."""
    from forwardcache.jobs import results
    from forwardcache.store import files_of

    if options.resume and options.out is None:
        raise InvalidInputError("--resume needs --out: it goes on with OUT.part")
    if options.resume and options.dry_run:
        raise InvalidInputError("--dry-run doesn't go with --resume")
    if options.report is not None and options.report.suffix.lower() not in PAGE_SUFFIXES:
        raise InvalidInputError(f"--report {options.report} must end in .html")
    source = stdin_file() if options.texts == STDIN else Path(options.texts)
    others: list[tuple[str, Path]] = [] if source is None else [("texts", source)]
    store = options.loading.store
    kept = () if store is None else tuple(files_of(store))
    refuse_same("--store", store, kept, others)
    others += [("store", path) for path in kept]
    for option, (what, out) in _asked(options).items():
        check_target(out, f"{option} {out}")
        writes = results.names_of(out) if option == "--out" else (out, part_of(out))
        refuse_same(option, out, writes, others)
        _refuse_inside(options, option, out)
        others += [(what, path) for path in writes]
        if option == "--out":
            results.check_out(out, force=options.force, resume=options.resume)
            continue
        for path in writes:
            if os.path.lexists(path) and not options.force:
                raise InvalidInputError(f"{option}: {path} is there already: --force replaces it")


def _refuse_inside(options: DiffOptions, option: str, out: Path) -> None:
    """Refuse a file in a folder that the run reads, whose contents would be other ones then."""
    loading = options.loading
    adapters = [("adapter", each.folder) for each in loading.adapters]
    others = [(f"model {each.name}", each.folder) for each in options.others]
    for name, given in [("model", loading.model), *adapters, *others]:
        if not (folder := Path(given)).is_dir():
            continue
        if folder.resolve() in out.resolve().parents:
            raise InvalidInputError(f"{option} {out} is in the folder of the {name}, {given}")


def _asked(options: DiffOptions) -> dict[str, tuple[str, Path]]:
    """By option: what each file holds that is to be written, and its path."""
    asked = {
        "--out": ("rows", options.out),
        "--report": ("report", options.report),
        "--junit": ("JUnit report", options.junit),
    }
    return {option: (what, out) for option, (what, out) in asked.items() if out is not None}
