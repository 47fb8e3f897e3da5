"""``check``: the kits that judge an engine, a backend, an adapter or a server."""

from __future__ import annotations

import threading
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from forwardcache.cli.commands.options import Format, FormatOption
from forwardcache.cli.exact import exact_values
from forwardcache.cli.extras import SCORING, check_installed

commands = typer.Typer(help="Check that an engine, backend, adapter or server is right.")

FactoryArgument = Annotated[
    str,
    typer.Argument(help="A function or class that makes one: pkg.mod:name.", metavar="FACTORY"),
]
ExpectedOption = Annotated[
    str | None,
    typer.Option(
        "--expected-failures",
        help="Checks that are known to fail, with reasons: a TOML file with a table for each kit. "
        "One that passes is stale, and fails.",
        metavar="FILE",
    ),
]
JunitOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Also the report as JUnit's XML, for CI: a case a check."),
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace --junit.")]
AllOption = Annotated[bool, typer.Option("--all", help="Go on after the first failure.")]


class Profile(StrEnum):
    """How much of an engine is checked."""

    SEED = "seed"
    STRICT = "strict"
    ENCODE = "encode"
    RAW = "raw"


ProfileOption = Annotated[
    Profile,
    typer.Option(
        help="seed: the contract; strict: also what a server relies on; encode, raw: for "
        "encoders and for engines of raw media."
    ),
]
FailingFactoryOption = Annotated[
    str | None,
    typer.Option(help="Makes engines whose start raises: pkg.mod:name.", metavar="FACTORY"),
]
TimeoutOption = Annotated[float, typer.Option(help="Seconds for one check.", metavar="SECONDS")]
CancelDeadlineOption = Annotated[
    float, typer.Option(help="Seconds in which a stopped stream has to end.", metavar="SECONDS")
]
MaxTokensOption = Annotated[int, typer.Option(help="Tokens of the short requests.", metavar="N")]
LongMaxTokensOption = Annotated[
    int | None,
    typer.Option(
        help="Tokens of the requests that are stopped; 10,000 unless it is given, and in all "
        "profiles but seed no more than the engine's context_length.",
        metavar="N",
    ),
]
ConcurrencyOption = Annotated[int, typer.Option(help="How many streams run at once.", metavar="N")]
DriveAbortOption = Annotated[
    bool, typer.Option("--drive-abort", help="Call abort on stopped requests too.")
]


