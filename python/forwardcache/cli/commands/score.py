"""``score``, the main job, and ``demo``, which does it on the model that ships."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forwardcache.cli.commands.options import (
    EXIT_STATUS,
    TOP_K_MAX,
    AdapterOption,
    AdaptersOption,
    AddBosTokenOption,
    CacheBytesOption,
    ChatTemplateArgsOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    ForceOption,
    Format,
    FormatOption,
    IdentityOption,
    KeepChoice,
    KeepOption,
    ModelOption,
    OnErrorChoice,
    PrefixTokenOption,
    ResumeOption,
    SpecialTokensOption,
    StoreOption,
    StrictOption,
    TokenBudgetOption,
    TokenizerOption,
    TraceOption,
    VerifyOption,
    loading_of,
    options_of,
)
from forwardcache.errors import InvalidInputError
from forwardcache.operations import of_prompts

if TYPE_CHECKING:
    from forwardcache.jobs.options import ScoreOptions

commands = typer.Typer()

# Whatever is in ``forwardcache.operations``, which no type checker can know.
Op = StrEnum("Op", {name: name for name in of_prompts()})  # type: ignore[misc]
DEFAULT_OP = Op("next_token_dist")


PromptsOption = Annotated[
    str,
    typer.Option(
        help="File, folder of files, or - for standard input: a prompt a line (.txt), or JSON "
        "lines (.jsonl), or rows (.parquet, datasets' save_to_disk) with prompt, completion, and "
        "any other field, which is carried through. With "
        "--chat-template the prompt (or messages) may be a list of turns with role and content."
    ),
]
ViewsOption = Annotated[
    str | None,
    typer.Option(
        help="base, ft, scaled:LAMBDA, null:SEED[:INIT_SCALE[:RANK_SCALE]], null:SEED:matched, "
        "comma-separated; with :NAME behind where adapters have names. "
        "Default: base and ft of each adapter; with null:1:matched to null:19:matched the "
        "table says where the adapter stands among random changes of its own norm."
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
    # No path: it may be a URL, whose slashes a path would join.
    str | None,
    typer.Option(
        "--out",
        "-o",
        metavar="PATH",
        help="FILE.jsonl or FILE.parquet; default standard output. With --parts a folder, or its "
        "URL.",
        show_default=False,
    ),
]
PartsOption = Annotated[
    bool,
    typer.Option(
        "--parts",
        help="Let the workers write the rows, each its own, into the folder --out, from which "
        "forwardcache merge makes one file: for many workers.",
    ),
]
ChatTemplateOption = Annotated[
    bool,
    typer.Option(
        help="Put each prompt into the tokenizer's chat template (not with rolling_logprob)."
    ),
]
WindowsOption = Annotated[
    bool,
    typer.Option(
        "--windows",
        help="Score texts longer than the context in windows, each token once (rolling_logprob).",
    ),
]
NoiseFloorOption = Annotated[
    bool | None,
    typer.Option(
        "--noise-floor/--no-noise-floor",
        help="Run up to 32 prompts again in other batches, to tell how much those change. "
        "Default: where views are compared in half precision.",
        show_default=False,
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(min=1, help="Only the first N prompts.", metavar="N", show_default=False),
]
OnErrorOption = Annotated[
    OnErrorChoice,
    typer.Option(
        help="A prompt that can't be scored (too long, no prompt in the line, ...) ends the run, "
        "or is left out and told."
    ),
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be run, what the store has of it, and about how long it takes; score "
        "and write nothing.",
    ),
]
RayOption = Annotated[
    str | None,
    typer.Option(
        "--ray",
        metavar="[ADDRESS]",
        help="Take the workers of a Ray cluster: auto, HOST:PORT or ray://HOST:PORT; without an "
        "address one is made on this machine.",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Score with N processes of this machine, one model each, which share its cores or "
        "GPUs; with --ray on many machines. Default: in this process.",
        metavar="N",
        show_default=False,
    ),
]

WorkerCpusOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Threads that a worker computes with, and cores that it asks --ray for. Default: its "
        "share of this machine's (or OMP_NUM_THREADS), and 1 in a cluster that runs already.",
        show_default=False,
    ),
]


@commands.command("score", short_help="Score prompts with views of one model.", epilog=EXIT_STATUS)
def _score(  # noqa: PLR0917 - typer calls it, by name
    model: ModelOption,
    prompts: PromptsOption,
    adapter: AdapterOption = None,
    adapters: AdaptersOption = None,
    views: ViewsOption = None,
    op: OpOption = DEFAULT_OP,
    top_k: TopKOption = 256,
    out: OutOption = None,
    parts: PartsOption = False,
    force: ForceOption = False,
    resume: ResumeOption = False,
    trace: TraceOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    chat_template: ChatTemplateOption = False,
    chat_template_args: ChatTemplateArgsOption = None,
    special_tokens: SpecialTokensOption = True,
    add_bos_token: AddBosTokenOption = None,
    tokenizer: TokenizerOption = None,
    prefix_token: PrefixTokenOption = None,
    windows: WindowsOption = False,
    allow_download: DownloadOption = False,
    store: StoreOption = None,
    verify: VerifyOption = 0.0,
    noise_floor: NoiseFloorOption = None,
    limit: LimitOption = None,
    on_error: OnErrorOption = OnErrorChoice.FAIL,
    strict: StrictOption = False,
    token_budget: TokenBudgetOption = None,
    cache_bytes: CacheBytesOption = None,
    identity: IdentityOption = "versions",
    keep: KeepOption = KeepChoice.VALUES,
    dry_run: DryRunOption = False,
    ray: RayOption = None,
    workers: WorkersOption = None,
    worker_cpus: WorkerCpusOption = None,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Score prompts with the views of one model; one row a prompt and view."""
    # Not the context's parameters: older versions of Typer have texts there.
    asked = {**locals()}
    from forwardcache.cli.score import score

    return score(_options(asked))


def _options(asked: Mapping[str, Any]) -> ScoreOptions:
    """What the options of the command come to; theirs are the names of the fields."""
    from forwardcache.jobs.options import ScoreOptions

    out, is_folder = asked["out"], asked["parts"]
    if out is not None and "://" in out and not is_folder:
        raise InvalidInputError(f"--out {out} is a URL: rows go there with --parts, as a folder")
    return options_of(
        ScoreOptions,
        asked,
        loading=loading_of(asked),
        out=None if out is None or is_folder else Path(out),
        out_folder=out if is_folder else None,
    )


@commands.command(
    "demo", short_help="Score the model that ships with the package.", epilog=EXIT_STATUS
)
def _demo(
    out: Annotated[
        Path,
        typer.Option(
            "--out", "-o", help="Folder for the rows and the trace; made if it isn't there."
        ),
    ] = Path("forwardcache-demo"),
    format_: FormatOption = Format.TABLE,
) -> int:
    """Score the model that comes with this package, twice: what the cache saves, what KL shows."""
    from forwardcache.cli.demo import demo

    return demo(out, json=format_ is Format.JSON)
