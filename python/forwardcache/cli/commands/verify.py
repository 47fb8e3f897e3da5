"""``verify``: somebody's table, checked without trusting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardcache.cli.commands.options import EXIT_STATUS, Format, FormatOption

_MOST_SEED = 2**63 - 1

commands = typer.Typer()

RowsArgument = Annotated[
    Path, typer.Argument(help="Rows of score or diff, with their facts.", metavar="OUT")
]
ShareOption = Annotated[
    float,
    typer.Option(
        min=0.0,
        max=1.0,
        help="Share of the prompts whose rows are scored again, above 0; at least one prompt.",
    ),
]
SeedOption = Annotated[
    int | None,
    typer.Option(
        min=0,
        max=_MOST_SEED,
        help="Which prompts. Default: by chance, and the output says which seed chooses the "
        "same ones.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    str | None,
    typer.Option(help="Folder of the model, where it isn't where the rows say."),
]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]DIR",
        help="Folder of an adapter, with its name where the rows have one, if it isn't where "
        "they say.",
    ),
]
AdaptersOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Folder whose sub-folders hold the adapters, as of score, if they aren't where "
        "the rows say.",
        show_default=False,
    ),
]
OtherOption = Annotated[
    list[str] | None,
    typer.Option(
        "--other",
        metavar="NAME=DIR",
        help="Folder of one of diff's other models, where it isn't where the rows say.",
        show_default=False,
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(help="Folder of score's --tokenizer, where it isn't where the rows say."),
]
PromptsOption = Annotated[
    str | None,
    typer.Option(
        help="File of the prompts, or - for standard input, where it isn't where the rows say."
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        help="auto, cpu, cuda, cuda:1, ... Default: the kind that the rows were made on, where "
        "it is here.",
        show_default=False,
    ),
]
DtypeOption = Annotated[
    str | None,
    typer.Option(help="float32, bfloat16, float16. Default: that of the rows.", show_default=False),
]


@commands.command(
    "verify", short_help="Score some rows of a table again, and compare.", epilog=EXIT_STATUS
)
def _verify(  # noqa: PLR0917 - typer calls it, by name
    rows: RowsArgument,
    share: ShareOption = 0.01,
    seed: SeedOption = None,
    model: ModelOption = None,
    adapter: AdapterOption = None,
    adapters: AdaptersOption = None,
    other: OtherOption = None,
    tokenizer: TokenizerOption = None,
    prompts: PromptsOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Score a random share of a table's rows again, and compare; exit status 1 if some are off."""
    from forwardcache.cli.verify import verify
    from forwardcache.jobs.adapters import parse_adapters
    from forwardcache.jobs.other_models import parse_others
    from forwardcache.jobs.verify.options import VerifyOptions

    options = VerifyOptions(
        rows=rows,
        share=share,
        seed=seed,
        model=model,
        adapters=parse_adapters(adapter or [], adapters),
        tokenizer=tokenizer,
        prompts=prompts,
        device=device,
        dtype=dtype,
        others=parse_others(other or []),
    )
    return verify(options, as_json=format_ is Format.JSON)
