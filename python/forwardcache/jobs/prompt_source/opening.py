"""Which source a name means, and what is refused by its name or its first bytes."""

from __future__ import annotations

import stat
from pathlib import Path

from forwardcache.jobs.kinds import STDIN, FileKind, check_kind
from forwardcache.jobs.prompt_line import PROMPTS, InputWords
from forwardcache.jobs.prompt_source.line_file import TEXT_SUFFIXES, LineFile, unreadable
from forwardcache.jobs.prompt_source.source import Files, PromptSource
from forwardcache.jobs.prompt_source.spool import open_stdin, spooled_file, spooled_stdin


def open_source(given: str, words: InputWords = PROMPTS) -> PromptSource:
    """The prompts of a file, or of standard input for ``-``.

    What can be read only once is read to its end, into a file without a name.

    Args:
        given: The file, or ``-``.
        words: What the input is called.

    Raises:
        InvalidInputError: it can't be read.
        OSError: there is no space for what is set aside.
    """
    if given == STDIN:
        found = spooled_stdin(words)
    else:
        found = LineFile(given, words) if _is_plain(given, words) else spooled_file(given, words)
    return Files(found.name, [found])


def check_source(source: str, words: InputWords = PROMPTS) -> None:
    """Refuse prompts that can't be read or are something else, without reading them.

    Args:
        source: The file, or ``-``.
        words: What the input is called.

    Raises:
        InvalidInputError: saying so.
    """
    if source == STDIN:
        open_stdin(words)
        return
    _check_kind(source, words)
    try:
        # Nothing is taken from a pipe, and nothing is waited for that nobody writes yet.
        if not stat.S_ISFIFO(Path(source).stat().st_mode):
            Path(source).open("rb").close()
    except (OSError, ValueError) as error:
        raise unreadable(source, error, words) from error


def _is_plain(path: str, words: InputWords) -> bool:
    """Whether any part of a file can be read again."""
    try:
        return stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, words) from error


def _check_kind(source: str, words: InputWords) -> None:
    """Refuse a file of another kind; any line is a prompt in a file that is named as text."""
    path = Path(source)
    texts = (FileKind.ROWS, FileKind.TRACE) if path.suffix.lower() in TEXT_SUFFIXES else ()
    check_kind(path, FileKind.PROMPTS, *texts, named=f"{words.option} {source}")
