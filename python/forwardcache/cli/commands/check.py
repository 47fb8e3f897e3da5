"""``check``: the kits that judge an engine or a backend."""

from __future__ import annotations

from contextlib import suppress
from enum import StrEnum
from typing import Annotated

import typer

from forwardcache.cli.commands.options import Format, FormatOption

commands = typer.Typer(help="Check that an engine or a backend keeps its contract.")

FactoryArgument = Annotated[
    str,
    typer.Argument(help="A function or class that makes one: pkg.mod:name.", metavar="FACTORY"),
]
AllOption = Annotated[bool, typer.Option("--all", help="Go on after the first failure.")]


class Profile(StrEnum):
    """How much of an engine is checked."""

    SEED = "seed"
    STRICT = "strict"


@commands.command("engine", short_help="Check a streaming engine.")
def _check_engine(
    factory: FactoryArgument,
    profile: Annotated[
        Profile,
        typer.Option(help="seed: the contract; strict: also what a server relies on."),
    ] = Profile.SEED,
    every: AllOption = False,
    failing_factory: Annotated[
        str | None,
        typer.Option(help="Makes engines whose start raises: pkg.mod:name.", metavar="FACTORY"),
    ] = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check a streaming engine; exit status 0 if it conforms, 1 if not, 2 if it can't be run."""
    from forwardcache.conformance.command import check_engine, leave

    code = check_engine(
        factory,
        profile=profile.value,
        output_format=format_.value,
        report_all=every,
        failing_spec=failing_factory,
    )
    with suppress(SystemExit):
        # Ends the process at once if the engine has left threads that would hold it.
        leave(code)
    return code


@commands.command("backend", short_help="Check a scoring backend.")
def _check_backend(
    factory: FactoryArgument,
    every: AllOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check a scoring backend; exit status 0 if it conforms, 1 if not, 2 if it is none."""
    from forwardcache.conformance.backend.command import check_backend_spec

    return check_backend_spec(factory, output_format=format_.value, report_all=every)
