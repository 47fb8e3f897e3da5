"""The fenced blocks of a Markdown page, and what the words before them say of them."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from markdown_it import MarkdownIt


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        language: What stands behind the fence; empty for a plain block.
        text: What is inside.
        line: Number of its first line in the page, from 1.
        lead: The paragraph before it; empty if another block is there.
    """

    language: str
    text: str
    line: int
    lead: str

    @property
    def file(self) -> str | None:
        """The file that it is: the lead ends with its name, as in ``my engine, `engine.py`:``."""
        named = re.search(r"`([\w./-]+\.\w+)`:$", self.lead)
        return named[1] if named else None

    @property
    def before(self) -> str | None:
        """The name before whose assignment it goes into the page's file: ``before the `x`:``."""
        named = re.search(r"before the `(\w+)`:$", self.lead)
        return named[1] if named else None


def blocks_of(page: Path) -> Iterator[Block]:
    """All fenced blocks of ``page``, in order."""
    lead = ""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text("utf-8")):
        if token.type == "inline":
            lead = token.content
        elif token.type == "fence":
            assert token.map is not None
            language = token.info.split()[0] if token.info else ""
            yield Block(language, token.content, token.map[0] + 2, lead)
            lead = ""


@dataclass(frozen=True)
class Command:
    """A command of a console block and the output that is shown below it.

    Attributes:
        text: The command, lines that go on joined.
        output: What the block shows; empty if it shows nothing.
    """

    text: str
    output: str


def commands_of(block: Block) -> Iterator[Command]:
    """The commands of a console block: lines after ``$``, and what follows each."""
    text = block.text.replace("\\\n", "")
    assert text.startswith("$ "), f"a console block begins with '$ ': {text!r}"
    for part in re.split(r"^\$ ", text, flags=re.MULTILINE)[1:]:
        command, _, output = part.partition("\n")
        yield Command(re.sub(r"\s+", " ", command), output)


_NUMBER = re.compile(r"\d+(?:[,.]\d+)*(?:e[-+]?\d+)?")
# One a minute where there is no terminal: how many there are is the machine's affair.
_PROGRESS = re.compile(r"forwardcache: #%, .+, #:#:# left")
_DRAWN = re.compile(r"[\u2500-\u257f\s]+")


def without_figures(output: str) -> list[str]:
    """The lines of ``output`` with every number as ``#`` and no lines of a table.

    Times and last digits are another machine's; so are the widths of columns that hold them.
    """
    lines = (_DRAWN.sub(" ", _NUMBER.sub("#", line)).strip() for line in output.splitlines())
    return [line for line in lines if line and not _PROGRESS.fullmatch(line)]
