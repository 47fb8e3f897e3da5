"""What commands of several groups share."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

EXIT_STATUS = (
    "Exit status: 0 done, 1 the answer is no, 2 wrong use or bad input, 3 the machine failed "
    "(disk, memory), 130 interrupted, 141 the reader of standard output has gone."
)


class Format(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How the summary is printed.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace --out.")]
ReplaceOption = Annotated[
    bool, typer.Option("--force", help="Replace a file that is there already.")
]
