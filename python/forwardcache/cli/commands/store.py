"""``store``: what a store holds, and its upkeep."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardcache.cli.commands.options import EXIT_STATUS, Format, FormatOption, ReplaceOption

commands = typer.Typer(help="What is in a store; check it, shrink it, move it.")

StoreArgument = Annotated[str, typer.Argument(help="File or redis:// address.", metavar="STORE")]
TableArgument = Annotated[Path, typer.Argument(help="The table.", metavar="FILE.parquet")]


@commands.command("info", epilog=EXIT_STATUS)
def _store_info(where: StoreArgument, format_: FormatOption = Format.TABLE) -> int:
    """Entries and bytes by model, view and op."""
    from forwardcache.cli.store import info

    return info(where, as_json=format_ is Format.JSON)


@commands.command(
    "verify", short_help="Read everything and drop what is damaged.", epilog=EXIT_STATUS
)
def _store_verify(where: StoreArgument) -> int:
    """Read everything and drop what is damaged; exit status 1 if there was any."""
    from forwardcache.cli.store import verify

    return verify(where)


@commands.command(
    "prune", short_help="Drop values by age, model, view or size.", epilog=EXIT_STATUS
)
def _store_prune(
    where: StoreArgument,
    older_than: Annotated[
        float | None,
        typer.Option(min=0.0, help="Values that were not written or used for so many days."),
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model, as info shows it.")] = None,
    view: Annotated[str | None, typer.Option(help="A view, as info shows it.")] = None,
    max_bytes: Annotated[
        int | None,
        typer.Option(min=0, help="Then the least recently used, until so many bytes are left."),
    ] = None,
) -> int:
    """Drop values: of the first three, those that fit all that are given."""
    from forwardcache.cli.store import prune

    return prune(where, older_than_days=older_than, model=model, view=view, max_bytes=max_bytes)


@commands.command("export", short_help="Write all values to a table.", epilog=EXIT_STATUS)
def _store_export(where: StoreArgument, out: TableArgument, force: ReplaceOption = False) -> int:
    """Write all values of a store's file to a Parquet table, as they are."""
    from forwardcache.cli.store import export

    return export(where, out, force=force)


@commands.command("import", short_help="Put exported values into a store.", epilog=EXIT_STATUS)
def _store_import(where: StoreArgument, table: TableArgument) -> int:
    """Put the values of an exported table into a store; exit status 1 if some are damaged."""
    from forwardcache.cli.store import import_

    return import_(where, table)
