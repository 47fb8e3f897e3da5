"""What ``diff`` refuses before it loads a model, or reads more than it has to."""

from __future__ import annotations

import os
from pathlib import Path

from forwardcache.cli.checks import check_folders, refuse_same, stdin_file
from forwardcache.cli.extras import check_installed
from forwardcache.cli.report import PAGES
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.diff.options import DiffOptions
from forwardcache.jobs.kinds import STDIN
from forwardcache.jobs.outfile import check_target, part_of
from forwardcache.jobs.prompts import TEXTS, check_source
from forwardcache.jobs.session import parse_identity
from forwardcache.jobs.views import View, parse_view, parse_views

DIFFING = ("rich", "polars", "numpy", "scipy", "torch", "transformers", "peft", "safetensors",
           "tokenizers")  # fmt: skip
_PAGE_SUFFIXES = frozenset({".html", ".htm"})


def checked(options: DiffOptions) -> tuple[tuple[View, ...], View]:
    """The views asked for and their reference, once nothing is wrong with the other options.

    Raises:
        InvalidInputError: naming the option.
    """
    check_installed(*DIFFING)
    if options.report is not None:
        check_installed(*PAGES, extra="report")
    views, reference = _views(options)
    _check_detect(options, views)
    options.bounds()
    if options.loading.chat_template_args is not None and not options.loading.chat_template:
        raise InvalidInputError("--chat-template-args needs --chat-template")
    parse_identity(options.loading.identity)
    check_folders(options.loading)
    _check_outputs(options)
    check_source(options.texts, TEXTS)
    return views, reference


def _views(options: DiffOptions) -> tuple[tuple[View, ...], View]:
    has_adapter = options.loading.adapter is not None
    if options.views is None and not has_adapter:
        raise InvalidInputError(
            "nothing to hold against the model itself: give --adapter DIR, whose view is ft"
        )
    reference = parse_view(options.reference.strip())
    if reference.kind != "base" and not has_adapter:
        raise InvalidInputError(
            f"--reference {reference.name} needs an adapter: give --adapter DIR"
        )
    named = "ft" if options.views is None else options.views
    views = tuple(view for view in parse_views(named, has_adapter=has_adapter) if view != reference)
    if not views:
        raise InvalidInputError(
            f"nothing to hold against {reference.name}: --views names no other view"
        )
    return views, reference


def _check_detect(options: DiffOptions, views: tuple[View, ...]) -> None:
    """Refuse to look for a scale of an adapter that isn't asked for."""
    if options.detect and options.reference.strip() != "base":
        raise InvalidInputError("--detect holds the adapter against base: leave out --reference")
    if options.detect and not any(view.kind in {"ft", "scaled"} for view in views):
        raise InvalidInputError(
            "--detect is about the adapter: --views names neither ft nor scaled"
        )


def _check_outputs(options: DiffOptions) -> None:
    """Refuse files that can't be written, or that are also something else."""
    from forwardcache.jobs import results

    if options.report is not None and options.report.suffix.lower() not in _PAGE_SUFFIXES:
        raise InvalidInputError(f"--report {options.report} must end in .html")
    source = stdin_file() if options.texts == STDIN else Path(options.texts)
    others: list[tuple[str, Path]] = [] if source is None else [("texts", source)]
    for option, (what, out) in _asked(options).items():
        check_target(out, f"{option} {out}")
        writes = results.names_of(out) if option == "--out" else (out, part_of(out))
        refuse_same(option, out, writes, others)
        others += [(what, path) for path in writes]
        if option == "--out":
            results.check_out(out, force=options.force, resume=False, is_resumable=False)
            continue
        for path in writes:
            if os.path.lexists(path) and not options.force:
                raise InvalidInputError(f"{option}: {path} is there already: --force replaces it")


def _asked(options: DiffOptions) -> dict[str, tuple[str, Path]]:
    """By option: what each file holds that is to be written, and its path."""
    asked = {
        "--out": ("rows", options.out),
        "--report": ("report", options.report),
        "--junit": ("JUnit report", options.junit),
    }
    return {option: (what, out) for option, (what, out) in asked.items() if out is not None}
