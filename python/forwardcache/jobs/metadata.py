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
from dataclasses import asdict, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from forwardcache import __version__
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.adapters import folders_by_name, unnamed_adapter
from forwardcache.jobs.fingerprint import folder_fingerprint
from forwardcache.jobs.kinds import STDIN
from forwardcache.jobs.options import tokenizer_folder
from forwardcache.jobs.reasons import shown
from forwardcache.jobs.views import View

if TYPE_CHECKING:
    from forwardcache.jobs.job import Job, Totals
    from forwardcache.jobs.options import ModelOptions, ScoreOptions
    from forwardcache.jobs.prompts import PromptSet
    from forwardcache.jobs.skips import Skipped

Facts: TypeAlias = dict[str, Any]

WORDS: ContextVar[Sequence[str]] = ContextVar("WORDS", default=())
"""The words of the command line behind the program's name."""

COMPARE = "compare"
"""The ``op`` of diff's rows, which are of no operation of the cache."""

PARQUET_KEY = "forwardcache"
"""Of the key-value metadata of a table, which holds the same JSON."""

# Of no value's doing, or told apart.
_FREE = frozenset(
    {"model", "adapters", "trace", "allow_download", "store", "verify", "cache_bytes", "identity"}
)
DECIDING_PACKAGES = ("torch", "transformers", "peft", "tokenizers")
"""Those on whose versions values depend."""
# Of a URL: what stands before its host, and options that are secrets.
_SECRETS = re.compile(r"(?<=://)[^/\s,]*(?=@)|(?<=password=)[^&,\s]+|(?<=ca_data=)[^&,\s]+")
# Said elsewhere, or of no row's doing.
_SAID_ELSEWHERE = frozenset({"model", "adapter", "adapters", "op", "views", "prompts"})


def deciding(options: ScoreOptions, source: PromptSet, views: Sequence[View]) -> Facts:
    """What decides the rows, as JSON values: a part goes on only with the same.

    Args:
        options: What was asked for; without a file for rows nothing has to be known.
        source: The prompts.
        views: In the order of a prompt's rows.
    """
    if options.out is None:
        return {}
    of_rows = deciding_but_prompts(options, views)
    return {**of_rows, "prompts": source.sha256, "limit": options.limit}


def deciding_but_prompts(options: ScoreOptions, views: Sequence[View]) -> Facts:
    """What decides the rows in addition to the prompts, as JSON values.

    Args:
        options: What was asked for.
        views: In the order of a prompt's rows.
    """
    # With numpy, which ``check_installed`` asks for before anything imports it.
    from forwardcache.jobs.rows import ROW_FORMAT

    names = [view.name for view in views]
    loading = options.loading
    return {**folder_facts(loading), **loading_facts(loading), "row format": ROW_FORMAT,
            "op": options.op, "views": names, "top_k": options.top_k}  # fmt: skip


