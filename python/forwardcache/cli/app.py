"""Commands and options. Nothing heavy is imported here: ``--help`` has to be quick."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from forwardcache import __version__
from forwardcache.cli.exits import BadInputError, ExitCode, guarded, say, say_warnings

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
TopKOption = Annotated[
    int,
    typer.Option(
        min=1, max=TOP_K_MAX, help="Most likely tokens in a distribution, for next_token_dist."
    ),
]
OutOption = Annotated[
    Path | None, typer.Option(help="FILE.jsonl or FILE.parquet; default standard output.")
]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace --out.")]
ReplaceOption = Annotated[
    bool, typer.Option("--force", help="Replace a file that is there already.")
]
ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on with OUT.part, what a run that was interrupted left."),
]
TraceOption = Annotated[Path | None, typer.Option(help="Trace file (.jsonl); it is appended to.")]
DeviceOption = Annotated[
    str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
]
DtypeOption = Annotated[
    str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")
]
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
    typer.Option(
        help="Store: a file, a redis:// address, or FILE,redis://... What is there isn't computed "
        "again, and what is computed is kept there."
    ),
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
    int | None,
    typer.Option(
        min=1, help="Workers of --ray, which needs it: one model each.", show_default=False
    ),
]


def run(argv: Sequence[str]) -> int:
    """Run one command; the exit code."""
    say_warnings()
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
        say(_usage_line(problem))
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


def _usage_line(problem: Any) -> str:
    """What was wrong with the command line, and where its help is."""
    context = getattr(problem, "ctx", None)
    command = "forwardcache" if context is None else context.command_path
    # Some versions of typer let the words of their validator through.
    told = problem.format_message().replace("Value error, ", "")
    return f"{told} ({command} --help)"


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"forwardcache {__version__}")
        raise typer.Exit


@app.callback()
def _forwardcache(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Every forward pass once: an exact, traced cache under the views of one model."""


@app.command("score", short_help="Score prompts with views of one model.", epilog=EXIT_STATUS)
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


@app.command("demo", short_help="Score the model that ships with the package.", epilog=EXIT_STATUS)
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

FactoryArgument = Annotated[
    str,
    typer.Argument(help="A function or class that makes one: pkg.mod:name.", metavar="FACTORY"),
]
AllOption = Annotated[bool, typer.Option("--all", help="Go on after the first failure.")]


class ReportFormat(StrEnum):
    """How a report is written."""

    TABLE = "table"
    JSON = "json"
    HTML = "html"


class Profile(StrEnum):
    """How much of an engine is checked."""

    SEED = "seed"
    STRICT = "strict"


@check.command("engine", short_help="Check a streaming engine.")
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


