"""What ``forwardcache export`` was asked for."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.skips import OnError

MAX_LENGTH = 1024
"""Most tokens of prompt and completion, as ``DPOConfig`` of TRL has it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportOptions:
    """What both exports are asked for; ``forwardcache export teacher --help`` describes each."""

    loading: ModelOptions
    prompts: str
    out: Path
    view: str | None = None
    force: bool = False
    resume: bool = False
    limit: int | None = None
    on_error: OnError = "fail"
    strict: bool = False
    json: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class TeacherOptions(ExportOptions):
    """What ``export teacher`` was asked for."""

    top_k: int = 64
    mass: float | None = None
    append_eos: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ReferenceOptions(ExportOptions):
    """What ``export reference`` was asked for."""

    max_length: int = MAX_LENGTH
    chat_template_args: dict[str, Any] | None = None
