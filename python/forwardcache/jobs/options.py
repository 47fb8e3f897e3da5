"""What was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwardcache.jobs.skips import OnError


@dataclass(frozen=True, slots=True)
class NamedAdapter:
    """An adapter's folder, and what it is called in views.

    Attributes:
        name: Its name; None for the only one.
        folder: Where it is.
    """

    name: str | None
    folder: str

    def __str__(self) -> str:
        return self.folder if self.name is None else f"{self.name}={self.folder}"


def tokenizer_folder(given: str | None) -> str | None:
    """The folder that ``--tokenizer`` names.

    Args:
        given: What was given; None if nothing was.

    Returns:
        None where it is the model's or the adapter's own, which words stand for.
    """
    return None if given in {None, "base", "adapter"} else given


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """What to load and how.

    Attributes:
        model: Folder of the model, or a hub name.
        adapters: The adapters; with several, each has a name.
        trace: Trace file; None for no trace.
        device: auto, cpu, cuda, ...
        dtype: auto, float32, bfloat16, ...
        chat_template: Whether prompts go through the tokenizer's chat template.
        special_tokens: Whether the tokenizer adds its special tokens.
        chat_template_args: What the template is given with the messages; None for nothing.
        tokenizer: base, adapter or a folder; None chooses.
        add_bos_token: Whether texts begin with BOS; None as the tokenizer's files say.
        prefix_token: Id or text of the token before a first one; None for none.
        windows: Whether texts over the context are scored in windows.
        allow_download: Whether ``model`` may be a hub name.
        store: Path or address of the store; None without one.
        verify: Share of the hits that are computed again.
        token_budget: Most positions in a batch; None lets the device choose.
        cache_bytes: Most bytes of the values that are kept in memory; None for 64 MiB.
        identity: versions, strict or label:NAME: how changes of the weights are noticed.
        keep: values or states: what is cached and stored.
    """

    model: str
    adapters: tuple[NamedAdapter, ...] = ()
    trace: Path | None = None
    device: str = "auto"
    dtype: str = "auto"
    chat_template: bool = False
    special_tokens: bool = True
    allow_download: bool = False
    store: str | None = None
    verify: float = 0.0
    chat_template_args: dict[str, Any] | None = None
    tokenizer: str | None = None
    add_bos_token: bool | None = None
    token_budget: int | None = None
    cache_bytes: int | None = None
    identity: str = "versions"
    prefix_token: str | None = None
    windows: bool = False
    keep: str = "values"

    @property
    def adapter_names(self) -> tuple[str, ...]:
        """The names of those adapters that have one."""
        return tuple(each.name for each in self.adapters if each.name is not None)

    @property
    def prefix_token_id(self) -> int | str | None:
        """The prefix as a backend takes it: an id as a number."""
        token = self.prefix_token
        if token is None or not (token.isascii() and token.isdigit()):
            return token
        return int(token)

    @property
    def named(self) -> str:
        """The model and its adapters, for a person."""
        adapters = ", ".join(map(str, self.adapters))
        return f"{self.model} and {adapters}" if adapters else self.model


@dataclass(frozen=True, slots=True)
class ScoreOptions:
    """What was asked for; ``forwardcache score --help`` describes each."""

    loading: ModelOptions
    prompts: str
    views: str | None
    op: str
    top_k: int
    out: Path | None
    force: bool
    resume: bool
    noise_floor: bool | None
    json: bool
    ray: str | None = None
    workers: int | None = None
    limit: int | None = None
    on_error: OnError = "fail"
    strict: bool = False
    worker_cpus: int | None = None
    dry_run: bool = False
    parts: bool = False
    out_folder: str | None = None
