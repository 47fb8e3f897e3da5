"""Commands and options. Nothing heavy is imported here: ``--help`` has to be quick."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from forwardcache import __version__
from forwardcache.cli.exits import ExitCode, guarded, say

EXIT_STATUS = (
    "Exit status: 0 done, 1 the answer is no, 2 wrong use or bad input, 3 the machine failed "
    "(disk, memory), 130 interrupted, 141 the reader of standard output has gone."
)
TOP_K_MAX = 2**31 - 1
REPORT_COMPARE = "report compare"

app = typer.Typer(
    name="forwardcache",
    help="Every forward pass once: an exact, traced cache under the views of one model.",
    epilog=EXIT_STATUS,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

# The root of click's errors, of which some versions of typer bring a copy of their own.
_UsageProblem: Any = next(
    kind for kind in typer.BadParameter.__mro__ if kind.__name__ == "ClickException"
)


class Op(StrEnum):
    """The scoring operations."""

    NEXT_TOKEN_DIST = "next_token_dist"
    ROLLING_LOGPROB = "rolling_logprob"
    LOGPROB_OF = "logprob_of"


class Format(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    JSON = "json"


FormatOption = Annotated[Format, typer.Option("--format", help="How the summary is printed.")]
ModelOption = Annotated[str, typer.Option(help="Folder of the model and its tokenizer.")]
PromptsOption = Annotated[
    str,
    typer.Option(
        help="File, or - for standard input: a prompt a line (.txt), or JSON lines (.jsonl) "
        "with prompt, completion, and any other field, which is carried through."
    ),
]
AdapterOption = Annotated[str | None, typer.Option(help="Folder of a LoRA adapter.")]
ViewsOption = Annotated[
    str | None,
    typer.Option(
        help="base, ft, scaled:LAMBDA, null:SEED[:INIT_SCALE[:RANK_SCALE]], comma-separated. "
        "Default: base,ft with an adapter, else base."
    ),
]
OpOption = Annotated[Op, typer.Option(help="What to score.")]
TopKOption = Annotated[int, typer.Option(min=1, max=TOP_K_MAX, help="Tokens in a distribution.")]
OutOption = Annotated[
    Path | None, typer.Option(help="FILE.jsonl or FILE.parquet; default standard output.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace --out.")]
ResumeOption = Annotated[bool, typer.Option("--resume", help="Go on with OUT.part.")]
TraceOption = Annotated[Path | None, typer.Option(help="Trace file; it is appended to.")]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, ...")]
DtypeOption = Annotated[str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, ...")]
ChatTemplateOption = Annotated[
    bool,
    typer.Option(
        help="Put each prompt into the tokenizer's chat template (not with rolling_logprob)."
    ),
]
SpecialTokensOption = Annotated[
    bool, typer.Option(help="Let the tokenizer add its special tokens.")
]
DownloadOption = Annotated[
    bool, typer.Option("--allow-download", help="--model may be a hub name.")
]
StoreOption = Annotated[
    str | None,
    typer.Option(help="File or redis:// address of a store: what is there isn't computed again."),
]
VerifyOption = Annotated[
    float,
    typer.Option(min=0.0, max=1.0, help="Share of the hits that are computed again and compared."),
]
NoiseFloorOption = Annotated[
    bool | None,
    typer.Option(
        "--noise-floor/--no-noise-floor",
        help="Run up to 32 prompts again in other batches, to tell a difference from noise. "
        "Default: where views are compared in half precision.",
        show_default=False,
    ),
]


RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Score with workers of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; without an "
        "address one is made on this machine.",
    ),
]
WorkersOption = Annotated[
    int | None, typer.Option(min=1, help="Workers of --ray, one model each.", show_default=False)
]


def run(argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    return guarded(lambda: _invoke(_with_joined_name(_with_address(argv))))


def _with_joined_name(argv: list[str]) -> list[str]:
    """``argv`` with the one command of two words as one: ``report`` itself takes traces."""
    words = REPORT_COMPARE.split()
    is_compare = argv[: len(words)] == words
    return [REPORT_COMPARE, *argv[len(words) :]] if is_compare else argv


def _with_address(argv: Sequence[str]) -> list[str]:
    """``argv`` with an address behind each ``--ray`` that has none: options here have values."""
    following = [*argv[1:], "-"]
    pairs = zip(argv, following, strict=False)
    return [
        "--ray=local" if word == "--ray" and after.startswith("-") else word
        for word, after in pairs
    ]


def _invoke(argv: list[str]) -> int:
    try:
        code = app(args=argv, prog_name="forwardcache", standalone_mode=False)
    except _UsageProblem as problem:
        say(f"{problem.format_message()} (forwardcache --help)")
        return ExitCode.BAD_INPUT
    except typer.Abort:
        raise KeyboardInterrupt from None
    except SystemExit:
        # Typer ends the process itself where the reader of standard output has gone.
        return ExitCode.READER_GONE
    if code == ExitCode.INTERRUPTED:
        # Typer makes this of Ctrl-C, without a word.
        raise KeyboardInterrupt
    return int(code or 0)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"forwardcache {__version__}")
        raise typer.Exit


@app.callback()
def _forwardcache(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="And exit.")
    ] = False,
) -> None:
    """Every forward pass once: an exact, traced cache under the views of one model."""


@app.command("score", epilog=EXIT_STATUS)
def _score(  # noqa: PLR0917 - typer calls it, by name
    model: ModelOption,
    prompts: PromptsOption,
    adapter: AdapterOption = None,
    views: ViewsOption = None,
    op: OpOption = Op.NEXT_TOKEN_DIST,
    top_k: TopKOption = 256,
    out: OutOption = None,
    force: ForceOption = False,
    resume: ResumeOption = False,
    trace: TraceOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    chat_template: ChatTemplateOption = False,
    special_tokens: SpecialTokensOption = True,
    allow_download: DownloadOption = False,
    store: StoreOption = None,
    verify: VerifyOption = 0.0,
    noise_floor: NoiseFloorOption = None,
    ray: RayOption = None,
    workers: WorkersOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Score prompts with the views of one model; one row a prompt and view."""
    from forwardcache.cli.loading import ModelOptions
    from forwardcache.cli.score import ScoreOptions, score

    loading = ModelOptions(
        model=model,
        adapter=adapter,
        trace=trace,
        device=device,
        dtype=dtype,
        chat_template=chat_template,
        special_tokens=special_tokens,
        allow_download=allow_download,
        store=store,
        verify=verify,
    )
    return score(
        ScoreOptions(
            loading=loading,
            prompts=prompts,
            views=views,
            op=op.value,
            top_k=top_k,
            out=out,
            force=force,
            resume=resume,
            noise_floor=noise_floor,
            json=format_ is Format.JSON,
            ray=ray,
            workers=workers,
        )
    )


