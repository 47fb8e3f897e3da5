"""What a run says of itself, with its types checked: the facts may be anybody's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from forwardcache.adapter_names import check_names
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.facts import read_facts
from forwardcache.jobs.metadata import COMPARE, meta_of, view_of
from forwardcache.jobs.reasons import shown
from forwardcache.jobs.results import TEMPLATE
from forwardcache.jobs.rows import ROW_FORMAT
from forwardcache.jobs.verify.others import RecordedOther, recorded_others
from forwardcache.jobs.views import View
from forwardcache.operations import of_prompts

# How a text becomes tokens; what an earlier version didn't know wasn't done.
_TEXT_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "chat_template": (bool,),
    "chat_template_args": (dict, type(None)),
    "special_tokens": (bool,),
    "add_bos_token": (bool, type(None)),
    "prefix_token": (str, type(None)),
    "windows": (bool,),
    "tokenizer": (str, type(None)),
    "token_budget": (int, type(None)),
    "keep": (str,),
}


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that the run read.

    Attributes:
        path: Where it was; of a model from the hub its name.
        digest: Of its contents; None where it was none.
    """

    path: str
    digest: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Recorded:
    """What a run says of itself.

    Attributes:
        where: What to call the facts in a message.
        op: The scoring operation, or ``COMPARE``.
        reference: What views are held against in rows of ``diff``; None in those of ``score``.
        views: In the order of a prompt's rows.
        model: Its folder; None where that isn't said.
        adapter: Its folder; None without one, or where that isn't said.
        adapters: Folders of adapters by their names; empty where the only one has none.
        tokenizer: The folder of a tokenizer apart from both; None without one.
        text_options: Fields of ``ModelOptions``, by name.
        top_k: Tokens in a row of ``next_token_dist``.
        limit: How many lines of the prompts were read; None for all.
        prompts: The file, ``-`` for standard input; None where that isn't said.
        sha256: Digest of its bytes, hex; None where that isn't said.
        skipped: Lines without rows.
        rows: How many rows there are to be.
        template: Digest of what the chat template wrote; None without one.
        arithmetic: Dtype, device, kernels and threads.
        versions: By package.
        floor: Mean of abs(difference in log-probability) that rounding makes, nats; None where it
            wasn't measured.
        others: Other models that it has rows of; their rows stand behind those of ``views``.
        unchecked: Names of facts that decide no row, so that nothing is held against them.
    """

    where: str
    op: str
    reference: View | None
    views: tuple[View, ...]
    model: Folder | None
    adapter: Folder | None
    adapters: Mapping[str, Folder]
    tokenizer: Folder | None
    text_options: Mapping[str, Any]
    top_k: int
    limit: int | None
    prompts: str | None
    sha256: str | None
    skipped: frozenset[int]
    rows: int
    template: str | None
    arithmetic: Mapping[str, Any]
    versions: Mapping[str, Any]
    floor: float | None
    others: tuple[RecordedOther, ...]
    unchecked: tuple[str, ...]


def read_recorded(rows: Path) -> Recorded:
    """What the run that made ``rows`` says of itself.

    Raises:
        InvalidInputError: it says nothing, or what it says can't be.
        OSError: it can't be read.
    """
    facts = read_facts(rows)
    if facts is None:
        raise InvalidInputError(
            f"nothing says how {rows} was made: there is no {meta_of(rows).name} next to it, which "
            "has the op, the views and the options; it can't be checked without (rows that "
            "score --out writes have it)"
        )
    return _Reader(facts, f"the facts of {rows}").recorded()


