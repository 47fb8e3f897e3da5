"""The page of ``forwardcache check adapter``: checked before any work, written after it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from forwardcache.cli.exits import say
from forwardcache.cli.extras import check_installed
from forwardcache.cli.report import PAGES
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.whole_file import check_out, whole_file

__all__ = ["PAGE_SUFFIXES", "page_writer"]

PAGE_SUFFIXES = frozenset({".html", ".htm"})


def page_writer(page: Path, *, force: bool) -> Callable[[dict[str, Any], str], None]:
    """What writes the report of a kit, as JSON has it, and its verdict to ``page``.

    Args:
        page: The file.
        force: Whether one of that name is replaced.

    Raises:
        InvalidInputError: what a page needs is not installed, or it can't be written there.
    """
    check_installed(*PAGES, extra="report")
    if page.suffix.lower() not in PAGE_SUFFIXES:
        raise InvalidInputError(f"--report {page} must end in .html")
    check_out(page, (), force=force)

    def write(said: dict[str, Any], verdict: str) -> None:
        from forwardcache.observe.report.adapter_page import adapter_page

        with whole_file(page, force=force) as part:
            part.write(adapter_page(said, verdict).encode())
        say(f"wrote {page}")

    return write
