"""Is it the same model, adapter and prompts; which rows are checked. Nothing is loaded yet."""

from __future__ import annotations

import math
import random
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, islice
from pathlib import Path

from forwardcache.errors import InvalidInputError
from forwardcache.jobs.kinds import STDIN, FileKind, check_kind
from forwardcache.jobs.metadata import meta_of
from forwardcache.jobs.options import ModelOptions
from forwardcache.jobs.other_models import OtherModel
from forwardcache.jobs.prompts import PROMPTS, TEXTS, Prompt, PromptSet, read_prompts
from forwardcache.jobs.verify.folders import loading_of, others_of
from forwardcache.jobs.verify.options import VerifyOptions
from forwardcache.jobs.verify.recorded import Recorded, read_recorded
from forwardcache.jobs.verify.table import Name, Table, read_table

_SEEDS = 2**32
_FLOOR_TEXTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is going to be checked.

    Attributes:
        recorded: What the run says of itself.
        loading: What is loaded, and how.
        source: The prompts that are scored again, in the input's order.
        floor_texts: What rounding is measured on: their texts, filled up with others.
        seed: What chose them.
        expected: Line and view of every row of the run, in order.
        table: The rows.
        notes: What can't be checked, a sentence each.
        prompts: How many prompts have rows.
        others: Other models, in the order of ``recorded.others``.
    """

    recorded: Recorded
    loading: ModelOptions
    source: PromptSet
    floor_texts: tuple[str, ...]
    seed: int
    expected: Sequence[Name]
    table: Table
    notes: tuple[str, ...]
    prompts: int
    others: tuple[OtherModel, ...] = ()


def planned(options: VerifyOptions) -> Plan:
    """What is going to be checked.

    Raises:
        InvalidInputError: the facts or the rows are none; the model, the adapter or the prompts
            are others or can't be found; or an option is out of range.
        OSError: a file can't be read.
    """
    if not 0.0 < options.share <= 1.0:
        raise InvalidInputError(f"--share {options.share}: a share of the rows, above 0 to 1")
    if meta_of(options.rows).is_file():
        # What an export is its facts say: its lines may look like those of prompts.
        read_recorded(options.rows)
    check_kind(options.rows, FileKind.ROWS, FileKind.DIFFERENCES, FileKind.TABLE)
    recorded = read_recorded(options.rows)
    notes: list[str] = []
    loading = loading_of(options, recorded, notes)
    models = others_of(options, recorded, notes)
    source = _prompts(options, recorded, notes)
    seed = secrets.randbelow(_SEEDS) if options.seed is None else options.seed
    chosen = _chosen(source.prompts, options.share, seed)
    lines = {prompt.line for prompt in chosen}
    table = read_table(options.rows, lines)
    names = [view.name for view in recorded.views]
    expected = [(prompt.line, name) for prompt in source.prompts for name in names]
    expected += [
        (prompt.line, other.view)
        for other in recorded.others
        for prompt in source.prompts
        if prompt.line not in other.skipped
    ]
    others = (prompt for prompt in source.prompts if prompt.line not in lines)
    return Plan(
        recorded=recorded,
        loading=loading,
        source=replace(source, prompts=chosen),
        floor_texts=_texts(chain(chosen, others)),
        seed=seed,
        expected=expected,
        table=table,
        notes=tuple(notes),
        prompts=len(source.prompts),
        others=models,
    )


def _texts(prompts: Iterable[Prompt]) -> tuple[str, ...]:
    """Some of the texts; of a prompt that is empty its completion."""
    texts = (prompt.text or prompt.completion or "" for prompt in prompts)
    return tuple(islice((text for text in texts if text.strip()), _FLOOR_TEXTS))


def _chosen(prompts: Sequence[Prompt], share: float, seed: int) -> tuple[Prompt, ...]:
    """A random share of the prompts, at least one, in their order; the same for the same seed."""
    count = max(1, math.ceil(share * len(prompts) - 1e-9))
    places = sorted(random.Random(seed).sample(range(len(prompts)), min(count, len(prompts))))
    return tuple(prompts[place] for place in places)


def _prompts(options: VerifyOptions, recorded: Recorded, notes: list[str]) -> PromptSet:
    path = options.prompts or recorded.prompts
    if path is None:
        raise InvalidInputError("nothing says which prompts the rows are of: give --prompts FILE")
    if options.prompts is None and path == STDIN:
        raise InvalidInputError(
            "the prompts of the rows came from standard input: give --prompts FILE with them"
        )
    # Nothing is read that a table names but plain files: a device or a pipe would have no end.
    if options.prompts is None and not (Path(path).is_file() or Path(path).is_dir()):
        raise InvalidInputError(
            f"there is no file {path}, the prompts of the rows; give --prompts FILE with the same "
            "contents elsewhere"
        )
    # A line of what diff compares may call it a text.
    words = PROMPTS if recorded.reference is None else TEXTS
    source = read_prompts(path, limit=recorded.limit, on_error="skip", words=words)
    if recorded.sha256 is None:
        notes.append(f"no digest of the prompts is recorded: {path} is taken for them")
    elif source.sha256 != recorded.sha256:
        raise InvalidInputError(
            f"the prompts in {source.name} are not those of the rows: digest "
            f"{source.sha256[:12]}…, recorded {recorded.sha256[:12]}…; give --prompts FILE with "
            "those that are"
        )
    left = tuple(each for each in source.prompts if each.line not in recorded.skipped)
    if not left:
        raise InvalidInputError(f"{source.name} holds no prompt that has rows")
    return replace(source, prompts=left)
