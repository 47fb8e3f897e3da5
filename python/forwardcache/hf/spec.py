"""Which view: its name in the trace and what it is in the key.

The name is short (two decimals of λ), so it never decides about a hit; ``ViewSpec.key_fields`` do,
with every parameter in full and every field length-tagged.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from forwardcache._null_scales import INIT_SCALE, RANK_SCALE
from forwardcache.errors import ViewParameterError

Kind = Literal["base", "ft", "scaled", "null"]

# torch.Generator.manual_seed takes what fits 64 bits, signed or not.
_SEED_MIN, _SEED_MAX = -(2**63), 2**64 - 1


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """One way to run the model.

    Attributes:
        kind: base, ft, scaled or null.
        lam: Factor on the adapter's current scaling (scaled), or on its norm (matched null).
        seed: Seed of the noise (null).
        init_scale: Standard deviation of the noise (null that isn't matched).
        rank_scale: Factor on the rank that the noise stands for (null that isn't matched).
        matched: Whether the noise has the trained adapter's norm in each module (null).
        adapter: The adapter's name; None for base, and where the only one has none. No part of the
            key, which holds what the adapter is.
    """

    kind: Kind
    lam: float = 1.0
    seed: int = 0
    init_scale: float = INIT_SCALE
    rank_scale: float = RANK_SCALE
    matched: bool = False
    adapter: str | None = None

    @property
    def view_id(self) -> str:
        """The name in the trace."""
        return self._word if self.adapter is None else f"{self._word}:{self.adapter}"

    @property
    def _word(self) -> str:
        if self.kind == "scaled":
            return f"scaled_{self.lam:.2f}"
        if self.matched:
            return f"null_{self.seed}_matched" + ("" if self.lam == 1.0 else f"_x{self.lam:.2f}")
        if self.kind == "null":
            rank = "" if self.rank_scale == RANK_SCALE else f"_rank{self.rank_scale:.2f}"
            return f"null_{self.seed}{rank}"
        return self.kind

    @property
    def key_fields(self) -> tuple[bytes, ...]:
        """Everything about the view that decides a value, exactly."""
        kind = self.kind.encode()
        if self.kind == "scaled":
            return kind, self.lam.hex().encode()
        if self.matched:
            return kind, b"matched", str(self.seed).encode(), self.lam.hex().encode()
        if self.kind == "null":
            scales = self.init_scale.hex(), self.rank_scale.hex()
            return kind, str(self.seed).encode(), *(scale.encode() for scale in scales)
        return (kind,)

    @property
    def noise_std(self) -> float:
        """Standard deviation of the noise of a null adapter that isn't matched."""
        return self.init_scale * math.sqrt(self.rank_scale)

    def canonical(self) -> ViewSpec:
        """The view that is run and keyed: λ=0 runs base and λ=1 runs ft, bit for bit.

        An adapter times 0 or 1 is the same model by definition, but computed another way it would
        differ from base or ft in the last digits, and be computed and stored twice.
        """
        if self.kind == "scaled" and self.lam == 0.0:
            return BASE
        if self.kind == "scaled" and self.lam == 1.0:
            return replace(FINETUNED, adapter=self.adapter)
        return self


BASE = ViewSpec("base")
FINETUNED = ViewSpec("ft")


def scaled(lam: float) -> ViewSpec:
    """The adapter times ``lam``; negative values are allowed, they turn the adapter around.

    Raises:
        ViewParameterError: ``lam`` is not a finite number.
    """
    return ViewSpec("scaled", lam=_finite("lam", lam))


def null(seed: int, init_scale: float, rank_scale: float) -> ViewSpec:
    """Noise in place of the adapter.

    Raises:
        ViewParameterError: ``seed`` is not an integer of 64 bits, ``init_scale`` is negative or not
            finite, or ``rank_scale`` is not positive and finite.
    """
    std = _finite("init_scale", init_scale)
    rank = _finite("rank_scale", rank_scale)
    if std < 0.0:
        raise ViewParameterError(f"init_scale must be 0 or more, got {init_scale!r}")
    if rank <= 0.0:
        raise ViewParameterError(f"rank_scale must be positive and finite, got {rank_scale!r}")
    return ViewSpec("null", seed=_seed(seed), init_scale=std, rank_scale=rank)


def matched_null(seed: int, lam: float = 1.0) -> ViewSpec:
    """Noise in place of the adapter, in each module of ``lam`` times the adapter's norm.

    Raises:
        ViewParameterError: ``seed`` is not an integer of 64 bits, or ``lam`` is negative or not
            finite.
    """
    factor = _finite("lam", lam)
    if factor < 0.0:
        raise ViewParameterError(f"lam of a matched null multiplies a norm: 0 or more, got {lam!r}")
    return ViewSpec("null", seed=_seed(seed), lam=factor + 0.0, matched=True)


def given_null(
    seed: int, init_scale: float, rank_scale: float, *, matched: bool, lam: float
) -> ViewSpec:
    """The null view of these parameters, of which some go with one kind only.

    Raises:
        ViewParameterError: as in ``null`` and ``matched_null``; or ``init_scale`` or ``rank_scale``
            of a matched null, or ``lam`` of another one, isn't the default.
    """
    if not matched:
        if lam != 1.0:
            raise ViewParameterError(
                f"lam multiplies the norm of a matched null; without matched=True got lam={lam!r}"
            )
        return null(seed, init_scale, rank_scale)
    scales = ("init_scale", init_scale, INIT_SCALE), ("rank_scale", rank_scale, RANK_SCALE)
    for name, value, default in scales:
        if value != default:
            raise ViewParameterError(
                f"a matched null has the adapter's norm, so {name} goes with matched=False only; "
                f"got {name}={value!r}"
            )
    return matched_null(seed, lam)


def named(text: str, adapters: Sequence[str] = ()) -> ViewSpec:
    """The view that a command line's word names (``scaled:0.5``), or a view's id (``null_7``).

    Args:
        text: The word or the id, with ``:NAME`` at its end where adapters have names.
        adapters: Their names; empty where the only one has none.

    Returns:
        The view; of which adapter it is, only if it says so.

    Raises:
        ViewParameterError: it names none, or a parameter is out of range.
    """
    word, _, name = text.rpartition(":")
    # Behind the colon of a word there may be a number; behind that of an id there is a name.
    is_id = word == "ft" or word.startswith(("scaled_", "null_"))
    is_named = name in adapters or (is_id and name[:7] != "matched")
    is_of_adapter = bool(adapters) and word != "base" and is_named
    spec = _unnamed(word if is_of_adapter else text, text)
    return replace(spec, adapter=name) if is_of_adapter else spec


def _unnamed(word: str, text: str) -> ViewSpec:
    """The view of ``word``, without an adapter's name; ``text`` is what was given."""
    kind, *parameters = re.sub("^(scaled|null)_", r"\1:", word).split(":")
    matched = re.fullmatch(r"null[:_](-?\d+)[:_]matched(?:_x(.+))?", word, re.ASCII)
    try:
        if matched is not None:
            return matched_null(int(matched[1]), float(matched[2] or 1.0))
        if kind in ("base", "ft") and not parameters:
            return BASE if kind == "base" else FINETUNED
        if kind == "scaled" and len(parameters) == 1:
            return scaled(float(parameters[0]) + 0.0)
        if kind == "null" and 1 <= len(parameters) <= 3:
            seed, _, rank = parameters[0].partition("_rank")
            scales = [*map(float, parameters[1:]), *([INIT_SCALE, float(rank)] if rank else [])]
            init_scale, rank_scale = [*scales, *(INIT_SCALE, RANK_SCALE)[len(scales) :]]
            return null(int(seed), init_scale, rank_scale)
    except ValueError as error:
        if isinstance(error, ViewParameterError):
            raise
    raise ViewParameterError(
        f"unknown view {text!r}; views are base, ft, scaled:LAMBDA, "
        "null:SEED[:INIT_SCALE[:RANK_SCALE]], null:SEED:matched; all but base with :NAME behind "
        "where adapters have names"
    )


def _finite(name: str, value: float) -> float:
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if not math.isfinite(number) or isinstance(value, str):
        raise ViewParameterError(f"{name} must be a finite number, got {value!r}")
    return number


def _seed(value: int) -> int:
    try:
        seed = operator.index(value)
    except TypeError:
        raise ViewParameterError(f"seed must be an integer, got {value!r}") from None
    if not _SEED_MIN <= seed <= _SEED_MAX:
        raise ViewParameterError(f"seed must fit 64 bits, got {value!r}")
    return seed


def tagged(fields: Iterable[bytes]) -> bytes:
    """``fields`` as one byte string from which they could be read back.

    Without the lengths, two lists could differ only in where one field ends and the next begins.
    """
    return b"".join(len(field).to_bytes(8, "big") + field for field in fields)