def folder_facts(loading: ModelOptions) -> Facts:
    """What of the folders decides values: their contents, or the name of what is no folder here."""
    digests = digests_of(loading)
    named = {
        name: digests["adapters"][name] or folder
        for name, folder in folders_by_name(loading.adapters).items()
    }
    return {"model": digests["model"] or loading.model,
            "adapter": digests["adapter"] or unnamed_adapter(loading.adapters),
            **({"adapters": named} if named else {})}  # fmt: skip


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
        job_facts: What decides the rows, as ``deciding`` gives it.
        skipped: The prompts without rows.
        arithmetic: Dtype, device, kernels and threads.
        noise_floor: How far base is from itself in other batches; None where it wasn't measured.
    """
    return {
        **facts_of_scoring(options, job.views, job_facts=job_facts, arithmetic=arithmetic),
        **facts_of_input(options.prompts, job.source, skipped, rows=totals.rows, hits=totals.hits),
        "noise_floor": noise_floor,
    }


def facts_of_scoring(
    options: ScoreOptions,
    views: Sequence[View],
    *,
    job_facts: Facts,
    arithmetic: Mapping[str, Any],
) -> Facts:
    """What is to be kept with rows in addition to what was read and found, as JSON values.

    Args:
        options: What was asked for.
        views: In the order of a prompt's rows.
        job_facts: As of ``facts_of``, as is ``arithmetic``.
        arithmetic: Dtype, device, kernels and threads.
    """
    return {
        **facts_of_run(options.loading, digests=job_facts, arithmetic=arithmetic),
        "op": options.op,
        "views": [view_facts(view) for view in views],
        "seeds": seeds(views),
        "options": {name: job_facts[name] for name in job_facts if name not in _SAID_ELSEWHERE},
    }


def facts_of_run(
    loading: ModelOptions, *, digests: Mapping[str, Any], arithmetic: Mapping[str, Any]
) -> Facts:
    """Command, date, versions, folders and arithmetic of a run, as JSON values.

    Args:
        loading: What was loaded.
        digests: Those of ``model`` and ``adapter``, and of ``adapters`` by their names, where these
            are folders.
        arithmetic: Dtype, device, kernels and threads.
    """
    named = folders_by_name(loading.adapters)
    of_named = digests.get("adapters") or {}
    adapters = [{"name": name, **(_folder(folder, of_named.get(name)) or {})}
                for name, folder in named.items()]  # fmt: skip
    return {
        "command": command(),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "versions": versions(),
        "model": _folder(loading.model, digests.get("model")),
        "adapter": _folder(unnamed_adapter(loading.adapters), digests.get("adapter")),
        **({"adapters": adapters} if adapters else {}),
        "tokenizer": _folder_of_tokenizer(loading.tokenizer),
        **arithmetic,
    }


def loading_facts(loading: ModelOptions) -> Facts:
    """What of the options of loading decides values, as JSON values, but for the folders."""
    return {name: value for name, value in asdict(loading).items() if name not in _FREE}


def digests_of(loading: ModelOptions) -> Facts:
    """The digests of the contents of model and adapters; None for what is no folder here."""
    named = folders_by_name(loading.adapters)
    return {
        "model": _digest(loading.model),
        "adapter": _digest(unnamed_adapter(loading.adapters)),
        "adapters": {name: _digest(folder) for name, folder in named.items()},
    }


def _digest(given: str | None) -> str | None:
    if given is None or not Path(given).is_dir():
        return None
    return folder_fingerprint(Path(given))


def facts_of_input(
    file: str, source: PromptSet, skipped: Sequence[Skipped], **counts: int
) -> Facts:
    """Where the prompts came from, how many they are, and those without rows, as JSON values.

    Args:
        file: Where they were read.
        source: The prompts.
        skipped: Those without rows, those of ``source.skipped`` among them.
        **counts: What else is counted.
    """
    of_prompts = len(source.prompts) + len(source.skipped)
    return input_facts(file, source.sha256, of_prompts, skipped, **counts)


def input_facts(
    file: str, sha256: str, prompts: int, skipped: Sequence[Skipped], **counts: int
) -> Facts:
    """The same of an input that isn't in memory.

    Args:
        file: Where the prompts were read.
        sha256: Digest of its bytes, hex.
        prompts: How many there are, those without rows included.
        skipped: Those without rows.
        **counts: What else is counted.
    """
    return {
        "prompts": {"file": _file(file), "sha256": sha256},
        "counts": {"prompts": prompts, **counts, "skipped": len(skipped)},
        "skipped": [one.as_json() for one in skipped],
    }


def command() -> str:
    """The command line, as a shell takes it, without its secrets."""
    return shlex.join(["forwardcache", *(_SECRETS.sub("***", word) for word in WORDS.get())])


def versions() -> dict[str, str | None]:
    """What values may depend on; None for what isn't installed here."""
    return {
        "forwardcache": __version__,
        **{name: _version(name) for name in DECIDING_PACKAGES},
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


def _folder_of_tokenizer(given: str | None) -> Facts | None:
    """The folder of ``--tokenizer``; None where it is the model's or the adapter's own."""
    folder = tokenizer_folder(given)
    if folder is None or not Path(folder).is_dir():
        return None
    return _folder(folder, folder_fingerprint(Path(folder)))


def _file(given: str) -> str:
    """The file of the prompts, wherever the reader is; ``-`` is standard input."""
    return given if given == STDIN else str(Path(given).absolute())


def view_facts(view: View) -> Facts:
    """A view with its exact parameters: those of its kind, and others that were given."""
    own = ("seed", "matched") if view.matched else _PARAMETERS.get(view.kind, ())
    others = (each for each in fields(view) if each.name not in own and each.name != "kind")
    given = [each.name for each in others if getattr(view, each.name) != each.default]
    exact = {_SAID_AS.get(name, name): getattr(view, name) for name in (*own, *given)}
    return {"view": view.name, "kind": view.kind, **exact}


_PARAMETERS = {"scaled": ("lam",), "null": ("seed", "init_scale", "rank_scale")}
_KINDS = frozenset({"base", "ft", *_PARAMETERS})
_SAID_AS = {"lam": "lambda"}
_NAME_OF = {said: name for name, said in _SAID_AS.items()}


def view_of(facts: Mapping[str, Any]) -> View:
    """The view that these facts are of.

    Raises:
        InvalidInputError: they are of none that this version knows.
    """
    told = {_NAME_OF.get(name, name): value for name, value in facts.items() if name != "view"}
    try:
        view = View(**told)
        is_same = view.kind in _KINDS and view.name == facts["view"]
    except (TypeError, ValueError, KeyError):
        is_same = False
    if not is_same:
        raise InvalidInputError(
            f"no view of this version is called {shown(str(facts.get('view')))}"
        )
    return view


def seeds(views: Sequence[View]) -> Facts:
    """What chance there was: in the intervals, and in the views that are random adapters."""
    from forwardcache.statistics.resampling import SEED

    return {"intervals": SEED, **{view.name: view.seed for view in views if view.is_null}}


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
