"""``--views base,ft,scaled:0.5,null:7``: names into views of a backend."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any

from forwardcache._null_scales import INIT_SCALE, RANK_SCALE
from forwardcache.adapter_names import adapter_of
from forwardcache.errors import InvalidInputError
from forwardcache.jobs.reasons import shown

KINDS = (
    "base, ft, scaled:LAMBDA, null:SEED[:INIT_SCALE[:RANK_SCALE]], null:SEED:matched; all but base "
    "with :NAME behind where adapters have names"
)


@dataclass(frozen=True, slots=True)
class View:
    """One view as asked for on the command line.

    Attributes:
        kind: base, ft, scaled or null.
        lam: Factor on the adapter (scaled), or on its norm (matched null).
        seed: Seed of the noise (null).
        init_scale: Standard deviation of the noise (null that isn't matched).
        rank_scale: Factor on the rank the noise stands for (null that isn't matched).
        matched: Whether the noise has the adapter's norm in each module (null).
        adapter: The adapter's name; None for base, and where the only one has none.
    """

    kind: str
    lam: float = 1.0
    seed: int = 0
    init_scale: float = INIT_SCALE
    rank_scale: float = RANK_SCALE
    matched: bool = False
    adapter: str | None = None

    @property
    def name(self) -> str:
        """The name in the rows: the trace's view id where that is exact, in full where it isn't.

        The trace calls λ = 1.001 and λ = 0.996 both ``scaled_1.00``; rows must tell them apart.
        """
        return self._word if self.adapter is None else f"{self._word}:{self.adapter}"

    @property
    def _word(self) -> str:
        if self.kind == "scaled":
            return f"scaled_{_number(self.lam)}"
        if self.matched:
            norm = "" if self.lam == 1.0 else f"_x{_number(self.lam)}"
            return f"null_{self.seed}_matched{norm}"
        if self.kind == "null":
            noise = "" if self.init_scale == INIT_SCALE else f"_init{self.init_scale!r}"
            rank = "" if self.rank_scale == RANK_SCALE else f"_rank{_number(self.rank_scale)}"
            return f"null_{self.seed}{noise}{rank}"
        return self.kind

    @property
    def is_null(self) -> bool:
        """Whether the view is a random adapter."""
        return self.kind == "null"

    @property
    def is_whole_adapter(self) -> bool:
        """Whether the view is the adapter at its full strength."""
        return self.kind == "ft" or (self.kind == "scaled" and self.lam == 1.0)

    @property
    def deviation(self) -> float:
        """Standard deviation of a null view's noise; NaN where it has the adapter's norm."""
        if self.matched:
            return math.nan
        return self.init_scale * math.sqrt(self.rank_scale)

    def of(self, backend: Any) -> AbstractContextManager[Any]:
        """The context manager that gives this view of ``backend``."""
        if self.kind == "base":
            return _entered(backend.as_base)
        # A backend whose only adapter has no name need not know of names.
        which = {} if self.adapter is None else {"adapter": self.adapter}
        if self.kind == "ft":
            return _entered(backend.as_finetuned, **which)
        if self.kind == "scaled":
            return _entered(backend.as_scaled_adapter, self.lam, **which)
        if self.matched:
            scales: dict[str, Any] = {"matched": True, "lam": self.lam}
        else:
            scales = {"init_scale": self.init_scale, "rank_scale": self.rank_scale}
        return _entered(backend.as_null_adapter, self.seed, **scales, **which)


def _entered(method: Callable[..., Any], *args: Any, **kwargs: Any) -> AbstractContextManager[Any]:
    context: AbstractContextManager[Any] = method(*args, **kwargs)
    return context


def _number(value: float) -> str:
    """Two decimals where they say it exactly, else every digit."""
    short = f"{value:.2f}"
    return short if float(short) == value else repr(value)


def parse_views(text: str, *, has_adapter: bool, adapters: Sequence[str] = ()) -> tuple[View, ...]:
    """The views named in ``text``, in its order.

    Args:
        text: Comma-separated.
        has_adapter: Whether there is any adapter.
        adapters: The adapters' names; empty where the only one has none.

    Raises:
        InvalidInputError: a name or a parameter is unknown, a view stands twice, or a view needs
            an adapter and there is none, or several.
    """
    views = tuple(parse_view(name.strip(), adapters) for name in text.split(","))
    for position, view in enumerate(views):
        if view in views[:position]:
            raise InvalidInputError(f"--views names {view.name} twice")
    needing = [view.name for view in views if view.kind != "base"]
    if needing and not has_adapter:
        raise InvalidInputError(f"view {needing[0]} needs an adapter: give --adapter DIR")
    return views


def parse_view(text: str, adapters: Sequence[str] = ()) -> View:
    """The view named by ``text``.

    Args:
        text: One view.
        adapters: As of ``parse_views``.

    Raises:
        InvalidInputError: the name or a parameter is unknown, or which of several adapters is
            meant.
    """
    kind, *parameters = text.split(":")
    if kind == "base" and not parameters:
        return View(kind)
    own, name = _adapter_apart(kind, parameters, adapters, text)
    view = _parsed(kind, own, text)
    return replace(view, adapter=adapter_of(name, adapters, view=shown(text)))


def _adapter_apart(
    kind: str, parameters: list[str], adapters: Sequence[str], text: str
) -> tuple[list[str], str | None]:
    """The parameters without the adapter's name at their end, and that."""
    own = {"ft": 0, "scaled": 1}.get(kind)
    if kind == "null" and parameters[1:2] == ["matched"] and adapters:
        own = 2
    if own is not None and len(parameters) == own + 1 and parameters[-1] != "matched":
        return parameters[:-1], parameters[-1]
    if kind == "null" and len(parameters) > 1 and parameters[-1] in adapters:
        if len(parameters) < 4 and _is_number(name := parameters[-1]):
            raise InvalidInputError(
                f"view {shown(text)}: {shown(name)} may be a scale or the adapter; for the adapter "
                "give both scales before it"
            )
        return parameters[:-1], parameters[-1]
    return parameters, None


def _parsed(kind: str, parameters: Sequence[str], text: str) -> View:
    """The view, but for its adapter."""
    if kind == "ft" and not parameters:
        return View(kind)
    if kind == "scaled" and len(parameters) == 1:
        # Adding zero makes the -0.0 of "scaled:-0" the 0.0 it equals.
        return View("scaled", lam=_finite(parameters[0], "lambda", text) + 0.0)
    if kind == "null" and parameters[1:] == ["matched"]:
        return View("null", seed=_seed(parameters[0], text), matched=True)
    if kind == "null" and 1 <= len(parameters) <= 3:
        return _parse_null(parameters, text)
    raise InvalidInputError(f"unknown view {shown(text)}; views are {KINDS}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _parse_null(parameters: Sequence[str], text: str) -> View:
    seed, *scales = parameters
    named = zip(("init_scale", "rank_scale"), scales, strict=False)
    values = {name: _finite(scale, name, text) for name, scale in named}
    if any(value <= 0.0 for value in values.values()):
        raise InvalidInputError(f"view {shown(text)}: scales must be positive")
    scale, rank = values.get("init_scale", INIT_SCALE), values.get("rank_scale", RANK_SCALE)
    return View("null", seed=_seed(seed, text), init_scale=scale, rank_scale=rank)


def _seed(number: str, text: str) -> int:
    # The length first: Python refuses to read thousands of digits.
    digits = number.lstrip("0") or number[-1:]
    if number.isascii() and number.isdigit() and len(digits) <= 19 and int(digits) < 2**63:
        return int(digits)
    raise InvalidInputError(
        f"view {shown(text)}: the seed {shown(number)} is not a whole number below 2^63"
    )


def _finite(number: str, name: str, text: str) -> float:
    try:
        value = float(number)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise InvalidInputError(
            f"view {shown(text)}: {name} {shown(number)} is not a finite number"
        )
    return value
