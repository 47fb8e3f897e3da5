"""``export``: what a trainer reads of a model, teacher or reference."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from forwardcache.cli.commands.options import (
    EXIT_STATUS,
    TOP_K_MAX,
    AdapterOption,
    AddBosTokenOption,
    CacheBytesOption,
    ChatTemplateArgsOption,
    ChatTemplateOption,
    DeviceOption,
    DownloadOption,
    DtypeOption,
    ForceOption,
    Format,
    FormatOption,
    IdentityOption,
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

commands = typer.Typer(help="Write what trainers read: teacher or reference.")

TextsOption = Annotated[
    str,
    typer.Option(
        help="File, or - for standard input: a text a line (.txt), or JSON lines (.jsonl) with "
        "prompt (or text), completion, and any other field, which is carried through. With "
        "--chat-template the prompt may be a list of turns with role and content."
    ),
]
PairsOption = Annotated[
    str,
    typer.Option(
        "--prompts",
        help="File, or - for standard input: JSON lines (.jsonl) with prompt, chosen and rejected, "
        "all three texts or all three lists of messages, and any other field, which is kept.",
    ),
]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="FILE.parquet or FILE.jsonl.")]
ViewOption = Annotated[
    str | None,
    typer.Option(
        metavar="VIEW",
        help="base, ft, scaled:LAMBDA, null:SEED:matched, ... Default: ft with an adapter, else "
        "base.",
        show_default=False,
    ),
]
TopKOption = Annotated[
    int, typer.Option(min=1, max=TOP_K_MAX, help="Most likely tokens of each position.")
]
MassOption = Annotated[
    float | None,
    typer.Option(
        metavar="P",
        help="Of these only the fewest that hold this much probability (above 0, up to 1).",
        show_default=False,
    ),
]
AppendEosOption = Annotated[
    bool,
    typer.Option("--append-eos", help="End each text with the EOS token, as SFT trainers do."),
]
MaxLengthOption = Annotated[
    int,
    typer.Option(
        min=1,
        metavar="TOKENS",
        help="A prompt with its completion is cut behind so many tokens, as TRL's max_length.",
    ),
]
LimitOption = Annotated[
    int | None,
    typer.Option(min=1, help="Only the first N lines.", metavar="N", show_default=False),
]
OnErrorOption = Annotated[
    OnErrorChoice,
    typer.Option(
        help="A line that can't be scored (too long, a field is missing, ...) ends the run, or is "
        "left out and told."
    ),
]

_NOT_ASKED = ("windows", "keep")
_OF_TEXTS = ("chat_template", "special_tokens", "add_bos_token", "prefix_token")
"""What ``export reference`` has no option for: it reads a row as TRL does."""


@commands.command(
    "teacher", short_help="The most likely tokens at each position.", epilog=EXIT_STATUS
)
def _teacher(  # noqa: PLR0917 - typer calls it, by name
    model: ModelOption,
    texts: TextsOption,
    out: OutOption,
    adapter: AdapterOption = None,
    view: ViewOption = None,
    top_k: TopKOption = 64,
    mass: MassOption = None,
    append_eos: AppendEosOption = False,
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
    allow_download: DownloadOption = False,
    store: StoreOption = None,
    verify: VerifyOption = 0.0,
    limit: LimitOption = None,
    on_error: OnErrorOption = OnErrorChoice.FAIL,
    strict: StrictOption = False,
    token_budget: TokenBudgetOption = None,
    cache_bytes: CacheBytesOption = None,
    identity: IdentityOption = "versions",
    format_: FormatOption = Format.TABLE,
) -> int:
    """Write the most likely tokens at each position of texts, for training a student on them."""
    # Not the context's parameters: older versions of Typer have texts there.
    asked = {**locals()}
    from forwardcache.cli.export import teacher
    from forwardcache.jobs.export.options import TeacherOptions

    loading = loading_of(asked, without=_NOT_ASKED)
    return teacher(options_of(TeacherOptions, asked, loading=loading, prompts=texts))


@commands.command(
    "reference", short_help="Log-probabilities of pairs, for DPO.", epilog=EXIT_STATUS
)
def _reference(  # noqa: PLR0917 - typer calls it, by name
    model: ModelOption,
    prompts: PairsOption,
    out: OutOption,
    adapter: AdapterOption = None,
    view: ViewOption = None,
    max_length: MaxLengthOption = 1024,
    force: ForceOption = False,
    resume: ResumeOption = False,
    trace: TraceOption = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    chat_template_args: ChatTemplateArgsOption = None,
    tokenizer: TokenizerOption = None,
    allow_download: DownloadOption = False,
    store: StoreOption = None,
    verify: VerifyOption = 0.0,
    limit: LimitOption = None,
    on_error: OnErrorOption = OnErrorChoice.FAIL,
    strict: StrictOption = False,
    token_budget: TokenBudgetOption = None,
    cache_bytes: CacheBytesOption = None,
    identity: IdentityOption = "versions",
    format_: FormatOption = Format.TABLE,
) -> int:
    """Write pairs with ref_chosen_logps and ref_rejected_logps, as TRL's DPOTrainer computes them.

    Each is the sum of a completion's log-probabilities in nats.
    """
    # Not the context's parameters: older versions of Typer have texts there.
    asked = {**locals()}
    from forwardcache.cli.checks import template_arguments
    from forwardcache.cli.export import reference
    from forwardcache.jobs.export.options import ReferenceOptions

    # The rows' own: the backend gets tokens.
    given = template_arguments(chat_template_args)
    loading = loading_of({**asked, "chat_template_args": None}, without=(*_NOT_ASKED, *_OF_TEXTS))
    return reference(options_of(ReferenceOptions, asked, loading=loading, chat_template_args=given))
