"""What was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from forwardcache.jobs.options import NamedAdapter
from forwardcache.jobs.other_models import OtherModel


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifyOptions:
    """What was asked for; ``forwardcache verify --help`` describes each.

    Attributes:
        rows: The table, JSON lines or Parquet.
        share: Of the prompts whose rows are computed again, above 0 to 1; at least one prompt is.
        seed: Which prompts; None chooses by chance, so that whoever made the rows can't know.
        model: Folder of the model; None for the one that is recorded.
        adapters: Folders of adapters; those that aren't given are where the rows say.
        tokenizer: Folder of a tokenizer apart from both; None for the one that is recorded.
        prompts: File of the prompts, or ``-``; None for the one that is recorded.
        others: Folders of other models; those that aren't given are where the rows say.
        device: Where to compute; None for the kind of device that is recorded, where it is here.
        dtype: Of the weights; None for the one that is recorded.
    """

    rows: Path
    share: float = 0.01
    seed: int | None = None
    model: str | None = None
    adapters: tuple[NamedAdapter, ...] = ()
    tokenizer: str | None = None
    prompts: str | None = None
    device: str | None = None
    dtype: str | None = None
    others: tuple[OtherModel, ...] = ()
