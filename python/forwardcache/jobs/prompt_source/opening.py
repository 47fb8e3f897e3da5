"""Which source a name means, and what is refused by its name or its first bytes."""

from __future__ import annotations

import stat
from pathlib import Path

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.kinds import STDIN, FileKind, check_kind, kind_of, open_stdin
from forwardcache.jobs.prompt_line import PROMPTS, InputWords
from forwardcache.jobs.prompt_source.folder import files_in
from forwardcache.jobs.prompt_source.line_file import TEXT_SUFFIXES, LineFile, unreadable
from forwardcache.jobs.prompt_source.source import Files, PromptFile, PromptSource
from forwardcache.jobs.prompt_source.spool import spooled_file, spooled_stdin
from forwardcache.jobs.prompt_source.table_file import TableFile, is_table


def open_source(given: str, words: InputWords = PROMPTS) -> PromptSource:
    """The prompts of a file or a folder, or of standard input for ``-``.

    A file holds lines or a Parquet table; a folder such files, in the order of their names, or one
    split that ``datasets`` saved. What can be read only once is read to its end, into a file
    without a name.

    Args:
        given: The file, the folder, or ``-``.
        words: What the input is called.

    Raises:
        InvalidInputError: it can't be read, or isn't all prompts.
        MissingExtraError: it is a table, and pyarrow isn't installed.
        OSError: there is no space for what is set aside.
    """
    if given == STDIN:
        found = spooled_stdin(words)
        return Files(found.name, [found])
    if not Path(given).is_dir():
        return Files(given, [_opened(given, words)])
    files = files_in(given, words)
    for path in files:
        _check_kind(str(path), words)
    return Files(given, [_opened(str(path), words) for path in files], is_folder=True)


def check_source(source: str, words: InputWords = PROMPTS) -> None:
    """Refuse prompts that can't be read or are something else, without reading them.

    Args:
        source: The file, the folder, or ``-``.
        words: What the input is called.

    Raises:
        InvalidInputError: saying so.
        MissingExtraError: as of ``open_source``.
    """
    if source == STDIN:
        open_stdin(f"the {words.one}s")
        return
    _check_kind(source, words)
    if Path(source).is_dir():
        open_source(source, words).close()
        return
    try:
        # Nothing is taken from a pipe, and nothing is waited for that nobody writes yet.
        if not stat.S_ISFIFO(Path(source).stat().st_mode):
            Path(source).open("rb").close()
    except (OSError, ValueError) as error:
        raise unreadable(source, error, words) from error
    if is_table(source):
        TableFile(source, words)


def _opened(path: str, words: InputWords) -> PromptFile:
    try:
        # Of anything else no part can be read again.
        is_plain = stat.S_ISREG(Path(path).stat().st_mode)
    except (OSError, ValueError) as error:
        raise unreadable(path, error, words) from error
    if not is_plain:
        return spooled_file(path, words)
    return TableFile(path, words) if is_table(path) else LineFile(path, words)


def _check_kind(source: str, words: InputWords) -> None:
    """Refuse a file of another kind; any line is a prompt in a file that is named as text."""
    path, named = Path(source), f"{words.option} {source}"
    texts = (FileKind.ROWS, FileKind.TRACE) if path.suffix.lower() in TEXT_SUFFIXES else ()
    if not is_table(source) and kind_of(path) is FileKind.TABLE:
        raise InvalidInputError(f"{named} is a Parquet table: name it .parquet to have it read so")
    check_kind(path, FileKind.PROMPTS, FileKind.TABLE, *texts, named=named)
