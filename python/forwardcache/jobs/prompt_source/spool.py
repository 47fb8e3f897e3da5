"""What can be read only once, such as standard input, is set aside in a file without a name."""

from __future__ import annotations

import os
import shutil
import tempfile
from typing import BinaryIO

from forwardcache.jobs.kinds import open_stdin
from forwardcache.jobs.prompt_line import InputWords
from forwardcache.jobs.prompt_source.line_file import LineFile, unreadable


def spooled_stdin(words: InputWords) -> LineFile:
    """The lines of standard input, which is read to its end.

    Raises:
        InvalidInputError: it is closed, or can't be read.
        OSError: there is no space where temporary files go.
    """
    return _spooled(open_stdin(f"the {words.one}s").buffer, "standard input", words)


def spooled_file(path: str, words: InputWords) -> LineFile:
    """The lines of a pipe or a device, which is read to its end.

    Raises:
        InvalidInputError: it can't be read.
        OSError: there is no space where temporary files go.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise unreadable(path, error, words) from error
    with open(descriptor, "rb") as file:
        return _spooled(file, path, words)


def _spooled(stream: BinaryIO, name: str, words: InputWords) -> LineFile:
    # Its descriptor outlives the file object, and its bytes go with the descriptor.
    with tempfile.TemporaryFile(prefix="forwardcache-") as file:
        shutil.copyfileobj(stream, file, 1 << 20)
        file.flush()
        return LineFile(name, words, descriptor=os.dup(file.fileno()))
