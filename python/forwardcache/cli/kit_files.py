"""What ``forwardcache check`` writes to files: checked before any work, written after it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from forwardcache.cli.exits import say
from forwardcache.cli.extras import check_installed
from forwardcache.conformance.told import Told, Writer
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.whole_file import check_out, whole_file

__all__ = ["PAGE_SUFFIXES", "writers"]

PAGE_SUFFIXES = frozenset({".html", ".htm"})


def writers(junit: Path | None, page: Path | None = None, *, force: bool) -> tuple[Writer, ...]:
    """What writes a kit's report to the files that are asked for.

    Args:
        junit: The file of JUnit XML; None for none.
        page: The page, which the adapter kit alone has; None for none.
        force: Whether files of these names are replaced.

    Raises:
        InvalidInputError: what a page needs is not installed, or a file can't be written there.
    """
    return tuple(_writers(junit, page, force=force))


def _writers(junit: Path | None, page: Path | None, *, force: bool) -> Iterator[Writer]:
    if page is not None:
        yield _page_writer(page, force=force)
    if junit is not None:
        if page is not None and junit.resolve() == page.resolve():
            raise InvalidInputError(f"--junit {junit} is also the file of the report")
        yield _junit_writer(junit, force=force)


def _page_writer(page: Path, *, force: bool) -> Writer:
    from forwardcache.cli.report import PAGES

    check_installed(*PAGES, extra="report")
    if page.suffix.lower() not in PAGE_SUFFIXES:
        raise InvalidInputError(f"--report {page} must end in .html")
    check_out(page, (), force=force)

    def write(told: Told) -> None:
        from forwardcache.observe.report.adapter_page import adapter_page

        with whole_file(page, force=force) as part:
            part.write(adapter_page(told.report, told.verdict).encode())
        say(f"wrote {page}")

    return write


def _junit_writer(path: Path, *, force: bool) -> Writer:
    check_out(path, (), force=force)

    def write(told: Told) -> None:
        from forwardcache.conformance.junit import as_junit

        with whole_file(path, force=force) as part:
            part.write(as_junit(told))
        say(f"wrote {path}")

    return write