@commands.command("engine", short_help="Check a streaming engine.")
def _check_engine(  # noqa: PLR0917 - typer calls it, by name
    factory: FactoryArgument,
    profile: ProfileOption = Profile.SEED,
    every: AllOption = False,
    failing_factory: FailingFactoryOption = None,
    expected: ExpectedOption = None,
    timeout: TimeoutOption = 120.0,
    cancel_deadline: CancelDeadlineOption = 2.0,
    max_tokens: MaxTokensOption = 8,
    long_max_tokens: LongMaxTokensOption = None,
    concurrency: ConcurrencyOption = 8,
    drive_abort: DriveAbortOption = False,
    junit: JunitOption = None,
    force: ForceOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check a streaming engine; exit status 0 if it conforms, 1 if not, 2 if it can't be run."""
    from forwardcache.cli.kit_files import writers
    from forwardcache.conformance.command import check_engine

    before = threading.enumerate()
    code = check_engine(
        factory,
        profile=profile.value,
        output_format=format_.value,
        report_all=every,
        failing_spec=failing_factory,
        expected_file=expected,
        writers=writers(junit, force=force),
        check_timeout=timeout,
        cancel_deadline=cancel_deadline,
        max_tokens=max_tokens,
        long_max_tokens=long_max_tokens,
        concurrency=concurrency,
        drive_abort=drive_abort,
    )
    return _left_with(code, before)


@commands.command("backend", short_help="Check a scoring backend.")
def _check_backend(  # noqa: PLR0917 - typer calls it, by name
    factory: FactoryArgument,
    every: AllOption = False,
    expected: ExpectedOption = None,
    junit: JunitOption = None,
    force: ForceOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check a scoring backend; exit status 0 if it conforms, 1 if not, 2 if it is none."""
    from forwardcache.cli.kit_files import writers
    from forwardcache.conformance.backend.command import check_backend_spec

    return check_backend_spec(
        factory,
        output_format=format_.value,
        report_all=every,
        expected_file=expected,
        writers=writers(junit, force=force),
    )


@commands.command("server", short_help="Check a server's log-probabilities.")
def _check_server(  # noqa: PLR0917 - typer calls it, by name
    url: Annotated[str, typer.Argument(help="The server's address: http://host:port.")],
    model_name: Annotated[
        str, typer.Option(help="Name of the model, as the server knows it.", metavar="NAME")
    ],
    model: Annotated[
        str | None,
        typer.Option(help="Folder of the same model: compare with its values too.", metavar="DIR"),
    ] = None,
    every: AllOption = False,
    top_k: Annotated[int, typer.Option(min=3, help="How many candidates are asked for.")] = 5,
    atol: Annotated[
        float, typer.Option(help="Nats by which the median of two answers may differ.")
    ] = 0.05,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at once.")] = 8,
    longest: Annotated[int, typer.Option(min=1, help="Words of the longest prompt.")] = 2048,
    timeout: Annotated[
        float, typer.Option(help="Seconds without a byte after which a request has failed.")
    ] = 60.0,
    api_key_variable: Annotated[
        str, typer.Option(help="Environment variable with the key.", metavar="NAME")
    ] = "FORWARDCACHE_API_KEY",
    expected: ExpectedOption = None,
    junit: JunitOption = None,
    force: ForceOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check the log-probabilities of an OpenAI-style server's /v1/completions.

    Exit status 0 if they are right, 1 if not or if none could be judged, 2 if it can't be asked.
    """
    from forwardcache.cli.kit_files import writers
    from forwardcache.conformance.server.command import check_server_url

    return check_server_url(
        url,
        model_name=model_name,
        output_format=format_.value,
        report_all=every,
        expected_file=expected,
        writers=writers(junit, force=force),
        reference=None if model is None else exact_values(model),
        top_k=top_k,
        atol=atol,
        concurrency=concurrency,
        longest=longest,
        timeout=timeout,
        api_key_variable=api_key_variable,
    )


class AdapterProfile(StrEnum):
    """How much of an engine's adapters is checked."""

    QUICK = "quick"
    FULL = "full"


@commands.command("adapter", short_help="Check that an engine runs its adapters.")
def _check_adapter(  # noqa: PLR0917 - typer calls it, by name
    subject: Annotated[
        str,
        typer.Argument(
            help="What makes the engine (pkg.mod:name), or a server's address.", metavar="SUBJECT"
        ),
    ],
    model: Annotated[str, typer.Option(help="Folder of the model that it serves.", metavar="DIR")],
    model_name: Annotated[
        str | None,
        typer.Option(
            help="Name of the model, as a server knows it; the folder unless given.", metavar="NAME"
        ),
    ] = None,
    profile: Annotated[
        AdapterProfile, typer.Option(help="full: all checks, with more and longer texts.")
    ] = AdapterProfile.QUICK,
    timeout: Annotated[
        float, typer.Option(help="Seconds after which a call has failed.", metavar="SECONDS")
    ] = 120.0,
    expected: ExpectedOption = None,
    report: Annotated[
        Path | None,
        typer.Option(metavar="FILE.html", help="A page: expected against given by token."),
    ] = None,
    junit: JunitOption = None,
    force: Annotated[bool, typer.Option("--force", help="Replace --report and --junit.")] = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check that an engine really runs the adapters that it is given.

    Exit status 0 if it does, 1 if not or if none could be judged, 2 if it can't be asked.
    """
    check_installed(*SCORING)
    from forwardcache.cli.kit_files import writers
    from forwardcache.conformance.adapter.command import check_adapter_subject

    before = threading.enumerate()
    code = check_adapter_subject(
        subject,
        model=model,
        model_name=model_name,
        profile=profile.value,
        output_format=format_.value,
        expected_file=expected,
        timeout=timeout,
        writers=writers(junit, report, force=force),
    )
    return _left_with(code, before)


def _left_with(code: int, before: list[threading.Thread]) -> int:
    """``code``; where the engine has left threads that would spoil it, the process ends here."""
    from forwardcache.conformance.leaving import leave

    with suppress(SystemExit):
        leave(code, besides=before)
    return code
