"""``OUT.meta.json``: which run made the rows of ``OUT``, for whoever reads them without its words.

What a command line may hold of passwords (in the address of a store) isn't written.
"""

from __future__ import annotations

import json
import platform
import re
import shlex
from collections.abc import Mapping, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from forwardcache import __version__
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.jobs.job import Job, Totals
    from forwardcache.jobs.options import ScoreOptions
    from forwardcache.jobs.skips import Skipped

Facts: TypeAlias = dict[str, Any]

WORDS: ContextVar[Sequence[str]] = ContextVar("WORDS", default=())
"""The words of the command line behind the program's name."""

PARQUET_KEY = "forwardcache"
"""Of the key-value metadata of a table, which holds the same JSON."""

_VERSIONS = ("torch", "transformers", "peft", "tokenizers")
# Of a URL: what stands before its host, and options that are secrets.
_SECRETS = re.compile(r"(?<=://)[^/\s,]*(?=@)|(?<=password=)[^&,\s]+|(?<=ca_data=)[^&,\s]+")
# Said elsewhere, or of no row's doing.
_SAID_ELSEWHERE = frozenset({"model", "adapter", "op", "views", "prompts"})


def facts_of(
    options: ScoreOptions,
    job: Job,
    totals: Totals,
    *,
    job_facts: Facts,
    skipped: Sequence[Skipped],
    arithmetic: Mapping[str, Any],
    noise_floor: Mapping[str, Any] | None,
) -> Facts:
    """What is to be kept with the rows, as JSON values.

    Args:
        options: What was asked for.
        job: What was scored.
        totals: What was found.
        job_facts: What decides the rows.
        skipped: The prompts without rows.
        arithmetic: Dtype, device, kernels and threads.
        noise_floor: How far base is from itself in other batches; None where it wasn't measured.
    """
    return {
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": _folder(options.loading.model, job_facts["model"]),
        "adapter": _folder(options.loading.adapter, job_facts["adapter"]),
        **arithmetic,
        "op": job.op,
        "views": [_view(view) for view in job.views],
        "options": {name: job_facts[name] for name in job_facts if name not in _SAID_ELSEWHERE},
        "prompts": {"file": options.prompts, "sha256": job.source.sha256},
        "counts": {
            "prompts": len(job.source.prompts) + len(job.source.skipped),
            "rows": totals.rows,
            "hits": totals.hits,
            "skipped": len(skipped),
        },
        "skipped": [one.as_json() for one in skipped],
        "noise_floor": noise_floor,
    }


def command() -> str:
    """The command line, as a shell takes it, without its secrets."""
    return shlex.join(["forwardcache", *(_SECRETS.sub("***", word) for word in WORDS.get())])


def versions() -> dict[str, str | None]:
    """What values may depend on; None for what isn't installed here."""
    return {
        "forwardcache": __version__,
        **{name: _version(name) for name in _VERSIONS},
        "python": platform.python_version(),
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _folder(given: str | None, digest: Any) -> Facts | None:
    """A model or adapter with the digest of its contents; a hub name has none."""
    if given is None:
        return None
    is_here = Path(given).is_dir()
    where = str(Path(given).absolute()) if is_here else given
    return {"folder": where, "digest": digest if is_here else None}


def _view(view: View) -> Facts:
    """A view with its exact parameters."""
    exact: dict[str, Facts] = {
        "scaled": {"lambda": view.lam},
        "null": {
            "seed": view.seed, "init_scale": view.init_scale, "rank_scale": view.rank_scale
        },
    }  # fmt: skip
    return {"view": view.name, "kind": view.kind, **exact.get(view.kind, {})}


def meta_of(out: Path) -> Path:
    """Where the facts of ``out`` are: ``OUT.meta.json``, in its folder."""
    return out.with_name(out.name + ".meta.json")


def written(facts: Facts) -> str:
    """The facts as they stand in the file."""
    return json.dumps(facts, indent=1) + "\n"


def is_ours(meta: Path) -> bool:
    """Whether a file is one that a run wrote."""
    try:
        facts = json.loads(meta.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    versions = facts.get("versions") if isinstance(facts, dict) else None
    return isinstance(versions, dict) and "forwardcache" in versions
