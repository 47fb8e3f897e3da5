"""What commands of several groups share."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields
from enum import Enum, StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

if TYPE_CHECKING:
    from forwardcache.jobs.diff.options import DiffOptions
    from forwardcache.jobs.export.options import ExportOptions
    from forwardcache.jobs.options import ModelOptions, ScoreOptions

    Asked = TypeVar("Asked", bound=DiffOptions | ExportOptions | ScoreOptions)

EXIT_STATUS = (
    "Exit status: 0 done, 1 the answer is no, 2 wrong use or bad input, 3 the machine failed "
    "(disk, memory), 130 interrupted, 141 the reader of standard output has gone."
)

TOP_K_MAX = 2**31 - 1
"""Most tokens of a distribution that can be asked for."""


class Format(StrEnum):
    """How a table is printed."""

    TABLE = "table"
    JSON = "json"


class OnErrorChoice(StrEnum):
    """What becomes of a prompt that can't be scored."""

    FAIL = "fail"
    SKIP = "skip"


class KeepChoice(StrEnum):
    """What is cached and stored."""

    VALUES = "values"
    STATES = "states"


FormatOption = Annotated[Format, typer.Option("--format", help="How the summary is printed.")]
ForceOption = Annotated[bool, typer.Option("--force", help="Replace --out.")]
ReplaceOption = Annotated[
    bool, typer.Option("--force", help="Replace a file that is there already.")
]
ModelOption = Annotated[str, typer.Option(help="Folder of the model and its tokenizer.")]
AdapterOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME=]DIR",
        help="Folder of an adapter. Given several times, each needs a name; its views are ft:NAME "
        "and so on.",
    ),
]
AdaptersOption = Annotated[
    str | None,
    typer.Option(
        metavar="FOLDER",
        help="Each of its sub-folders that holds an adapter, called as that: the checkpoints of a "
        "run, in the order of their numbers.",
        show_default=False,
    ),
]
DeviceOption = Annotated[
    str, typer.Option(help="auto (a GPU where there is one), cpu, cuda, cuda:1, ...")
]
DtypeOption = Annotated[
    str, typer.Option(help="auto (the checkpoint's), float32, bfloat16, float16.")
]
ChatTemplateOption = Annotated[
    bool,
    typer.Option(
        help="Put each prompt into the tokenizer's chat template; each needs a completion then."
    ),
]
ChatTemplateArgsOption = Annotated[
    str | None,
    typer.Option(
        metavar="JSON",
        help="What the chat template is given with the messages, such as "
        "'{\"enable_thinking\": false}'.",
    ),
]
TokenizerOption = Annotated[
    str | None,
    typer.Option(
        help="base, adapter or a folder. Default: the adapter's, where its folder has one that "
        "differs from the model's."
    ),
]
AddBosTokenOption = Annotated[
    bool | None,
    typer.Option(
        "--add-bos-token/--no-add-bos-token",
        help="Let texts begin with the BOS token, or not. Default: as the tokenizer's files say.",
        show_default=False,
    ),
]
PrefixTokenOption = Annotated[
    str | None,
    typer.Option(
        metavar="ID_OR_TEXT",
        help="Token that a first one stands after where the tokenizer adds no BOS: for an empty "
        "prompt, and so that a whole text's first token is scored too.",
    ),
]
SpecialTokensOption = Annotated[
    bool, typer.Option(help="Let the tokenizer add its special tokens.")
]
DownloadOption = Annotated[
    bool, typer.Option("--allow-download", help="--model may be a hub name.")
]
StrictOption = Annotated[
    bool, typer.Option("--strict", help="Exit status 1 where prompts were skipped.")
]
TokenBudgetOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most positions (rows x longest) in a batch. Default: 2048 on a CPU, 16384 on a GPU.",
        show_default=False,
    ),
]
IdentityOption = Annotated[
    str,
    typer.Option(
        metavar="[versions|strict|label:NAME]",
        help="How changes of the weights are noticed: as torch sees them, by hashing all at every "
        "call, or not at all, under a name that you give them.",
    ),
]

KeepOption = Annotated[
    KeepChoice,
    typer.Option(
        help="What is cached and stored: the values; or the final hidden states of each text, from "
        "which any later question about it is answered without a forward."
    ),
]
ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with OUT.part, what a run that was interrupted left; with --parts, compute "
        "what the folder lacks.",
    ),
]
TraceOption = Annotated[Path | None, typer.Option(help="Trace file (.jsonl); it is appended to.")]
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
CacheBytesOption = Annotated[
    int | None,
    typer.Option(
        min=1,
        help="Most bytes of values that are kept in memory. Default: 64 MiB.",
        show_default=False,
    ),
]


def loading_of(asked: Mapping[str, Any], *, without: Collection[str] = ()) -> ModelOptions:
    """What the options of a command say of the model; theirs are the names of the fields.

    Args:
        asked: The command's arguments by name.
        without: The fields that it has no option for: they have their defaults.
    """
    from forwardcache.cli.checks import template_arguments
    from forwardcache.jobs.adapters import parse_adapters
    from forwardcache.jobs.options import ModelOptions

    others = {"adapters", *without}
    given = {
        each.name: asked[each.name] for each in fields(ModelOptions) if each.name not in others
    }
    given["adapters"] = parse_adapters(asked["adapter"] or [], asked.get("adapters"))
    if "keep" in given:
        given["keep"] = given["keep"].value
    given["chat_template_args"] = template_arguments(asked["chat_template_args"])
    return ModelOptions(**given)


def options_of(
    kind: type[Asked], asked: Mapping[str, Any], *, loading: ModelOptions, **made: Any
) -> Asked:
    """What the options of a command come to; theirs are the names of the fields.

    Args:
        kind: What holds them.
        asked: The command's arguments by name.
        loading: What they say of the model.
        **made: Fields that are made of several options, or of one in another form.
    """
    own = {each.name: asked[each.name] for each in fields(kind) if each.name in asked}
    plain = {name: given.value if isinstance(given, Enum) else given for name, given in own.items()}
    return kind(**{**plain, **made}, loading=loading, json=asked["format_"] is Format.JSON)
