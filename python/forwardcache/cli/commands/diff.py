"""``diff``: how far views are from the base model at every position of texts."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from forwardcache.cli.commands.options import (
    EXIT_STATUS,
    AdapterOption,
    AdaptersOption,
    AddBosTokenOption,
    ChatTemplateArgsOption,
    ChatTemplateOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    Format,
    FormatOption,
    IdentityOption,
    KeepChoice,
    KeepOption,
    ModelOption,
    OnErrorChoice,
    PrefixTokenOption,
    ReplaceOption,
    SpecialTokensOption,
    TokenBudgetOption,
    TokenizerOption,
    loading_of,
    options_of,
)

if TYPE_CHECKING:
    from forwardcache.jobs.diff.options import DiffOptions

commands = typer.Typer()

_NOT_ASKED = ("trace", "verify", "cache_bytes")
"""What ``diff`` has no option for: differences aren't values of the cache."""


class ExpectChoice(StrEnum):
    """What a view is expected to be."""

    CHANGED = "changed"
    UNCHANGED = "unchanged"


OtherOption = Annotated[
    list[str] | None,
    typer.Option(
        "--other",
        metavar="NAME=DIR",
        help="Another model of the same vocabulary (merged, fine-tuned as a whole, quantised), as "
        "the view NAME; may be given several times. One is in memory at a time.",
        show_default=False,
    ),
]
ChainOption = Annotated[
    bool,
    typer.Option(
        "--chain",
        help="Also hold each view against the one before it: the adapter's, then other models in "
        "their order.",
    ),
]
TextsOption = Annotated[
    str,
    typer.Option(
        help="File, folder of files, or - for standard input: a text a line (.txt), or JSON lines "
        "(.jsonl), or rows (.parquet, datasets' save_to_disk) with prompt (or text), and any other "
        "field, which is carried through. With completion only its positions count."
    ),
]
ViewsOption = Annotated[
    str | None,
    typer.Option(
        help="base, ft, scaled:LAMBDA, null:SEED[:INIT_SCALE[:RANK_SCALE]], null:SEED:matched, "
        "comma-separated. "
        "Default: ft of each adapter.",
    ),
]
LambdasOption = Annotated[
    str | None,
    typer.Option(
        metavar="L,...",
        help="Strengths that each adapter is compared at, such as 0.25,0.5,1,1.5; 1 is ft. In "
        "place of --views.",
        show_default=False,
    ),
]
ResumeOption = Annotated[
    bool, typer.Option("--resume", help="Go on with OUT.part of an interrupted run.")
]
ReferenceOption = Annotated[
    str, typer.Option(metavar="VIEW", help="The view that the others are held against.")
]
NullsOption = Annotated[
    int,
    typer.Option(
        metavar="N",
        help="Random adapters of the trained one's norm, which the views are held against too; 0 "
        "for none. 19 are the fewest that allow p = 0.05 for one view.",
    ),
]
DetectOption = Annotated[
    bool,
    typer.Option("--detect", help="Find the smallest LAMBDA that can be told from rounding."),
]
GroupByOption = Annotated[
    str | None,
    typer.Option(metavar="FIELD", help="Also the figures by this field of the JSON lines."),
]
SkipFirstOption = Annotated[
    int,
    typer.Option(metavar="N", help="Leave out the first N positions of each text."),
]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out", "-o", help="FILE.jsonl or FILE.parquet for a row a text and view; default none."
    ),
]
ReportOption = Annotated[
    Path | None,
    typer.Option(metavar="FILE.html", help="A page with plots and the positions that moved most."),
]
JunitOption = Annotated[
    Path | None, typer.Option(metavar="FILE", help="The bounds as JUnit's XML, for CI.")
]
ExpectOption = Annotated[
    ExpectChoice | None,
    typer.Option(
        help="Exit status 1 unless each view can (changed) or can't (unchanged) be told from "
        "rounding; 2 where the texts are too few to tell.",
        show_default=False,
    ),
]
MaxKlOption = Annotated[
    float | None,
    typer.Option(
        metavar="NATS",
        help="Exit status 1 where a view's mean KL is above.",
        show_default=False,
    ),
]
MaxPplRatioOption = Annotated[
    float | None,
    typer.Option(
        metavar="R",
        help="Exit status 1 where a view's perplexity by the reference's is above.",
        show_default=False,
    ),
]
MinSameTopOption = Annotated[
    float | None,
    typer.Option(
        metavar="SHARE",
        help="Exit status 1 where a view has the same most likely token at a smaller share of "
        "positions.",
        show_default=False,
    ),
]
WindowsOption = Annotated[
    bool,
    typer.Option(
        "--windows",
        help="Compare texts longer than the context in windows, each token once.",
    ),
]
StoreOption = Annotated[
    str | None,
    typer.Option(
        help="Store, with --keep states: a file, a redis:// address, or FILE,redis://... Texts "
        "whose states are there aren't read again."
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(help="Only the first N texts.", metavar="N", show_default=False),
]
OnErrorOption = Annotated[
    OnErrorChoice,
    typer.Option(
        help="A text that can't be compared (too long, no text in the line, ...) ends the run, or "
        "is left out and told."
    ),
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit status 1 where texts or models were skipped.")
]
DryRunOption = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Say what would be run and about how long it takes; compare and write nothing.",
    ),
]


@commands.command(
    "diff", short_help="Tell how far views are from the base model.", epilog=EXIT_STATUS
)
def _diff(  # noqa: PLR0917 - typer calls it, by name
    model: ModelOption,
    texts: TextsOption,
    adapter: AdapterOption = None,
    adapters: AdaptersOption = None,
    other: OtherOption = None,
    views: ViewsOption = None,
    lambdas: LambdasOption = None,
    reference: ReferenceOption = "base",
    chain: ChainOption = False,
    nulls: NullsOption = 20,
    detect: DetectOption = False,
    group_by: GroupByOption = None,
    skip_first: SkipFirstOption = 0,
    out: OutOption = None,
    report: ReportOption = None,
    junit: JunitOption = None,
    resume: ResumeOption = False,
    force: ReplaceOption = False,
    expect: ExpectOption = None,
    max_kl: MaxKlOption = None,
    max_ppl_ratio: MaxPplRatioOption = None,
    min_same_top: MinSameTopOption = None,
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
    limit: LimitOption = None,
    on_error: OnErrorOption = OnErrorChoice.FAIL,
    strict: StrictOption = False,
    token_budget: TokenBudgetOption = None,
    identity: IdentityOption = "versions",
    keep: KeepOption = KeepChoice.VALUES,
    dry_run: DryRunOption = False,
    format_: FormatOption = Format.TABLE,
) -> int:
    """Tell how far views are from a reference, at every position and over the whole vocabulary."""
    # Not the context's parameters: older versions of Typer have texts there.
    asked = {**locals()}
    from forwardcache.cli.diff import diff

    return diff(_options(asked))


def _options(asked: Mapping[str, Any]) -> DiffOptions:
    """What the options of the command come to; theirs are the names of the fields."""
    from forwardcache.jobs.diff.options import DiffOptions
    from forwardcache.jobs.other_models import parse_others

    loading = loading_of(asked, without=_NOT_ASKED)
    names = [each.name for each in loading.adapters if each.name is not None]
    others = parse_others(asked["other"] or [], taken=names)
    return options_of(DiffOptions, asked, loading=loading, others=others)
