"""The positions of one view over many texts, as flat arrays.

What is summarised are positions that count; each knows its distinct text, since texts are what
intervals resample, the item of the input that it came from, since groups are of items, and how many
tokens it has read.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from forwardcache.errors import InvalidInputError
from forwardcache.scoring import PositionDifferences
from forwardcache.statistics.totals import (
    MOST_CLUSTERS,
    Float64s,
    Totals,
    cluster_of_text,
    sums_by,
)

_VALUES = {
    **dict.fromkeys(("kl", "kl_reverse", "js"), np.float64),
    **dict.fromkeys(("logprob_reference", "logprob", "entropy_reference"), np.float32),
    **{"same_top": np.bool_, "top_k_agreement": np.float32},
}
_NUMBERS = {"text": np.intp, "item": np.intp, "place": np.intp}


@dataclass(frozen=True, eq=False, kw_only=True)
class Positions:
    """One entry a position that counts; all arrays are of one length n.

    Attributes:
        names: What each distinct text is told by, any hashable; texts of one name count as one.
        text: intp[n], number of the position's text in ``names``.
        item: intp[n], number of the position's item in the input, from 0.
        place: intp[n], tokens of the text that stand before the predicted one, from 1.
        kl: float64[n], nats, as in ``PositionDifferences``; so are those that follow.
        kl_reverse: float64[n], nats.
        js: float64[n], nats.
        logprob_reference: float32[n], nats.
        logprob: float32[n], nats.
        entropy_reference: float32[n], nats.
        same_top: bool[n].
        top_k_agreement: float32[n], a share.
        left_out: Positions that counted and were left out because one of their values is no number.

    Raises:
        InvalidInputError: arrays of different lengths, a value that is no number, a text beyond
            ``names``, an item below 0 or a place below 1.
    """

    names: Sequence[Hashable]
    text: NDArray[np.intp]
    item: NDArray[np.intp]
    place: NDArray[np.intp]
    kl: Float64s
    kl_reverse: Float64s
    js: Float64s
    logprob_reference: NDArray[np.float32]
    logprob: NDArray[np.float32]
    entropy_reference: NDArray[np.float32]
    same_top: NDArray[np.bool_]
    top_k_agreement: NDArray[np.float32]
    left_out: int = field(default=0)

    def __post_init__(self) -> None:
        for name, dtype in {**_NUMBERS, **_VALUES}.items():
            array: NDArray[Any] = np.asarray(getattr(self, name), dtype=dtype)
            if array.shape != (len(self.text),):
                raise InvalidInputError(
                    f"{name} is of shape {array.shape}, need one entry for each of the "
                    f"{len(self.text)} positions"
                )
            if array.dtype.kind == "f" and np.isnan(array).any():
                raise InvalidInputError(f"{name} has an entry that is no number")
            object.__setattr__(self, name, array)
        if len(self.text) and (self.item.min() < 0 or self.place.min() < 1):
            raise InvalidInputError(
                f"items from {self.item.min()} and places from {self.place.min()}, allowed are "
                "0 and 1 or more"
            )
        if len(self.text) and not 0 <= self.text.min() <= self.text.max() < len(self.names):
            raise InvalidInputError(
                f"texts {self.text.min()} to {self.text.max()}, allowed are those of "
                f"{len(self.names)} names, from 0"
            )

    @classmethod
    def of(cls, items: Sequence[PositionDifferences], *, skip_first: int = 0) -> Positions:
        """The positions of ``items`` that count.

        Args:
            items: One an item of the input, in its order. Items of the same tokens are one text.
            skip_first: Of each item, how many of its first positions are left out.

        Raises:
            InvalidInputError: ``skip_first`` is negative.
        """
        if skip_first < 0:
            raise InvalidInputError(f"skip_first is {skip_first}, allowed is 0 or more")
        number_of: dict[Hashable, int] = {}
        texts = [number_of.setdefault(one.token_ids.tobytes(), len(number_of)) for one in items]
        lengths = [len(one.kl) for one in items]
        place = _joined([np.arange(1, length + 1) for length in lengths], np.intp)
        found: dict[str, Any] = {
            "text": np.repeat(np.array(texts, dtype=np.intp), lengths),
            "item": np.repeat(np.arange(len(items)), lengths),
            "place": place,
            **{name: _joined([getattr(one, name) for one in items], dtype)
               for name, dtype in _VALUES.items()},
        }  # fmt: skip
        counts = _joined([one.counts for one in items], np.bool_) & (place > skip_first)
        is_number = ~np.any([np.isnan(found[name]) for name in _VALUES], axis=0)
        kept = np.flatnonzero(counts & is_number)
        return cls(
            names=tuple(number_of),
            left_out=int(np.sum(counts & ~is_number)),
            **{name: array[kept] for name, array in found.items()},
        )

    def __len__(self) -> int:
        return len(self.text)

    @property
    def texts(self) -> int:
        """Distinct texts that have a position here."""
        return int(np.count_nonzero(np.bincount(self.text)))

    @property
    def delta_p(self) -> Float64s:
        """float64[n]: the change of probability of the token that follows, Q - P."""
        return np.exp(self.logprob, dtype=np.float64) - np.exp(
            self.logprob_reference, dtype=np.float64
        )

    @property
    def delta_logprob(self) -> Float64s:
        """float64[n], nats: log Q - log P of the token that follows."""
        # Both -inf: the token can follow in neither, and no difference can be told.
        with np.errstate(invalid="ignore"):
            return np.subtract(self.logprob, self.logprob_reference, dtype=np.float64)

    def parted(self, number: NDArray[np.integer[Any]], parts: int) -> list[Positions]:
        """The positions of each part, with the same numbers of texts.

        Args:
            number: int[n], the part of each position, from 0.
            parts: How many there are; one may have no position.
        """
        # One gather for all parts, whose arrays are then slices; a few bytes sort by radix.
        order = np.argsort(number.astype(np.uint8 if parts < 256 else np.intp), kind="stable")
        ends = np.cumsum(np.bincount(number, minlength=parts))[:-1]
        found: dict[str, Any] = {
            name: np.split(getattr(self, name)[order], ends) for name in (*_NUMBERS, *_VALUES)
        }
        return [
            Positions(**{"names": self.names, **{name: each[part] for name, each in found.items()}})
            for part in range(parts)
        ]

    def of_items(self, is_kept: NDArray[np.bool_]) -> Positions:
        """The positions of some items, with only the texts that these have.

        Args:
            is_kept: bool[items], by number of the item.
        """
        at = np.flatnonzero(is_kept[self.item])
        found: dict[str, Any] = {name: getattr(self, name)[at] for name in (*_NUMBERS, *_VALUES)}
        return Positions(**{"names": self.names, **found}).of_present_texts()

    def of_present_texts(self) -> Positions:
        """The same positions without the names of texts that none is in."""
        present, text = np.unique(self.text, return_inverse=True)
        arrays: dict[str, Any] = {name: getattr(self, name) for name in (*_NUMBERS, *_VALUES)}
        names = [self.names[int(number)] for number in present]
        return Positions(**{**arrays, "names": names, "text": text}, left_out=self.left_out)

    def means_by_text(self, values: NDArray[Any]) -> dict[Hashable, tuple[float, int]]:
        """By name of a text: the mean of its values, and how many they are.

        Args:
            values: [n].
        """
        most = len(self.names)
        counts = np.bincount(self.text, minlength=most)
        sums = sums_by(self.text, values, most)
        return {
            name: (float(total / count), int(count))
            for name, total, count in zip(self.names, sums, counts, strict=True)
            if count
        }

    def totals(self, *values: NDArray[Any]) -> list[Totals]:
        """The totals of figures of the positions, over at most ``MOST_CLUSTERS`` clusters of texts.

        Args:
            *values: [n] each. The totals share their counts, and so the work of resampling them.
        """
        cluster = cluster_of_text(len(self.names))
        most = min(len(self.names), MOST_CLUSTERS)
        of_position = self.text if most == len(self.names) else cluster[self.text]
        counts = np.bincount(of_position, minlength=most).astype(np.float64)
        texts = self.texts
        return [Totals(sums_by(of_position, each, most), counts, texts) for each in values]


def _joined(arrays: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
    return np.concatenate([np.empty(0, dtype), *arrays]).astype(dtype, copy=False)