@check.command("backend", short_help="Check a scoring backend.")
def _check_backend(
    factory: FactoryArgument,
    every: AllOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Check a scoring backend; exit status 0 if it conforms, 1 if not, 2 if it is none."""
    from forwardcache.conformance.backend.command import check_backend_spec

    return check_backend_spec(factory, output_format=format_.value, report_all=every)


trace_commands = typer.Typer(help="Read traces, merge them, complete what a crash left.")
app.add_typer(trace_commands, name="trace")

TracesArgument = Annotated[
    list[str], typer.Argument(help="Traces; - for standard input.", metavar="PATH")
]


@trace_commands.command(
    "summary", short_help="Figures for each probe, view and op.", epilog=EXIT_STATUS
)
def _trace_summary(paths: TracesArgument, format_: FormatOption = Format.TABLE) -> int:
    """Figures of traces for each probe, view and op: hits, misses, times, what is missing."""
    from forwardcache.cli.trace import summary

    return summary(paths, as_json=format_ is Format.JSON)


@trace_commands.command("merge", short_help="Merge traces by time into one.", epilog=EXIT_STATUS)
def _trace_merge(
    paths: TracesArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="File for the merged trace.")],
    force: ForceOption = False,
) -> int:
    """Merge traces by time into one; lines stay as they are, and in their file's order."""
    from forwardcache.cli.trace_merge import merge

    return merge(paths, out, force=force)


@trace_commands.command("export", short_help="Write formats of other tools.", epilog=EXIT_STATUS)
def _trace_export(
    paths: TracesArgument,
    chrome: Annotated[
        Path | None, typer.Option(help="Trace-event JSON, which Perfetto opens.", metavar="FILE")
    ] = None,
    parquet: Annotated[
        Path | None, typer.Option(help="A table, a column a field.", metavar="FILE")
    ] = None,
    force: ReplaceOption = False,
) -> int:
    """Write traces in the formats of other tools; several are read in order of time."""
    from forwardcache.cli.trace_export import export

    return export(paths, chrome=chrome, parquet=parquet, force=force)


@trace_commands.command("watch", epilog=EXIT_STATUS)
def _trace_watch(
    path: Annotated[
        Path, typer.Argument(help="The trace; it may not be there yet.", metavar="PATH")
    ],
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


@trace_commands.command(
    "recover", short_help="Complete a trace whose process was killed.", epilog=EXIT_STATUS
)
def _trace_recover(
    path: Annotated[Path, typer.Argument(help="The trace.", metavar="PATH")],
    format_: FormatOption = Format.TABLE,
) -> int:
    """Complete a trace whose process was killed; exit status 1 if events are lost."""
    from forwardcache.cli.trace import recover

    return recover(path, as_json=format_ is Format.JSON)


ReportOutOption = Annotated[
    Path | None,
    typer.Option("--out", "-o", help="FILE.html, FILE.json or FILE.txt; default standard output."),
]
ReportFormatOption = Annotated[
    ReportFormat | None,
    typer.Option("--format", help="Default: what the name of --out says, else table."),
]


@app.command("report", short_help="What happened in traces and scores.", epilog=EXIT_STATUS)
def _report(  # noqa: PLR0917 - typer calls it, by name
    paths: Annotated[
        list[str] | None, typer.Argument(help="Traces; - for standard input.", metavar="PATH")
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


@app.command(REPORT_COMPARE, short_help="What changed between two runs.", epilog=EXIT_STATUS)
def _report_compare(
    before: Annotated[str, typer.Argument(help="The first run's trace.", metavar="A")],
    after: Annotated[str, typer.Argument(help="The second run's trace.", metavar="B")],
    out: ReportOutOption = None,
    format_: ReportFormatOption = None,
    force: ForceOption = False,
) -> int:
    """What changed between two runs: hits, seconds by op and view, what was asked for."""
    from forwardcache.cli.report import compare

    chosen = _report_format(out, format_)
    return compare(before, after, out=out, output_format=chosen.value, force=force)


def _report_format(out: Path | None, chosen: ReportFormat | None) -> ReportFormat:
    if chosen is not None:
        return chosen
    if out is None or out.suffix == "":
        return ReportFormat.TABLE
    if (found := _FORMAT_OF.get(out.suffix.lower())) is None:
        names = ", ".join(_FORMAT_OF)
        raise BadInputError(f"--out {out}: give --format, or a name that ends in one of {names}")
    return found


_FORMAT_OF = {
    ".html": ReportFormat.HTML,
    ".json": ReportFormat.JSON,
    ".txt": ReportFormat.TABLE,
}


store_commands = typer.Typer(help="What is in a store; check it, shrink it, move it.")
app.add_typer(store_commands, name="store")

StoreArgument = Annotated[str, typer.Argument(help="File or redis:// address.", metavar="STORE")]
TableArgument = Annotated[Path, typer.Argument(help="The table.", metavar="FILE.parquet")]


@store_commands.command("info", epilog=EXIT_STATUS)
def _store_info(where: StoreArgument, format_: FormatOption = Format.TABLE) -> int:
    """Entries and bytes by model, view and op."""
    from forwardcache.cli.store import info

    return info(where, as_json=format_ is Format.JSON)


@store_commands.command(
    "verify", short_help="Read everything and drop what is damaged.", epilog=EXIT_STATUS
)
def _store_verify(where: StoreArgument) -> int:
    """Read everything and drop what is damaged; exit status 1 if there was any."""
    from forwardcache.cli.store import verify

    return verify(where)


@store_commands.command(
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


@store_commands.command("export", short_help="Write all values to a table.", epilog=EXIT_STATUS)
def _store_export(where: StoreArgument, out: TableArgument, force: ReplaceOption = False) -> int:
    """Write all values of a store's file to a Parquet table, as they are."""
    from forwardcache.cli.store import export

    return export(where, out, force=force)


@store_commands.command(
    "import", short_help="Put exported values into a store.", epilog=EXIT_STATUS
)
def _store_import(where: StoreArgument, table: TableArgument) -> int:
    """Put the values of an exported table into a store; exit status 1 if some are damaged."""
    from forwardcache.cli.store import import_

    return import_(where, table)