class _Reader:
    """Takes facts apart; what isn't as it has to be is refused by its name."""

    def __init__(self, facts: Mapping[str, Any], where: str) -> None:
        self._facts, self._where = facts, where

    def recorded(self) -> Recorded:
        options = self._of("options", (dict,))
        if "export" in options:
            raise InvalidInputError(
                f"{self._where}: it is an export, which isn't verified (rows of score and diff "
                "are): the same command again gives the same rows to compare"
            )
        is_diff = self._facts.get("op") == COMPARE
        form = None if is_diff else self._in(options, "options", "row format", (int,))
        if not is_diff and form != ROW_FORMAT:
            raise InvalidInputError(
                f"{self._where}: its rows are of format {form}, and this version of forwardcache "
                f"has format {ROW_FORMAT}: check them with the version that made them"
            )
        prompts = self._facts.get("prompts") and self._of("prompts", (dict,))
        return Recorded(
            where=self._where,
            op=COMPARE if is_diff else self._op(),
            reference=view_of(self._of("reference", (dict,))) if is_diff else None,
            views=self._views(),
            model=self._folder("model"),
            adapter=self._folder("adapter"),
            adapters=self._adapters(),
            tokenizer=self._folder("tokenizer"),
            text_options={
                name: self._in(options, "options", name, kinds)
                for name, kinds in _TEXT_OPTIONS.items()
                if name in options
            },
            top_k=0 if is_diff else self._in(options, "options", "top_k", (int,)),
            limit=self._in(options, "options", "limit", (int, type(None))),
            prompts=prompts and self._in(prompts, "prompts", "file", (str,)),
            sha256=prompts and self._in(prompts, "prompts", "sha256", (str,)),
            skipped=self._skipped(),
            rows=self._in(self._of("counts", (dict,)), "counts", "rows", (int,)),
            template=options.get(TEMPLATE),
            arithmetic={"dtype": self._of("dtype", (str,)), "device": self._of("device", (str,)),
                        **{name: self._facts.get(name)
                           for name in ("gpu", "cpu_capability", "attention")}},
            versions=self._of("versions", (dict,)),
            floor=self._floor(),
            others=recorded_others(self._facts, self._where),
            unchecked=self._unchecked(),
        )  # fmt: skip

    def _of(self, name: str, kinds: tuple[type, ...]) -> Any:
        return self._in(self._facts, "", name, kinds)

    def _in(self, facts: Mapping[str, Any], outer: str, name: str, kinds: tuple[type, ...]) -> Any:
        told = f"{outer}.{name}".strip(".")
        if name not in facts:
            raise InvalidInputError(
                f"{self._where} have no {told!r}: they are of an earlier version, or not whole"
            )
        value = facts[name]
        is_kind = isinstance(value, kinds) and not (isinstance(value, bool) and bool not in kinds)
        if not is_kind:
            allowed = " or ".join("null" if kind is type(None) else _KIND[kind] for kind in kinds)
            raise InvalidInputError(
                f"{self._where}: {told!r} is {shown(repr(value))}, and has to be {allowed}"
            )
        return value

    def _op(self) -> str:
        op: str = self._of("op", (str,))
        if op not in of_prompts():
            raise InvalidInputError(
                f"{self._where}: 'op' is {shown(op)}; there are {', '.join(of_prompts())}"
            )
        return op

    def _views(self) -> tuple[View, ...]:
        views = self._of("views", (list,))
        has_rows = views or self._facts.get("others")
        if not has_rows or not all(isinstance(each, dict) for each in views):
            raise InvalidInputError(f"{self._where}: 'views' has to be a list of views")
        return tuple(map(view_of, views))

    def _folder(self, name: str) -> Folder | None:
        if self._facts.get(name) is None:
            return None
        found = self._of(name, (dict,))
        path = self._in(found, name, "folder", (str,))
        return Folder(path, self._in(found, name, "digest", (str, type(None))))

    def _adapters(self) -> dict[str, Folder]:
        if self._facts.get("adapters") is None:
            return {}
        found: dict[str, Folder] = {}
        for each in self._of("adapters", (list,)):
            if not isinstance(each, dict):
                raise InvalidInputError(f"{self._where}: 'adapters' has to be a list of adapters")
            name = self._in(each, "adapters", "name", (str,))
            check_names([*found, name])
            path = self._in(each, "adapters", "folder", (str,))
            found[name] = Folder(path, self._in(each, "adapters", "digest", (str, type(None))))
        return found

    def _skipped(self) -> frozenset[int]:
        lines = [
            each.get("line") for each in self._of("skipped", (list,)) if isinstance(each, dict)
        ]
        return frozenset(line for line in lines if isinstance(line, int))

    def _floor(self) -> float | None:
        floor = self._facts.get("floor")
        nats = floor.get("mean_abs_delta_logprob") if isinstance(floor, dict) else None
        is_one = isinstance(nats, float) and math.isfinite(nats) and nats >= 0.0
        return nats if is_one else None

    def _unchecked(self) -> tuple[str, ...]:
        counts = (f"counts.{name}" for name in self._facts["counts"] if name != "rows")
        others = (
            name for name, value in self._facts.items() if name not in _USED and value is not None
        )
        return (*others, *counts)


# All else that stands there says nothing of which rows there should be.
_USED = frozenset({
    "versions", "model", "adapter", "tokenizer", "dtype", "device", "gpu", "cpu_capability",
    "attention", "token_budget", "op", "reference", "views", "options", "prompts", "counts",
    "skipped", "others", "adapters",
})  # fmt: skip
_KIND = {bool: "true or false", dict: "an object", str: "a text", int: "a whole number",
         list: "a list"}  # fmt: skip