@app.command("demo", epilog=EXIT_STATUS)
def _demo(
    out: Annotated[
        Path, typer.Option(help="Folder for the rows and the trace; made if it isn't there.")
    ] = Path("forwardcache-demo"),
    format_: FormatOption = Format.TABLE,
) -> int:
    """Score the model that comes with this package, twice: what the cache saves, what KL shows."""
    from forwardcache.cli.demo import demo

    return demo(out, json=format_ is Format.JSON)


check = typer.Typer(help="Check that an engine or a backend keeps its contract.")
app.add_typer(check, name="check")

FactoryArgument = Annotated[str, typer.Argument(help="pkg.mod:factory", metavar="FACTORY")]
AllOption = Annotated[bool, typer.Option("--all", help="Go on after a failure.")]


class ReportFormat(StrEnum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


class Profile(StrEnum):
    """How much of an engine is checked."""

    SEED = "seed"
    STRICT = "strict"


@check.command("engine")
def _check_engine(
    factory: FactoryArgument,
    profile: Annotated[Profile, typer.Option(help="How much is checked.")] = Profile.SEED,
    every: AllOption = False,
    failing_factory: Annotated[
        str | None,
        typer.Option(help="pkg.mod:factory of engines whose start raises.", metavar="FACTORY"),
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


@check.command("backend")
def _check_backend(
    factory: FactoryArgument,
    every: AllOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check a scoring backend; exit status 0 if it conforms, 1 if not, 2 if it can't be made."""
    from forwardcache.conformance.backend.command import check_backend_spec

    return check_backend_spec(factory, output_format=format_.value, report_all=every)


trace_commands = typer.Typer(help="Read traces, merge them, complete what a crash left.")
app.add_typer(trace_commands, name="trace")

TracesArgument = Annotated[
    list[str], typer.Argument(help="Traces; - for standard input.", metavar="PATH...")
]


@trace_commands.command("summary", epilog=EXIT_STATUS)
def _trace_summary(paths: TracesArgument, format_: FormatOption = Format.TABLE) -> int:
    """Figures of traces for each probe, view and op: hits, misses, times, what is missing."""
    from forwardcache.cli.trace import summary

    return summary(paths, as_json=format_ is Format.JSON)


@trace_commands.command("merge", epilog=EXIT_STATUS)
def _trace_merge(
    paths: TracesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the merged trace.")],
    force: ForceOption = False,
) -> int:
    """Merge traces by time into one; lines stay as they are, and in their file's order."""
    from forwardcache.cli.trace_merge import merge

    return merge(paths, out, force=force)


@trace_commands.command("export", epilog=EXIT_STATUS)
def _trace_export(
    paths: TracesArgument,
    chrome: Annotated[
        Path | None, typer.Option(help="Trace-event JSON, which Perfetto opens.", metavar="FILE")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="A table, a column a field.", metavar="FILE")
    ] = None,
    force: ForceOption = False,
) -> int:
    """Write traces in the formats of other tools; several are read in order of time."""
    from forwardcache.cli.trace_export import export

    return export(paths, chrome=chrome, parquet=parquet, force=force)


@trace_commands.command("watch", epilog=EXIT_STATUS)
def _trace_watch(
    path: Annotated[Path, typer.Argument(help="The trace; it may not be there yet.")],
    once: Annotated[bool, typer.Option("--once", help="Show it as it is now, and end.")] = False,
    interval_s: Annotated[
        float, typer.Option("--interval", min=0.05, max=60.0, help="Seconds between two looks.")
    ] = 0.5,
    slowest: Annotated[
        int, typer.Option(min=0, max=100, help="How many of the slowest passes are shown.")
    ] = 5,
) -> int:
    """Follow a trace that is being written; Ctrl-C ends it."""
    from forwardcache.cli.trace_watch import watch

    return watch(path, once=once, interval_s=interval_s, slowest=slowest)


@trace_commands.command("recover", epilog=EXIT_STATUS)
def _trace_recover(
    path: Annotated[Path, typer.Argument(help="The trace.")],
    format_: FormatOption = Format.TABLE,
) -> int:
    """Complete a trace whose process was killed; exit status 1 if events are lost."""
    from forwardcache.cli.trace import recover

    return recover(path, as_json=format_ is Format.JSON)


ReportOutOption = Annotated[Path | None, typer.Option("--out", "-o", help="File for the report.")]
ReportFormatOption = Annotated[
    ReportFormat | None,
    typer.Option("--format", help="Default: html with --out FILE.html, else table."),
]


@app.command("report", epilog=EXIT_STATUS)
def _report(  # noqa: PLR0917 - typer calls it, by name
    paths: Annotated[
        list[str] | None, typer.Argument(help="Traces; - for standard input.", metavar="PATH...")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="Rows of score: how far the views are from base.")
    ] = None,
    prompts: Annotated[
        str | None, typer.Option(help="File that was scored: prompts are shown by their text.")
    ] = None,
    out: ReportOutOption = None,
    format_: ReportFormatOption = None,
    force: ForceOption = False,
) -> int:
    """What happened in traces: hits, times, who warmed whom, what a larger cache would save."""
    from forwardcache.cli.report import report

    return report(
        paths or [],
        out=out,
        output_format=_report_format(out, format_).value,
        scores=scores,
        prompts=prompts,
        force=force,
    )


@app.command(REPORT_COMPARE, epilog=EXIT_STATUS)
def _report_compare(
    before: Annotated[str, typer.Argument(help="The first run's trace.", metavar="A")],
    after: Annotated[str, typer.Argument(help="The second run's.", metavar="B")],
    out: ReportOutOption = None,
    format_: ReportFormatOption = None,
    force: ForceOption = False,
) -> int:
    """What changed between two runs: hits, seconds by op and view, what was asked for."""
    from forwardcache.cli.report import compare

    chosen = _report_format(out, format_)
    return compare(before, after, out=out, output_format=chosen.value, force=force)


def _report_format(out: Path | None, chosen: ReportFormat | None) -> ReportFormat:
    is_page = out is not None and out.suffix == ".html"
    return chosen or (ReportFormat.HTML if is_page else ReportFormat.TABLE)


store_commands = typer.Typer(help="What is in a store; check it, shrink it, move it.")
app.add_typer(store_commands, name="store")

StoreArgument = Annotated[str, typer.Argument(help="File or redis:// address.", metavar="STORE")]
TableArgument = Annotated[Path, typer.Argument(help="The table.", metavar="FILE.parquet")]


@store_commands.command("info", epilog=EXIT_STATUS)
def _store_info(where: StoreArgument, format_: FormatOption = Format.TABLE) -> int:
    """Entries and bytes by model, view and op."""
    from forwardcache.cli.store import info

    return info(where, as_json=format_ is Format.JSON)


@store_commands.command("verify", epilog=EXIT_STATUS)
def _store_verify(where: StoreArgument) -> int:
    """Read everything and drop what is damaged; exit status 1 if there was any."""
    from forwardcache.cli.store import verify

    return verify(where)


@store_commands.command("prune", epilog=EXIT_STATUS)
def _store_prune(
    where: StoreArgument,
    older_than: Annotated[
        float | None, typer.Option(min=0.0, help="Days since a value was written or used.")
    ] = None,
    model: Annotated[str | None, typer.Option(help="A model, as info shows it.")] = None,
    view: Annotated[str | None, typer.Option(help="A view, as info shows it.")] = None,
    max_bytes: Annotated[
        int | None, typer.Option(min=0, help="Then the least recently used, down to this.")
    ] = None,
) -> int:
    """Drop values: of the first three, those that fit all that are given."""
    from forwardcache.cli.store import prune

    return prune(where, older_than_days=older_than, model=model, view=view, max_bytes=max_bytes)


@store_commands.command("export", epilog=EXIT_STATUS)
def _store_export(where: StoreArgument, out: TableArgument, force: ForceOption = False) -> int:
    """Write all values of a store's file to a Parquet table, as they are."""
    from forwardcache.cli.store import export

    return export(where, out, force=force)


@store_commands.command("import", epilog=EXIT_STATUS)
def _store_import(where: StoreArgument, table: TableArgument) -> int:
    """Put the values of an exported table into a store; exit status 1 if some are damaged."""
    from forwardcache.cli.store import import_

    return import_(where, table)
